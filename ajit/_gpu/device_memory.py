"""The memory of a device: allocated, filled and copied. The base of `Device`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from ajit._gpu import wire
from ajit._gpu.capturing import refuse_to_submit
from ajit._gpu.extent import extent
from ajit._gpu.memory import DeviceBuffer, PinnedBuffer
from ajit._gpu.operand import copy_operation, fill_operation
from ajit._gpu.registered import PIECE_BYTES, RegisteredMemory, register_host
from ajit._gpu.stream import stream_target
from ajit._gpu.transfer import Transfers

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._gpu.completion.port import CompletionPort
    from ajit._gpu.completion.state import TicketState
    from ajit._gpu.completion.thread import DeviceThread
    from ajit._gpu.completion.ticket import Ticket
    from ajit._gpu.extent import Extent, Sizes
    from ajit._gpu.hostarray import HostArray
    from ajit._gpu.memory import BufferSlice

__all__ = ["DeviceMemory"]

T = TypeVar("T")


class DeviceMemory:
    """What a `Device` does with memory.

    Attributes:
        total_memory_bytes: What the device has.
    """

    def __init__(self, thread: DeviceThread, port: CompletionPort) -> None:
        """Made by `Device`."""
        self._thread = thread
        self._port = port
        self._transfers = Transfers(port, self.alloc_pinned)
        self.total_memory_bytes = int(thread.info.total_memory_bytes)

    async def alloc(self, shape: Sizes, dtype: object = None) -> DeviceBuffer:
        """Allocate device memory; its contents are undefined.

        Args:
            shape: How many elements: a number, or the sizes of several axes. ``alloc(4096)`` are
                4096 bytes, ``alloc((3, 4), "float32")`` are 48.
            dtype: Their type: a name as ``float32``, or what numpy, torch or `ml_dtypes` have for
                one, as ``np.float32``, ``torch.bfloat16``. None: bytes, ``uint8``.

        Raises:
            ArgumentError: A size is no whole number, or below 0, or the type is not known; nothing
                was started.
            OutOfMemory: There is not enough, or ``device_memory_limit_bytes`` is reached; nothing
                was allocated.
        """
        return await self._alloc(wire.ALLOC, extent(shape, dtype, "alloc"), DeviceBuffer.make)

    async def alloc_pinned(self, shape: Sizes, dtype: object = None) -> PinnedBuffer:
        """Allocate page-locked host memory. Takes what `alloc` does.

        Raises:
            ArgumentError: As `alloc`.
            OutOfMemory: There is not enough; nothing was allocated.
        """
        asked = extent(shape, dtype, "alloc_pinned")
        return await self._alloc(wire.ALLOC_HOST, asked, PinnedBuffer.make)

    async def register_host(
        self, memory: Any, *, piece_bytes: int = PIECE_BYTES
    ) -> RegisteredMemory:
        """Page-lock host memory that something else has made, such as a `mmap` or a shared memfd.

        The driver learns of it in pieces, and launches go between them. Memory that was registered
        is copied from and to as pinned memory is, by its own object: ``device.copy(x, memory)``.

        Args:
            memory: Writable and contiguous, from the beginning of a page of memory to the end of
                one. It is held until the driver has let it go.
            piece_bytes: Size of a piece, a multiple of a page. A copy that crosses from one piece
                to the next is cut there, for drivers take none that does; not so in a graph that
                was captured before.

        Raises:
            ArgumentError: It does not begin and end with a page; nothing was started.
            DeviceError: The driver does not take it, as when it is registered already. Nothing of
                it stays registered.

        Cancelling gives back what was registered so far.
        """
        return await register_host(self._port, memory, piece_bytes)

    async def upload(self, obj: Any, *, stream: object = None) -> DeviceBuffer:
        """Copy host memory to new device memory of the same shape and type.

        Args:
            obj: An object with the buffer protocol, ``__array_interface__``, or DLPack on the CPU:
                an array of numpy or `ml_dtypes`, a tensor of torch, bytes. It has to be contiguous
                in C order, may be read-only, and must not be changed before this returns.
            stream: Any stream, see `Kernel.launch`; None takes the device's own.

        Returns:
            The buffer. Its dtype is the object's, bfloat16 and 8-bit floats included; bytes are
            ``uint8`` of one axis.

        Raises:
            ArgumentError: The object has no contiguous memory, or its elements are of no type that
                ajit knows (structures, strings, times, big-endian numbers: upload their bytes);
                nothing was started.
            OutOfMemory: There is not enough device memory; nothing was allocated.

        Cancelling leaves: the copy is finished and its memory freed in the background.
        """
        return await self._transfers.upload(obj, self._explain_memory, stream)

    @overload
    async def download(
        self, buffer: DeviceBuffer | BufferSlice, out: None = None, *, stream: object = None
    ) -> HostArray: ...

    @overload
    async def download(
        self, buffer: DeviceBuffer | BufferSlice, out: T, *, stream: object = None
    ) -> T: ...

    async def download(
        self, buffer: DeviceBuffer | BufferSlice, out: object = None, *, stream: object = None
    ) -> object:
        """Copy device memory to the host.

        Args:
            buffer: What to copy, all of it: a buffer, or a part of one.
            out: An array or other writable contiguous memory to fill, of the same shape and type;
                memory of bytes (uint8, of one axis) only needs the same size, and so does any
                memory if the buffer is one of bytes. None makes a new host array.
            stream: Any stream, see `Kernel.launch`: the copy comes after the work of that stream.
                None takes the device's own, and does not wait for work in others.

        Returns:
            ``out``, or a `HostArray` of the buffer's shape and type, for ``np.asarray`` and
            ``torch.from_dlpack``.

        Raises:
            ArgumentError: Sizes, shapes or types differ, ``out`` cannot be written, or the buffer
                was freed.

        Cancelling leaves: ``out`` may still be written to until the copy is done.
        """
        return await self._transfers.download(buffer, out, stream)

    def copy(
        self,
        target: Any,
        source: Any,
        *,
        stream: object = None,
        timeout: float | None = None,
        timed: bool = False,
    ) -> Ticket[None]:
        """Submit a copy, to the device, from it, or on it.

        Host memory goes straight to the driver: from pageable memory it copies large pieces on the
        CUDA thread itself. Use `PinnedBuffer` for those, or `upload` and `download`.

        Args:
            target: A `DeviceBuffer`, a part of one, a `PinnedBuffer`, an array that another library
                has on the device (``__cuda_array_interface__``, DLPack), or any contiguous object
                with the buffer protocol. Host memory must not be touched before the ticket is done.
            source: The same, of the same size in bytes and, where both have one, of the same type:
                a copy moves bytes and converts nothing, unlike those of numpy and torch. ``uint8``
                counts as bytes of any type, `DeviceBuffer.view` makes it so. Shapes may differ.
            stream: Any stream, see `Kernel.launch`; None takes the device's own.
            timeout: Time after which the ticket is overdue; None: as the settings say.
            timed: Whether the device tells how long it worked, see `Kernel.launch`.

        Raises:
            ArgumentError: A side cannot be used, sizes or types differ, or both are host memory.
            WouldBlock: Too many submissions wait for the CUDA thread. Nothing was submitted.
        """
        where = stream_target(stream, self._thread)
        packed = copy_operation(target, source, self._thread, where[1])
        return self._submit("copy", packed, stream, where, timeout=timeout, timed=timed)

    def fill(
        self,
        buffer: Any,
        value: int,
        *,
        stream: object = None,
        timeout: float | None = None,
        timed: bool = False,
    ) -> Ticket[None]:
        """Submit the filling of device memory with a byte. Takes and raises what `copy` does.

        Elements larger than a byte can only be set to 0; their ``view("uint8")`` to any byte.
        """
        where = stream_target(stream, self._thread)
        packed = fill_operation(buffer, value, self._thread, where[1])
        return self._submit("fill", packed, stream, where, timeout=timeout, timed=timed)

    def _submit(
        self,
        name: str,
        packed: tuple[bytes, tuple[object, ...]],
        stream: object,
        where: tuple[int, int],
        **how: Any,
    ) -> Ticket[None]:
        operation, keep = packed
        refuse_to_submit(name)
        state: TicketState[None] = self._port.new_state(name, (keep, stream))
        state.stream = stream
        return self._port.submit_operations(
            operation or wire.simple(wire.MARK), state, target=where, **how
        )

    async def _patiently(
        self,
        operation: bytes,
        name: str,
        finish: Callable[[int], T],
        explain: Callable[[int], str] | None = None,
    ) -> T:
        port = self._port

        def submit() -> Ticket[T]:
            state = port.new_state(name, None, finish)
            state.explain = explain
            return port.submit_operations(operation, state)

        return await (await port.patiently(submit))

    async def _alloc(
        self, opcode: int, asked: Extent, make: Callable[[CompletionPort, int, Extent], T]
    ) -> T:
        port, nbytes = self._port, asked.nbytes
        if not nbytes:
            return make(port, 0, asked)
        operation = wire.simple(opcode, nbytes)
        name = f"allocate {nbytes} bytes"
        return await self._patiently(
            operation, name, lambda made: make(port, made, asked), self._explain_memory
        )

    def _explain_memory(self, _: int) -> str:
        live = self._thread.statistics().live_memory_bytes
        limit = self._thread.settings.device_memory_limit_bytes
        says = f"ajit has {live} bytes of device memory in use; the device has "
        says += f"{self.total_memory_bytes}, other programs and libraries included"
        return f"{says}; device_memory_limit_bytes is {limit}" if limit else says
