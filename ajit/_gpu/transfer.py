"""Uploads and downloads: new memory filled from the host, and memory read back, staged where large.

Owned by the loop's thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ajit._gpu import wire
from ajit._gpu.hostview import HostView
from ajit._gpu.memory import DeviceBuffer
from ajit._gpu.operand import Operand
from ajit._gpu.staging import STAGED_FROM_BYTES, Staged, StagingPool
from ajit.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ajit._gpu.completion import Port, Ticket
    from ajit._gpu.memory import BufferSlice, PinnedBuffer

__all__ = ["Transfers"]


class Transfers:
    """Copies between the device and the host that are awaited as a whole.

    Attributes:
        stages: Whether large ones go through page-locked memory: on a GPU.
        pool: That memory.
    """

    def __init__(self, port: Port, alloc_pinned: Callable[[int], Awaitable[PinnedBuffer]]) -> None:
        self._port = port
        self.stages = port.thread.choice.kind == "cuda"
        self.pool = StagingPool(alloc_pinned, port.thread.settings.pinned_pool_bytes)

    async def upload(self, obj: Any, explain: Callable[[int], str]) -> DeviceBuffer:
        """See `Device.upload`. `explain` says why there is no memory."""
        view = HostView(obj)
        port, nbytes = self._port, view.nbytes
        if not nbytes:
            return DeviceBuffer(port, 0, 0)
        staged = await self._stage(nbytes)
        if staged is not None:
            await self.pool.move(staged.address, view.address, nbytes)
        source = staged.address if staged is not None else view.address
        copy = wire.COPY.pack(wire.COPY_TO_DEVICE, wire.COPY.size, 0, source, nbytes)
        operations = wire.simple(wire.ALLOC, nbytes) + copy

        def submit() -> Ticket[DeviceBuffer]:
            return port.submit_operations(
                operations, f"upload {nbytes} bytes", (staged, view),
                lambda resource: DeviceBuffer(port, resource, nbytes), count=2,
            ).explained_by(explain)  # fmt: skip

        return await (await port.patiently(submit))

    async def download(self, buffer: DeviceBuffer | BufferSlice, out: Any) -> Any:
        """See `Device.download`."""
        source = Operand(buffer, self._port.thread, 0, writable=False, operation="download")
        if not source.on_device:
            raise ArgumentError(operation="download", detail=f"{buffer!r} is host memory")
        view = HostView.of_new_bytes(source.nbytes) if out is None else HostView(out, writable=True)
        if view.nbytes != source.nbytes:
            detail = f"{buffer!r} has {source.nbytes} bytes, the other side {view.nbytes}"
            raise ArgumentError(operation="download", detail=detail)
        if view.nbytes:
            await self._fill(view, source)
        return view.owner if out is None else out

    async def _fill(self, view: HostView, source: Operand) -> None:
        nbytes = view.nbytes
        staged = await self._stage(nbytes)
        target = staged.address if staged is not None else view.address
        copy = wire.COPY.pack(wire.COPY_TO_HOST, wire.COPY.size, target, source.address, nbytes)

        def submit() -> Ticket[None]:
            name, keep = f"download {nbytes} bytes", (source.owner, staged, view)
            return self._port.submit_operations(copy, name, keep, None)

        await (await self._port.patiently(submit))
        if staged is not None:
            await self.pool.move(view.address, staged.address, nbytes)

    async def _stage(self, nbytes: int) -> Staged | None:
        if not self.stages or nbytes <= STAGED_FROM_BYTES:
            return None
        return await self.pool.lend(nbytes)
