"""Batches: many operations, one submission, one ticket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ajit._gpu import wire
from ajit._gpu.launch import stream_handle
from ajit._gpu.memory import DeviceBuffer
from ajit.errors import ArgumentError

if TYPE_CHECKING:
    from ajit._gpu.completion import Port, Ticket
    from ajit._gpu.launch import Dimensions
    from ajit._gpu.module import BoundLaunch, Kernel

__all__ = ["Batch"]


class Batch:
    """Collects operations for the device and submits them together. Get it with `Device.batch`.

    They run in order, and nothing that others submit comes between them. The ticket is done when
    the last one is; the first that the driver refuses ends the batch, and fails the ticket once the
    ones before it are done. Arguments are checked when an operation is added. Not for several
    threads at once.
    """

    __slots__ = ("_gone", "_keep", "_operations", "_port")

    def __init__(self, port: Port) -> None:
        self._port = port
        self._operations: list[bytes] = []
        # What the operations use: (kernel or None, buffers and other arguments).
        self._keep: list[tuple[Kernel | None, tuple[Any, ...]]] = []
        self._gone = port.thread.gone  # of the operation that was checked first

    def launch(
        self,
        kernel: Kernel,
        grid: Dimensions,
        block: Dimensions,
        *args: Any,
        shared_bytes: int = 0,
    ) -> None:
        """Add a launch; takes and checks what `Kernel.launch` does."""
        self._operations.append(kernel.operation(grid, block, args, shared_bytes))
        self._keep.append((kernel, args))

    def add(self, bound: BoundLaunch) -> None:
        """Add a launch that is packed already, see `Kernel.bind`. Checked by `submit`."""
        self._operations.append(bound.operation)
        self._keep.append((bound.kernel, bound.args))
        self._gone = min(self._gone, bound.gone)

    def copy(self, target: DeviceBuffer, source: DeviceBuffer) -> None:
        """Add a copy from one buffer to another of the same size."""
        if target.nbytes != source.nbytes:
            raise ArgumentError(
                operation="copy", detail=f"{target!r} and {source!r} differ in size"
            )
        if target.nbytes:
            addresses = target.pointer, source.pointer
            self._operations.append(
                wire.COPY.pack(wire.COPY_ON_DEVICE, wire.COPY.size, *addresses, target.nbytes)
            )
            self._keep.append((None, (target, source)))

    def fill(self, buffer: DeviceBuffer, value: int) -> None:
        """Add the filling of a buffer with a byte."""
        if not 0 <= value <= 0xFF:
            raise ArgumentError(operation="fill", detail=f"{value} is not a byte", index=1)
        if buffer.nbytes:
            self._operations.append(
                wire.FillLayout.pack(
                    wire.FILL, wire.FillLayout.size, buffer.pointer, buffer.nbytes, value
                )
            )
            self._keep.append((None, (buffer,)))

    def submit(self, *, stream: object = None) -> Ticket[None]:
        """Submit what was added, and empty the batch. An empty batch waits for what came before.

        Raises:
            ArgumentError: A buffer that an operation uses was freed meanwhile.
            WouldBlock: Too many submissions wait for the CUDA thread; the batch is kept.
            DeviceLost: The context is unusable; the batch is kept.
            RuntimeClosed: The device was closed.
        """
        port = self._port
        if port.closed:
            raise port.refusal()
        if self._gone != port.thread.gone:
            self._check_alive()
        operations = self._operations or [wire.SIMPLE.pack(wire.MARK, wire.SIMPLE.size, 0)]
        body = b"".join(operations)
        number, handle = next(port.thread.numbers), stream_handle(stream)
        header = wire.SUBMISSION.pack(port.handle, number, handle, len(operations), len(body))
        operation = f"launch a batch of {len(self._operations)} operations"
        ticket: Ticket[None] = port.submit(header + body, number, operation, self._keep)
        self._operations, self._keep, self._gone = [], [], port.thread.gone
        return ticket.explained_by(_explain)

    def _check_alive(self) -> None:
        """Nothing that was freed by hand since it was added may reach the driver."""
        for index, (kernel, args) in enumerate(self._keep):
            if kernel is not None and kernel.module.unloaded:
                raise kernel.module.unloaded_error()
            if any(isinstance(arg, DeviceBuffer) and arg.freed for arg in args):
                detail = f"a buffer of operation {index} was freed"
                raise ArgumentError(operation="submit a batch", detail=detail)

    def __len__(self) -> int:
        return len(self._operations)

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} operations>"


def _explain(detail: int) -> str:
    return f"operation {detail} of the batch was refused"
