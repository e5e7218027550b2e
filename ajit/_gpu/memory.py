"""Device memory, parts of it, and pinned host memory; each with a shape and a type.

A buffer owns its memory, see `Owned`. A part of a buffer (`buffer[a:b]`, `buffer.view(...)`) keeps
the buffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from ajit._core.factory import FactoryMade
from ajit._gpu.capsule import CPU, CUDA, dlpack_capsule
from ajit._gpu.dtype import DTYPES
from ajit._gpu.extent import Array, Extent, part, seen_as
from ajit._gpu.hostarray import HostArray
from ajit._gpu.owned import Owned
from ajit._gpu.wire import ALL_LANES, library

if TYPE_CHECKING:
    from ajit._gpu.completion.port import CompletionPort
    from ajit._gpu.extent import Sizes

__all__ = ["BufferSlice", "DeviceBuffer", "PinnedBuffer"]


class _Buffer(Array, Owned):
    """Memory that the CUDA thread allocated. Made by `Device`, not directly."""

    __slots__ = ("_extent",)

    _called = "buffer"

    def __init__(self, port: CompletionPort, resource: int, extent: Extent) -> None:
        # No driver allocates 0 bytes: such a buffer has a null pointer and owns nothing.
        super().__init__(port, resource, lanes=1)
        self._extent = extent

    @property
    def pointer(self) -> int:
        """Its address; 0 if it has no bytes.

        The address may be used in streams that ajit does not know. So once it was asked for, the
        memory is freed only when the device is done with everything.

        Raises:
            ArgumentError: It was freed.
        """
        self._check()
        self._lanes = ALL_LANES
        return self._pointer

    def _used(self, lane: int) -> int:
        """Its address, for work in a lane."""
        self._check()
        self._lanes |= 1 << lane
        return self._pointer

    def _tensor(self, address: int, kind: bytes, sizes: bytes) -> int | None:
        """Return a DLPack tensor that keeps the memory, see `dlpack_capsule`."""
        handle = self._thread.handle
        tensor: int | None = library().tensor(handle, self._resource, address, kind, sizes)
        return tensor

    def __repr__(self) -> str:
        where = "freed" if self.freed else f"at {self._pointer:#x}"
        return f"<{type(self).__name__} {self.dtype} {self.shape} {where}>"


class _DeviceArray(Array):
    """What a buffer and a part of one have in common: they are arrays on the device."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def pointer(self) -> int: ...

    __iter__ = None  # iter() would otherwise try [0], [1], ...

    def _place(self) -> tuple[DeviceBuffer, int]:
        """Return the buffer, and the offset in it in bytes."""
        raise NotImplementedError

    def __getitem__(self, part_of_it: slice) -> BufferSlice:
        """Return a part of it: ``buffer[a:b]``, elements of the first axis.

        Negative bounds count from the end. A bound outside of the axis is an error, which for numpy
        it is not: a kernel would trust in memory that is not there.

        Raises:
            TypeError: It is no slice. Elements are read on the host, after `Device.download`.
            IndexError: A bound is outside of the axis, there is a step, or there is no axis.
        """
        shape, (start, count) = self.shape, part(self.shape, part_of_it, self)
        row_bytes = self.nbytes // shape[0] if shape[0] else 0
        buffer, offset_bytes = self._place()
        offset_bytes += start * row_bytes
        extent = Extent((count, *shape[1:]), self.dtype, count * row_bytes)
        return BufferSlice.make(buffer, offset_bytes, extent)

    def view(self, dtype: object = None, shape: Sizes | None = None) -> BufferSlice:
        """Return the same memory with another type, other axes, or both; no value is converted.

        ``buffer.view("uint8")`` are the bytes; ``buffer.view(shape=(2, -1))`` has two rows.

        Args:
            dtype: The new type, as `Device.alloc` takes it; None keeps it.
            shape: The new shape; one size may be -1: what is left. None keeps it, but for the last
                axis, which has more elements where they become smaller, and less where larger.

        Raises:
            ArgumentError: The bytes are more or less than that, or the type is not known.
        """
        extent = seen_as(self._extent, dtype, shape, self)
        return BufferSlice.make(*self._place(), extent)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The array, for other libraries on the same GPU; only CUDA memory has it.

        bfloat16 and 8-bit floats, for which the interface has no name, are ``V2`` and ``V1``.
        """
        buffer, _ = self._place()
        if buffer._thread.choice.kind != "cuda":  # noqa: SLF001  # one module
            raise AttributeError("memory of the CPU driver is not CUDA memory")
        return {
            "shape": self.shape,
            "typestr": DTYPES[self.dtype].typestr,
            "data": (self.pointer, False),
            "version": 3,
            "stream": None,
        }

    def __array__(self, *_: object, **__: object) -> NoReturn:
        """Refuse: numpy must not read device memory, and would take this for one object.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            f"{self!r} is device memory, numpy needs a copy of it: "
            "np.asarray(await device.download(buffer))"
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's type and number of the device; on the CPU driver it is CPU memory."""
        choice = self._place()[0]._thread.choice  # noqa: SLF001  # one module
        return (CUDA, choice.ordinal) if choice.kind == "cuda" else (CPU, 0)

    def __dlpack__(
        self,
        *,
        stream: object = None,
        max_version: object = None,
        dl_device: object = None,
        copy: bool | None = None,
    ) -> object:
        """The array as a tensor, for other libraries.

        The tensor keeps the memory, even if the buffer is freed, until the device closes. Await
        what was submitted before the other library uses it: ajit does not wait for ``stream``.

        Raises:
            ArgumentError: The buffer was freed.
            BufferError: The consumer wants a copy, or the memory on another device.
        """
        del stream, max_version  # any consumer takes a tensor of version 0
        device, asked = self.__dlpack_device__(), (dl_device, copy)
        return dlpack_capsule(self._place()[0], self.pointer, self._extent, device, asked)


