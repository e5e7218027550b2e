"""Uploads and downloads: new memory filled from the host, and memory read back, staged where large.

Owned by the loop's thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ajit._gpu import wire
from ajit._gpu.extent import Extent
from ajit._gpu.hostarray import HostArray, HostMemory
from ajit._gpu.hostview import HostView
from ajit._gpu.memory import DeviceBuffer
from ajit._gpu.operand import Operand, check_fits, mark_used
from ajit._gpu.shape import shown
from ajit._gpu.staging import STAGED_FROM_BYTES, Staged, StagingPool
from ajit._gpu.stream import stream_target
from ajit.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ajit._gpu.completion.port import CompletionPort
    from ajit._gpu.completion.state import TicketState
    from ajit._gpu.completion.ticket import Ticket
    from ajit._gpu.memory import BufferSlice, PinnedBuffer

__all__ = ["Transfers"]


class Transfers:
    """Copies between the device and the host that are awaited as a whole.

    Attributes:
        stages: Whether large ones go through page-locked memory: on a GPU.
        pool: That memory.
    """

    def __init__(
        self, port: CompletionPort, alloc_pinned: Callable[[int], Awaitable[PinnedBuffer]]
    ) -> None:
        self._port = port
        self.stages = port.thread.choice.kind == "cuda"
        patience_seconds = port.thread.settings.ticket_timeout_seconds
        self.pool = StagingPool(alloc_pinned, port.thread.pinned, patience_seconds)

    async def upload(self, obj: Any, explain: Callable[[int], str], stream: object) -> DeviceBuffer:
        """See `Device.upload`. `explain` says why there is no memory."""
        target = stream_target(stream, self._port.thread)
        view = HostView(obj)
        if view.dtype is None:
            raise ArgumentError(operation="upload", detail=_unknown(view.called), index=0)
        port, nbytes = self._port, view.nbytes
        extent = Extent(view.shape, view.dtype, nbytes)
        if not nbytes:
            return DeviceBuffer.make(port, 0, extent)
        staged = await self._stage(nbytes)
        if staged is not None:
            await self.pool.move(staged.address, view.address, nbytes)
        source = staged.address if staged is not None else view.address
        copy = wire.COPY.pack(wire.COPY_TO_DEVICE, wire.COPY.size, 0, source, nbytes)
        operations = wire.simple(wire.ALLOC, nbytes) + copy

        def submit() -> Ticket[DeviceBuffer]:
            state = port.new_state(
                f"upload {nbytes} bytes",
                (staged, view, stream),
                lambda resource: _buffer(port, resource, extent, target[1]),
            )
            state.explain = explain
            return port.submit_operations(operations, state, count=2, target=target)

        return await (await port.patiently(submit))

    async def download(self, buffer: DeviceBuffer | BufferSlice, out: Any, stream: object) -> Any:
        """See `Device.download`."""
        thread = self._port.thread
        target = stream_target(stream, thread)
        source = Operand(buffer, thread, target[1], writable=False, operation="download")
        if not source.on_device:
            raise ArgumentError(
                operation="download", detail=f"{shown(buffer)} is host memory already"
            )
        nbytes = source.nbytes
        if out is None:
            memory = HostMemory(nbytes)
            if nbytes:
                await self._fill(memory.pointer, (memory, stream), source, target)
            return HostArray.make(memory, 0, source.extent)
        view = HostView(out, writable=True)
        check_fits(view, source)
        if nbytes:
            await self._fill(view.address, (view, stream), source, target)
        return out

    async def _fill(
        self, address: int, keep: object, source: Operand, target: tuple[int, int]
    ) -> None:
        nbytes = source.nbytes
        staged = await self._stage(nbytes)
        into = staged.address if staged is not None else address
        copy = wire.COPY.pack(wire.COPY_TO_HOST, wire.COPY.size, into, source.address, nbytes)

        def submit() -> Ticket[None]:
            kept = (source.owner, staged, keep)
            state: TicketState[None] = self._port.new_state(f"download {nbytes} bytes", kept)
            return self._port.submit_operations(copy, state, target=target)

        await (await self._port.patiently(submit))
        if staged is not None:
            await self.pool.move(address, staged.address, nbytes)

    async def _stage(self, nbytes: int) -> Staged | None:
        if not self.stages or nbytes <= STAGED_FROM_BYTES:
            return None
        return await self.pool.lend(nbytes)


def _buffer(port: CompletionPort, resource: int, extent: Extent, lane: int) -> DeviceBuffer:
    """Return the buffer that a lane filled: it is freed after that lane's work."""
    buffer: DeviceBuffer = DeviceBuffer.make(port, resource, extent)
    mark_used((buffer,), lane)
    return buffer


def _unknown(called: str) -> str:
    says = f"its elements ({called}) are of no type that ajit knows; "
    if called.startswith((">", "!")):
        return f"{says}make them little-endian: x.astype(x.dtype.newbyteorder('='))"
    if called in ("O", "object"):
        return f"{says}they are Python objects; convert them: x.astype(np.float32)"
    return f"{says}upload their bytes, x.view(np.uint8), or times as x.view(np.int64)"
