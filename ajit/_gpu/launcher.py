"""Launchers: what a `Kernel` has prepared, so that a launch is a look-up and one packing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ajit._gpu import wire
from ajit._gpu.capturing import refuse_to_submit
from ajit._gpu.completion.state import TicketState
from ajit._gpu.launch import Signature
from ajit._gpu.operand import mark_used
from ajit._gpu.shape import LaunchAttributes, ShapeLimits, pack_shape
from ajit._gpu.stream import stream_target

if TYPE_CHECKING:
    from ajit._core.spec import EntryPoint
    from ajit._gpu.completion.ticket import Ticket
    from ajit._gpu.loaded_code import LoadedCode
    from ajit._gpu.shape import Dimensions

__all__ = ["Launcher", "PackedLaunch"]

_SHAPES_KEPT = 64
"""Checked shapes that a kernel remembers. Pretty arbitrary: servers use a handful."""


class Launcher:
    """How one kernel is launched.

    Attributes:
        code: What the kernel is in.
        port: Of the loop that loaded it.
        numbers: Of tickets.
        signature: Packs its arguments.
        shapes: Packed shapes that were checked, by grid, block and dynamic shared memory.
    """

    __slots__ = ("_attributes", "_limits", "code", "numbers", "port", "shapes", "signature")

    def __init__(
        self,
        code: LoadedCode,
        entry: EntryPoint,
        address: int,
        attributes: LaunchAttributes,
    ) -> None:
        """Prepare.

        Args:
            code: What the kernel is in.
            entry: The entry point.
            address: Of the executor's record of the function.
            attributes: Of each launch.
        """
        function = wire.Function.from_address(address)
        thread = code.port.thread
        table = function.param_offsets
        sizes = [(table[2 * i], table[2 * i + 1]) for i in range(function.param_count)]
        self.code, self.port, self.numbers = code, code.port, thread.numbers
        self.signature = Signature(entry.name, entry.params, address, sizes, thread)
        self.shapes: dict[Any, bytes] = {}
        self._limits = ShapeLimits(
            thread.info, function.max_threads, function.max_dynamic_shared_bytes
        )
        self._attributes = attributes

    def with_attributes(self, attributes: LaunchAttributes) -> Launcher:
        """Return one for the same kernel, launched with other attributes."""
        other: Launcher = object.__new__(Launcher)
        for name in ("_limits", "code", "numbers", "port", "signature"):
            setattr(other, name, getattr(self, name))
        other.shapes, other._attributes = {}, attributes
        return other

    def new_shape(self, grid: Dimensions, block: Dimensions, shared_bytes: int) -> bytes:
        """Check, pack and keep a shape.

        Raises:
            LaunchError: The device cannot run it.
        """
        operation = self.signature.operation
        asked = (grid, block, shared_bytes)
        shape = pack_shape(operation, asked, self._limits, self._attributes)
        if isinstance(grid, int | tuple) and isinstance(block, int | tuple):
            if len(self.shapes) >= _SHAPES_KEPT:
                self.shapes.clear()
            self.shapes[asked] = shape
        return shape

    def check_launch(self) -> None:
        """Raise if it cannot be launched now: closed, unloaded, or in a block that captures."""
        if self.code.unloaded:
            raise self.code.unloaded_error()
        refuse_to_submit(self.signature.operation)

    def operation(
        self, grid: Dimensions, block: Dimensions, args: tuple[Any, ...], shared_bytes: int
    ) -> bytes:
        """Return a launch as one operation of a batch. Raises what `Kernel.launch` does."""
        try:
            shape = self.shapes[grid, block, shared_bytes]
        except (KeyError, TypeError):  # new, or a list
            shape = self.new_shape(grid, block, shared_bytes)
        if self.code.unloaded:
            raise self.code.unloaded_error()
        return self.signature.pack_operation(shape, args)

    def launch_in(
        self,
        stream: object,
        timeout: float | None,
        shape: bytes,
        args: tuple[Any, ...],
        *,
        timed: bool,
        keep: object,
    ) -> Ticket[None]:
        """Submit a launch to a stream, with a timeout, or timed; see `Kernel.launch`."""
        port, signature = self.port, self.signature
        state: TicketState[None] = TicketState(
            next(self.numbers), signature.operation, (keep, args, stream)
        )
        state.stream = stream
        handle, lane = stream_target(stream, port.thread)
        how = lane + wire.TIME if timed else lane
        where = (port.handle, state.number, handle, state.due_in(timeout), how)
        submission = signature.pack(where, shape, args)
        mark_used(args, lane)
        return port.submit(submission, state)


class PackedLaunch:
    """A launch that was checked and packed, see `Kernel.bind`.

    Attributes:
        operation: Its bytes.
        gone: `DeviceThread.gone` when it was checked.
    """

    __slots__ = ("gone", "operation")

    def __init__(self, operation: bytes, gone: int) -> None:
        self.operation, self.gone = operation, gone
