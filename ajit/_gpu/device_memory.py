"""The memory of a device: allocated, filled and copied. The base of `Device`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ajit._gpu import wire
from ajit._gpu.memory import DeviceBuffer, PinnedBuffer
from ajit._gpu.operand import copy_operation, fill_operation
from ajit._gpu.shape import whole_number
from ajit._gpu.stream import stream_target
from ajit._gpu.transfer import Transfers
from ajit.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._gpu.completion import Port, Ticket
    from ajit._gpu.memory import BufferSlice
    from ajit._gpu.thread import DeviceThread

__all__ = ["DeviceMemory"]

T = TypeVar("T")


class DeviceMemory:
    """What a `Device` does with memory.

    Attributes:
        total_memory_bytes: What the device has.
    """

    def __init__(self, thread: DeviceThread, port: Port) -> None:
        """Made by `Device`."""
        self._thread = thread
        self._port = port
        self._transfers = Transfers(port, self.alloc_pinned)
        self.total_memory_bytes = int(thread.info.total_memory_bytes)

    async def alloc(self, nbytes: int) -> DeviceBuffer:
        """Allocate device memory; its contents are undefined.

        Raises:
            ArgumentError: The size is no whole number, or below 0; nothing was started.
            OutOfMemory: There is not enough, or ``device_memory_limit_bytes`` is reached; nothing
                was allocated.
        """
        return await self._alloc(wire.ALLOC, nbytes, DeviceBuffer)

    async def alloc_pinned(self, nbytes: int) -> PinnedBuffer:
        """Allocate page-locked host memory.

        Raises:
            OutOfMemory: There is not enough; nothing was allocated.
        """
        return await self._alloc(wire.ALLOC_HOST, nbytes, PinnedBuffer)

    async def upload(self, obj: Any) -> DeviceBuffer:
        """Copy host memory to new device memory.

        Args:
            obj: Any contiguous object with the buffer protocol or ``__array_interface__``: bytes,
                an array. It must not be changed before this returns.

        Raises:
            ArgumentError: The object has no contiguous memory; nothing was started.
            OutOfMemory: There is not enough device memory; nothing was allocated.

        Cancelling leaves: the copy is finished and its memory freed in the background.
        """
        return await self._transfers.upload(obj, self._explain_memory)

    async def download(self, buffer: DeviceBuffer | BufferSlice, out: Any = None) -> Any:
        """Copy device memory to the host.

        Args:
            buffer: What to copy, all of it: a buffer, or a part of one.
            out: A writable contiguous object of the same size to fill; None makes new bytes.

        Returns:
            ``out``, or the bytes.

        Raises:
            ArgumentError: The sizes differ, ``out`` cannot be written, or the buffer was freed.

        Cancelling leaves: ``out`` may still be written to until the copy is done.
        """
        return await self._transfers.download(buffer, out)

    def copy_to(self, buffer: DeviceBuffer, obj: Any, *, stream: object = None) -> Ticket[None]:
        """Submit a copy of host memory into a buffer of the same size. See `copy`."""
        return self.copy(buffer, obj, stream=stream)

    def copy(
        self,
        target: Any,
        source: Any,
        *,
        stream: object = None,
        deadline_seconds: float | None = None,
        timed: bool = False,
    ) -> Ticket[None]:
        """Submit a copy, to the device, from it, or on it.

        Host memory goes straight to the driver: from pageable memory it copies large pieces on the
        CUDA thread itself. Use `PinnedBuffer` for those, or `upload` and `download`.

        Args:
            target: A `DeviceBuffer`, a part of one, a `PinnedBuffer`, an array that another library
                has on the device (``__cuda_array_interface__``, DLPack), or any contiguous object
                with the buffer protocol. Host memory must not be touched before the ticket is done.
            source: The same, of the same size.
            stream: Any stream, see `Kernel.launch`; None takes the device's own.
            deadline_seconds: Time after which the ticket is overdue; None: as the settings say.
            timed: Whether the device tells how long it worked, see `Kernel.launch`.

        Raises:
            ArgumentError: A side cannot be used, the sizes differ, or both are host memory.
            WouldBlock: Too many submissions wait for the CUDA thread. Nothing was submitted.
        """
        where = stream_target(stream, self._thread)
        packed = copy_operation(target, source, self._thread, where[1])
        return self._submit(
            "copy", packed, stream, where, deadline_seconds=deadline_seconds, timed=timed
        )

    def fill(
        self,
        buffer: Any,
        value: int,
        *,
        stream: object = None,
        deadline_seconds: float | None = None,
        timed: bool = False,
    ) -> Ticket[None]:
        """Submit the filling of device memory with a byte. Takes and raises what `copy` does."""
        where = stream_target(stream, self._thread)
        packed = fill_operation(buffer, value, self._thread, where[1])
        return self._submit(
            "fill", packed, stream, where, deadline_seconds=deadline_seconds, timed=timed
        )

    def _submit(
        self,
        name: str,
        packed: tuple[bytes, tuple[object, ...]],
        stream: object,
        where: tuple[int, int],
        **how: Any,
    ) -> Ticket[None]:
        operation, keep = packed
        ticket: Ticket[None] = self._port.submit_operations(
            operation or wire.simple(wire.MARK), name, (keep, stream), None, stream=where, **how
        )
        ticket.stream = stream
        return ticket

    async def _patiently(
        self,
        operation: bytes,
        name: str,
        finish: Callable[[int], T],
        explain: Callable[[int], str] | None = None,
    ) -> T:
        port = self._port

        def submit() -> Ticket[T]:
            ticket = port.submit_operations(operation, name, None, finish)
            return ticket.explained_by(explain) if explain is not None else ticket

        return await (await port.patiently(submit))

    async def _alloc(self, opcode: int, nbytes: int, kind: Callable[[Port, int, int], T]) -> T:
        nbytes = whole_number("alloc", "nbytes", nbytes)
        if not 0 <= nbytes < 1 << 64:
            raise ArgumentError(operation="alloc", detail=f"{nbytes} bytes", index=0)
        port = self._port
        if not nbytes:
            return kind(port, 0, 0)
        operation = wire.simple(opcode, nbytes)
        name = f"allocate {nbytes} bytes"
        return await self._patiently(
            operation, name, lambda made: kind(port, made, nbytes), self._explain_memory
        )

    def _explain_memory(self, _: int) -> str:
        live = self._thread.statistics().live_memory_bytes
        limit = self._thread.settings.device_memory_limit_bytes
        says = f"ajit has {live} bytes of device memory in use; the device has "
        says += f"{self.total_memory_bytes}, other programs and libraries included"
        return f"{says}; device_memory_limit_bytes is {limit}" if limit else says
