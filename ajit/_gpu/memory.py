"""Device memory, parts of it, and pinned host memory.

A buffer owns its memory, see `Owned`. A part of a buffer (`buffer[a:b]`) keeps the buffer.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from ajit._gpu.dlpack import dlpack_capsule, dlpack_device
from ajit._gpu.owned import Owned
from ajit._gpu.wire import ALL_LANES
from ajit.errors import ArgumentError

if TYPE_CHECKING:
    from ajit._gpu.completion import Port

__all__ = ["BufferSlice", "DeviceBuffer", "PinnedBuffer"]


class _Buffer(Owned):
    """Memory that the CUDA thread allocated. Made by `Device`, not directly.

    Attributes:
        nbytes: Its size in bytes; may be 0.
    """

    __slots__ = ("nbytes",)

    _called = "buffer"

    def __init__(self, port: Port, resource: int, nbytes: int) -> None:
        # No driver allocates 0 bytes: such a buffer has a null pointer and owns nothing.
        super().__init__(port, resource, lanes=1)
        self.nbytes = nbytes

    @property
    def pointer(self) -> int:
        """Its address.

        Whoever asks for it may use the memory in streams that ajit does not know, so from then on
        it is freed only when the device is done with everything.

        Raises:
            ArgumentError: It was freed.
        """
        self._check()
        self._lanes = ALL_LANES  # whoever has the address may use it in any stream
        return self._pointer

    def _used(self, lane: int) -> int:
        """Its address, for work in a lane."""
        self._check()
        self._lanes |= 1 << lane
        return self._pointer

    def __len__(self) -> int:
        return self.nbytes

    def __repr__(self) -> str:
        where = "freed" if self.freed else f"at {self._pointer:#x}"
        return f"<{type(self).__name__} {self.nbytes} bytes {where}>"


class DeviceBuffer(_Buffer):
    """Device memory. Get it with `Device.alloc` or `Device.upload`."""

    __slots__ = ()

    def __getitem__(self, part: slice) -> BufferSlice:
        """Return a part of it, in bytes: ``buffer[a:b]``.

        Raises:
            ArgumentError: The part has a step, or is not inside of the buffer.
        """
        start = 0 if part.start is None else part.start
        stop = self.nbytes if part.stop is None else part.stop
        if part.step not in (None, 1) or not 0 <= start <= stop <= self.nbytes:
            detail = f"{part} is no part of {self.nbytes} bytes"
            raise ArgumentError(operation=f"slice {self!r}", detail=detail)
        return BufferSlice(self, start, stop - start)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The buffer as a one-dimensional array of bytes, for other libraries on the same GPU."""
        return _array_interface(self)

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's type and number of the device; on the CPU driver it is CPU memory."""
        choice = self._thread.choice
        return dlpack_device(choice.kind, choice.ordinal)

    def __dlpack__(self, *, stream: object = None, **_: object) -> object:
        """The buffer as a one-dimensional tensor of bytes, for other libraries.

        The tensor keeps the memory, even if the buffer is freed, until the device closes. Await
        what was submitted before the other library uses it: ajit does not wait for ``stream``.

        Raises:
            ArgumentError: The buffer was freed.
            BufferError: It has no bytes.
        """
        del stream
        address = self.pointer
        if not self._resource:
            raise BufferError(f"{self!r} has no memory")
        return dlpack_capsule(
            self._thread.handle, self._resource, address, self.nbytes, self.__dlpack_device__()
        )


class BufferSlice:
    """A part of a buffer. Get it with ``buffer[a:b]``; it keeps the buffer.

    Attributes:
        buffer: The whole.
        start: Offset of the first byte.
        nbytes: Its size in bytes.
    """

    __slots__ = ("buffer", "nbytes", "start")

    def __init__(self, buffer: DeviceBuffer, start: int, nbytes: int) -> None:
        self.buffer, self.start, self.nbytes = buffer, start, nbytes

    @property
    def pointer(self) -> int:
        """Address of its first byte.

        Raises:
            ArgumentError: The buffer was freed.
        """
        return self.buffer.pointer + self.start

    @property
    def freed(self) -> bool:
        """Whether the buffer was given back."""
        return self.buffer.freed

    @property
    def _thread(self) -> object:
        return self.buffer._thread  # noqa: SLF001  # a part and its whole

    def _used(self, lane: int) -> int:
        return self.buffer._used(lane) + self.start  # noqa: SLF001  # the same

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The part as a one-dimensional array of bytes, for other libraries on the same GPU."""
        return _array_interface(self)

    def __len__(self) -> int:
        return self.nbytes

    def __repr__(self) -> str:
        return f"<BufferSlice {self.start}:{self.start + self.nbytes} of {self.buffer!r}>"


class PinnedBuffer(_Buffer):
    """Page-locked host memory: the device copies from and to it without a detour."""

    __slots__ = ()

    def view(self) -> memoryview:
        """Return its bytes. The view must not be used once the buffer was freed."""
        memory = (ctypes.c_ubyte * self.nbytes).from_address(self.pointer)
        return memoryview(memory).cast("B")


def _array_interface(buffer: DeviceBuffer | BufferSlice) -> dict[str, Any]:
    whole = buffer.buffer if isinstance(buffer, BufferSlice) else buffer
    if whole._thread.choice.kind != "cuda":  # noqa: SLF001  # one module
        raise AttributeError("memory of the CPU driver is not CUDA memory")
    return {
        "shape": (buffer.nbytes,),
        "typestr": "|u1",
        "data": (buffer.pointer, False),
        "version": 3,
        "stream": None,
    }