class DeviceBuffer(
    _DeviceArray, _Buffer, metaclass=FactoryMade, factory="await device.alloc() or device.upload()"
):
    """Device memory with a shape and a type, in C order. Get it with `Device.alloc` or `upload`.

    Other libraries on the same device take it by ``__cuda_array_interface__`` and DLPack, without a
    copy: ``torch.from_dlpack(buffer)``, ``cupy.from_dlpack(buffer)``.

    Attributes:
        shape: Elements along each axis.
        dtype: Name of their type, as ``float32``.
        nbytes: Its size in bytes; may be 0.
    """

    __slots__ = ()

    def _place(self) -> tuple[DeviceBuffer, int]:
        return self, 0


class BufferSlice(
    _DeviceArray, metaclass=FactoryMade, factory="buffer[a:b] or buffer.view(dtype, shape)"
):
    """A part of a buffer, or all of it seen in another way. It keeps the buffer.

    Attributes:
        buffer: The whole.
        offset_bytes: Where it begins in that.
        shape: Elements along each axis.
        dtype: Name of their type, as ``float32``.
        nbytes: Its size in bytes; may be 0.
    """

    __slots__ = ("_extent", "buffer", "offset_bytes")

    def __init__(self, buffer: DeviceBuffer, offset_bytes: int, extent: Extent) -> None:
        self.buffer, self.offset_bytes, self._extent = buffer, offset_bytes, extent

    @property
    def pointer(self) -> int:
        """Address of its first byte.

        Raises:
            ArgumentError: The buffer was freed.
        """
        return self.buffer.pointer + self.offset_bytes

    @property
    def freed(self) -> bool:
        """Whether the buffer was freed."""
        return self.buffer.freed

    @property
    def _thread(self) -> object:
        return self.buffer._thread  # noqa: SLF001  # a part and its whole

    def _used(self, lane: int) -> int:
        return self.buffer._used(lane) + self.offset_bytes  # noqa: SLF001  # the same

    def _place(self) -> tuple[DeviceBuffer, int]:
        return self.buffer, self.offset_bytes

    def __repr__(self) -> str:
        end = self.offset_bytes + self.nbytes
        what = f"{self.dtype} {self.shape}, bytes {self.offset_bytes}:{end}"
        return f"<BufferSlice {what} of {self.buffer!r}>"


class PinnedBuffer(_Buffer, metaclass=FactoryMade, factory="await device.alloc_pinned()"):
    """Page-locked host memory: the device copies from and to it without a detour.

    Get it with `Device.alloc_pinned`.

    Attributes:
        shape: Elements along each axis.
        dtype: Name of their type, as ``float32``.
        nbytes: Its size in bytes; may be 0.
    """

    __slots__ = ()

    def view(self, dtype: object = None, shape: Sizes | None = None) -> HostArray:
        """Return the memory as a host array: ``np.asarray(pinned.view())[:] = values``.

        No array of it may be used once the buffer was freed. What came by DLPack keeps the memory
        until the device closes.

        Args:
            dtype: Another type, see `DeviceBuffer.view`; None: its own.
            shape: Another shape, see there; None: its own.

        Raises:
            ArgumentError: It was freed, the bytes are more or less than that, or the type is not
                known.
        """
        self._check()
        extent = self._extent
        if dtype is not None or shape is not None:
            extent = seen_as(extent, dtype, shape, self)
        return HostArray.make(self, 0, extent)
