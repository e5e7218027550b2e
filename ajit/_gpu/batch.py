"""Batches: many operations, one submission, one ticket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from ajit._core.factory import FactoryMade
from ajit._gpu import wire
from ajit._gpu.capturing import refuse_to_submit
from ajit._gpu.completion.state import BatchSteps, TicketState
from ajit._gpu.configured import ConfiguredKernel
from ajit._gpu.inner import inner
from ajit._gpu.kernel import BoundLaunch, Kernel
from ajit._gpu.operand import (
    copies_operation,
    copy_operation,
    fill_operation,
    is_freed,
    mark_used,
    ranges_operation,
)
from ajit._gpu.stream import stream_target
from ajit.errors import ArgumentError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from ajit._gpu.completion.port import CompletionPort
    from ajit._gpu.completion.ticket import Ticket
    from ajit._gpu.shape import Dimensions

__all__ = ["Batch", "Operations"]


class Operations:
    """Operations for the device, collected. The base of `Batch` and `Graph`.

    Arguments are checked when an operation is added; each `add_*` returns its index, for
    ``ticket.at(index)``. Not for several threads at once.
    """

    __slots__ = ("_gone", "_keep", "_operations", "_over", "_port")

    def __init__(self, port: CompletionPort) -> None:
        self._port = port
        self._over = ""  # why nothing can be added any more
        self._operations: list[bytes] = []
        # What the operations use: (kernel or None, buffers and other arguments).
        self._keep: list[tuple[Kernel | None, tuple[Any, ...]]] = []
        self._gone = port.thread.gone  # of the operation that was checked first

    @overload
    def add_launch(
        self,
        kernel: Kernel,
        grid: Dimensions,
        block: Dimensions,
        /,
        *args: Any,
        shared_bytes: int = 0,
    ) -> int: ...

    @overload
    def add_launch(self, kernel: ConfiguredKernel, /, *args: Any, shared_bytes: int = 0) -> int: ...

    def add_launch(self, kernel: Any, /, *args: Any, shared_bytes: int = 0) -> int:
        """Add a launch: ``add_launch(kernel, grid, block, x)`` or ``(kernel[grid, block], x)``.

        Takes and checks what `Kernel.launch` does.

        Raises:
            TypeError: It is no kernel, or grid and block are missing.
        """
        if isinstance(kernel, ConfiguredKernel):
            return self._add_launch(kernel.kernel, kernel.grid, kernel.block, args, shared_bytes)
        if not isinstance(kernel, Kernel):
            raise TypeError(f"expected a kernel, got {type(kernel).__name__}")
        if len(args) < 2:
            raise TypeError("add_launch takes a kernel, grid, block, and the kernel's arguments")
        grid, block, *rest = args
        return self._add_launch(kernel, grid, block, tuple(rest), shared_bytes)

    def _add_launch(
        self,
        kernel: Kernel,
        grid: Dimensions,
        block: Dimensions,
        args: tuple[Any, ...],
        shared_bytes: int,
    ) -> int:
        launcher = inner(kernel)
        self._check_device(launcher.port.thread, kernel)
        return self._append(launcher.operation(grid, block, args, shared_bytes), kernel, args)

    def add_bound(self, bound: BoundLaunch) -> int:
        """Add a launch that is packed already, see `Kernel.bind`. Checked by `submit`."""
        if not isinstance(bound, BoundLaunch):
            raise TypeError(f"expected what kernel.bind returns, got {type(bound).__name__}")
        self._check_device(inner(bound.kernel).port.thread, bound)
        packed = inner(bound)
        self._gone = min(self._gone, packed.gone)
        return self._append(packed.operation, bound.kernel, bound.args)

    def add_copy(self, target: Any, source: Any) -> int:
        """Add a copy in any direction; takes and checks what `Device.copy` does."""
        operation, keep = copy_operation(target, source, self._port.thread, 0)
        return self._append(operation, None, keep)

    def add_copies(self, pairs: Iterable[tuple[Any, Any]]) -> int:
        """Add many copies as one operation: the driver may do them in any order, and at once.

        Args:
            pairs: Target and source of each, as `add_copy` takes them. No target may overlap
                anything else of the same operation.
        """
        operation, keep = copies_operation(pairs, self._port.thread, 0)
        return self._append(operation, None, keep)

    def add_copy_ranges(
        self,
        target: Any,
        source: Any,
        *,
        target_offsets: Any,
        source_offsets: Any,
        sizes: Any,
    ) -> int:
        """Add the copies of many ranges as one operation, described by tables.

        Nothing is done for each range in Python: thousands cost a fraction of a millisecond.
        Ranges that are neighbours on both sides become one copy. The tables are copied.

        Args:
            target: As `add_copy` takes it; its size and type may be others than the source's.
            source: The same.
            target_offsets: Where each range begins in the target, in bytes: contiguous memory on
                the host of int32, int64, uint32 or uint64, or a list, or one number for all.
            source_offsets: Where it begins in the source; the same.
            sizes: Its bytes; the same.

        Raises:
            ArgumentError: The tables are not equally long, a range is outside of its memory, or two
                overlap in the target; nothing was added.
        """
        tables = (target_offsets, source_offsets, sizes)
        operation, keep = ranges_operation(target, source, tables, self._port.thread, 0)
        return self._append(operation, None, keep)

    def add_fill(self, buffer: Any, value: int) -> int:
        """Add the filling of device memory with a byte; checks what `Device.fill` does."""
        operation, keep = fill_operation(buffer, value, self._port.thread, 0)
        return self._append(operation, None, keep)

    def _check_device(self, thread: object, what: object) -> None:
        if thread is not self._port.thread:
            raise ArgumentError(operation="add a launch", detail=f"{what!r} is of another device")

    def _append(self, operation: bytes, kernel: Kernel | None, keep: tuple[Any, ...]) -> int:
        if self._over:
            raise UsageError(f"{self!r}: {self._over}; nothing was added")
        index = len(self._operations)
        # Of 0 bytes there is nothing to do, but it keeps its place: steps are counted.
        self._operations.append(operation or wire.simple(wire.MARK))
        self._keep.append((kernel, keep))
        return index

    def _check_alive(self, operation: str, lane: int) -> None:
        """Nothing that was freed by hand since it was added may reach the driver."""
        port = self._port
        port.check_open()
        if self._gone != port.thread.gone:
            for index, (kernel, args) in enumerate(self._keep):
                _check_alive(operation, index, kernel, args)
        if lane:
            for _, args in self._keep:
                mark_used(args, lane)

    def __len__(self) -> int:
        return len(self._operations)


class Batch(Operations, metaclass=FactoryMade, factory="device.batch()"):
    """Collects operations for the device and submits them together. Get it with `Device.batch`.

    They run in order, and nothing that others submit comes between them. The ticket is done when
    the last one is; the first that the driver refuses ends the batch, and fails the ticket once the
    ones before it are done.

    ``async with device.batch() as batch:`` submits at the end of the block, waiting for room in the
    queue if there is none, but not for the device: await ``batch.ticket`` for all of it, or
    ``batch.ticket.at(index)`` for a step. A block that raises submits nothing. Or `submit` it by
    hand, any number of times.

    Attributes:
        ticket: Of the last submission; None before.
    """

    __slots__ = ("_steps", "_stream", "_timed", "_timeout", "ticket")

    def __init__(
        self,
        port: CompletionPort,
        *,
        steps: bool = False,
        stream: object = None,
        timeout: float | None = None,
        timed: bool = False,
    ) -> None:
        super().__init__(port)
        self._steps, self._stream, self._timeout = steps, stream, timeout
        self._timed = timed
        self.ticket: Ticket[None] | None = None

    def submit(self, *, stream: object = None) -> Ticket[None]:
        """Submit what was added, and empty the batch. An empty batch waits for what came before.

        Args:
            stream: Where to; None takes what the batch was opened with.

        Raises:
            ArgumentError: A buffer that an operation uses was freed meanwhile.
            WouldBlock: Too many submissions wait for the CUDA thread; the batch is kept.
            DeviceLost: The context is unusable; the batch is kept.
            RuntimeClosed: The device was closed.
        """
        port = self._port
        stream = self._stream if stream is None else stream
        target = (0, 0) if stream is None else stream_target(stream, port.thread)
        refuse_to_submit("submit a batch")
        self._check_alive("submit a batch", target[1])
        body, count = self._packed()
        name = f"launch a batch of {len(self)} operations"
        state: TicketState[None] = port.new_state(name, (self._keep, stream))
        state.stream, state.explain = stream, _explain
        if self._steps:
            state.steps, state.explain = BatchSteps(len(self)), _explain_step
        self.ticket = port.submit_operations(
            body, state, count=count, target=target, timeout=self._timeout, timed=self._timed
        )
        self._operations, self._keep, self._gone = [], [], port.thread.gone
        return self.ticket

    def _packed(self) -> tuple[bytes, int]:
        operations = self._operations or [wire.simple(wire.MARK)]
        if self._steps:
            operations = [
                part
                for index, operation in enumerate(operations)
                for part in (operation, wire.simple(wire.STEP, index))
            ]
        return b"".join(operations), len(operations)

    async def __aenter__(self) -> Self:
        self._over = ""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over = "its block has ended"
        if error is None:
            await self._port.patiently(self.submit)

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} operations>"


def _check_alive(operation: str, index: int, kernel: Kernel | None, args: tuple[Any, ...]) -> None:
    if kernel is not None and kernel.module.unloaded:
        raise inner(kernel.module).unloaded_error()
    if any(map(is_freed, args)):
        raise ArgumentError(operation=operation, detail=f"a buffer of operation {index} was freed")


def _explain(detail: int) -> str:
    return f"operation {detail} of the batch was refused"


def _explain_step(detail: int) -> str:
    return _explain(detail // 2)  # behind each operation stands its step
