"""Device memory and pinned host memory.

A buffer owns its memory. It is given back by `free()`, by leaving a ``with`` block, by the garbage
collector, or when the device closes, whichever comes first; giving back only posts (rule R3), and
the CUDA thread frees when nothing that was submitted before can be using it any more.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from ajit._gpu.wire import Resource
from ajit.errors import ArgumentError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ajit._gpu.completion import Port

__all__ = ["DeviceBuffer", "PinnedBuffer"]


class _Buffer:
    """Memory that the CUDA thread allocated. Made by `Device`, not directly.

    Attributes:
        nbytes: Its size in bytes; may be 0.
    """

    __slots__ = ("__weakref__", "_freed", "_pointer", "_port", "_resource", "_thread", "nbytes")

    def __init__(self, port: Port, resource: int, nbytes: int) -> None:
        self._port = port
        self._thread = port.thread
        self._resource = resource
        self._freed = False
        # No driver allocates 0 bytes: such a buffer has a null pointer and owns nothing.
        self._pointer = int(Resource.from_address(resource).pointer) if resource else 0
        self.nbytes = nbytes

    @property
    def freed(self) -> bool:
        """Whether it was given back, or its device was closed."""
        return self._freed or self._port.closed

    @property
    def pointer(self) -> int:
        """Its address.

        Raises:
            ArgumentError: It was freed.
        """
        if self.freed:
            raise ArgumentError(operation=f"use {self!r}", detail="the buffer was freed")
        return self._pointer

    def free(self) -> None:
        """Give the memory back. May be called more than once; submitted work may still use it."""
        if not self._freed:
            self._freed = True
            resource, self._resource = self._resource, 0
            if resource:
                self._thread.gone += 1
                self._thread.post(resource)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.free()

    def __del__(self) -> None:
        if not getattr(self, "_freed", True):
            self.free()

    def __len__(self) -> int:
        return self.nbytes

    def __repr__(self) -> str:
        where = "freed" if self.freed else f"at {self._pointer:#x}"
        return f"<{type(self).__name__} {self.nbytes} bytes {where}>"


class DeviceBuffer(_Buffer):
    """Device memory. Get it with `Device.alloc` or `Device.upload`."""

    __slots__ = ()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The buffer as a one-dimensional array of bytes, for other libraries on the same GPU."""
        if self._thread.choice.kind != "cuda":
            raise AttributeError("memory of the CPU driver is not CUDA memory")
        return {
            "shape": (self.nbytes,),
            "typestr": "|u1",
            "data": (self.pointer, False),
            "version": 3,
            "stream": None,
        }


class PinnedBuffer(_Buffer):
    """Page-locked host memory: the device copies from and to it without a detour."""

    __slots__ = ()

    def view(self) -> memoryview:
        """Return its bytes. The view must not be used once the buffer was freed."""
        memory = (ctypes.c_ubyte * self.nbytes).from_address(self.pointer)
        return memoryview(memory).cast("B")
