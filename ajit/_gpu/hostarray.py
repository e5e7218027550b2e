"""Host arrays: what a download returns, and how pinned memory is seen.

A host array is memory with a shape and a type. It computes nothing; array libraries take it without
a copy, see `HostArray`.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex, overload

from ajit._core.factory import FactoryMade
from ajit._gpu.capsule import CPU, Exporter, dlpack_capsule
from ajit._gpu.dtype import DTYPES
from ajit._gpu.elements import nested, unpacked
from ajit._gpu.extent import Array, Extent, part, seen_as
from ajit._gpu.wire import library

if TYPE_CHECKING:
    from ajit._gpu.extent import Sizes

__all__ = ["HostArray", "HostMemory"]


class HostMemory:
    """Memory on the host, not set to anything. It is freed with the last reference or tensor.

    Attributes:
        pointer: Address of its first byte, aligned for every type; 0 if there are none.
    """

    __slots__ = ("_release", "pointer")

    def __init__(self, nbytes: int) -> None:
        """Allocate.

        Raises:
            MemoryError: There is not enough.
        """
        self.pointer = 0
        if nbytes:
            self._release = library().host_release
            self.pointer = library().host_make(nbytes) or 0
            if not self.pointer:
                raise MemoryError(f"no host memory for {nbytes} bytes")

    def _tensor(self, address: int, kind: bytes, sizes: bytes) -> int | None:
        tensor: int | None = library().host_tensor(self.pointer, address, kind, sizes)
        return tensor

    def __del__(self) -> None:
        if self.pointer:
            self._release(self.pointer)


class _Memory(Exporter, Protocol):
    """What a host array lies in: `HostMemory`, or a `PinnedBuffer`."""

    @property
    def pointer(self) -> int: ...


class HostArray(Array, metaclass=FactoryMade, factory="await device.download(buffer)"):
    """Memory on the host with a shape and a type, writable, in C order.

    ``np.asarray(host)`` is an array of the same memory, with the right type and shape; so are
    ``torch.from_dlpack(host)`` and ``np.from_dlpack(host)`` (which numpy holds for read-only).
    Of the types that numpy does not have, bfloat16 and those of 8-bit floats, ``np.asarray`` makes
    arrays of `ml_dtypes`, which has to be imported. Without any library: `tolist`, `tobytes`,
    `data`, ``len(host)``, and ``host[i]``, ``host[a:b]`` on the first axis.

    Two host arrays are equal if they are the same object; compare what `tobytes` or numpy return.

    Attributes:
        shape: Elements along each axis.
        dtype: Name of their type, as ``float32``.
        nbytes: Size of it all.
    """

    __slots__ = ("__weakref__", "_extent", "_memory", "_offset_bytes")

    def __init__(self, memory: _Memory, offset_bytes: int, extent: Extent) -> None:
        self._memory, self._offset_bytes = memory, offset_bytes
        self._extent = extent

    @property
    def pointer(self) -> int:
        """Address of the first byte; 0 if there are none.

        Raises:
            ArgumentError: It is pinned memory that was freed.
        """
        return self._memory.pointer + self._offset_bytes

    def _freed(self) -> bool:
        """Whether it is pinned memory that was freed."""
        return bool(getattr(self._memory, "freed", False))

    @property
    def data(self) -> memoryview:
        """Its bytes: a flat writable view, for files, sockets and ``torch.frombuffer``."""
        memory = (ctypes.c_ubyte * self.nbytes).from_address(self.pointer)
        memory.keeps = self._memory  # type: ignore[attr-defined]  # for as long as there are views
        return memoryview(memory).cast("B")

    def tobytes(self) -> bytes:
        """Return a copy of its bytes."""
        return self.data.tobytes()

    def tolist(self) -> Any:
        """Return its elements as numbers in lists, or the number itself if it has no axes."""
        return nested(unpacked(self.dtype, self.data), self.shape)

    def view(self, dtype: object = None, shape: Sizes | None = None) -> HostArray:
        """Return the same memory with another type, other axes, or both.

        Args:
            dtype: See `DeviceBuffer.view`.
            shape: See there.

        Raises:
            ArgumentError: The bytes are more or less than that, or the type is not known.
        """
        extent = seen_as(self._extent, dtype, shape, self)
        return HostArray.make(self._memory, self._offset_bytes, extent)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """The memory for numpy, where numpy has the type."""
        dtype = DTYPES[self.dtype]
        if not dtype.in_numpy:  # so numpy asks `__array__`
            raise AttributeError(f"numpy itself has no {self.dtype}")
        data = (self.pointer, False)
        return {"shape": self.shape, "typestr": dtype.typestr, "data": data, "version": 3}

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:  # noqa: FBT001  # numpy's protocol
        """Return an array of numpy of the same memory; numpy has to be imported.

        Raises:
            TypeError: numpy does not have the type, and `ml_dtypes` was not imported.
        """
        array = self._numpy_array()
        array = array if dtype is None else array.astype(dtype, copy=False)
        return array.copy() if copy else array

    def _numpy_array(self) -> Any:
        own, numpy = DTYPES[self.dtype], sys.modules["numpy"]
        if own.in_numpy:
            return numpy.asarray(self)
        bits, types = f"uint{8 * own.itemsize}", sys.modules.get("ml_dtypes")
        if types is None:
            raise TypeError(
                f"numpy has no {own.name}: import ml_dtypes before this, or take "
                f"torch.from_dlpack(host) or host.view('{bits}')"
            )
        return numpy.asarray(self.view(bits)).view(getattr(types, own.name))

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's type and number of the device: the CPU."""
        return CPU, 0

    def __dlpack__(
        self,
        *,
        stream: object = None,
        max_version: object = None,
        dl_device: object = None,
        copy: bool | None = None,
    ) -> object:
        """The memory as a tensor, which keeps it.

        Raises:
            BufferError: The consumer wants a copy, or the memory on another device.
        """
        del stream, max_version  # it is complete, and any consumer takes a tensor of version 0
        device = self.__dlpack_device__()
        asked = (dl_device, copy)
        return dlpack_capsule(self._memory, self.pointer, self._extent, device, asked)

    def __bytes__(self) -> bytes:
        return self.tobytes()

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"{self!r} has no axis, so no length")
        return self.shape[0]

    @overload
    def __getitem__(self, key: slice) -> HostArray: ...

    @overload
    def __getitem__(self, key: SupportsIndex) -> Any: ...

    def __getitem__(self, key: Any) -> Any:
        """Return a part: ``host[a:b]`` a `HostArray`, ``host[i]`` an element, or a `HostArray`.

        Raises:
            TypeError: The key is no whole number and no slice.
            IndexError: It is outside of the first axis, or has a step.
        """
        if hasattr(key, "__index__"):
            return self._row(key.__index__())
        start, count = part(self.shape, key, self)
        row_bytes = self.nbytes // self.shape[0] if self.shape[0] else 0
        extent = Extent((count, *self.shape[1:]), self.dtype, count * row_bytes)
        return HostArray.make(self._memory, self._offset_bytes + start * row_bytes, extent)

    def _row(self, index: int) -> Any:
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"{index} is outside of the {count} elements of {self!r}")
        row = self[index % count : index % count + 1].view(shape=self.shape[1:])
        return row if row.shape else row.tolist()

    def __repr__(self) -> str:
        return f"<HostArray {self.dtype} {self.shape}>"
