"""Arrays of other libraries: where their memory is, by DLPack or ``__cuda_array_interface__``.

A capsule that is not consumed deletes its tensor when it is collected, so holding it is all that it
takes to keep the memory (the DLPack specification).
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

from ajit._gpu.capsule import CPU, CUDA, CUDA_HOST, CUDA_MANAGED
from ajit._gpu.dtype import name_of_dlpack, name_of_typestr
from ajit._gpu.hostarray import HostArray

__all__ = ["ForeignArray", "foreign_array", "foreign_host_array", "gapless"]

_REACHABLE = {"cuda": (CUDA, CUDA_HOST, CUDA_MANAGED), "cpu": (CPU,)}
"""DLPack's device types that a kernel can work on, by the kind of the device."""
_ON_HOST = (CPU, CUDA_HOST)
_BITS_OF_A_BYTE = 8
_GAPS = "its memory is not C-contiguous; give a copy: x.contiguous() (torch), or "
_GAPS += "np.ascontiguousarray(x)"


class ForeignArray:
    """Contiguous memory of another library.

    Attributes:
        address: Of the first byte.
        nbytes: Its size in bytes.
        shape: Elements along each axis.
        dtype: Name of their type, or None: one that ajit does not know.
        owner: Keeps the memory.
    """

    __slots__ = ("address", "dtype", "nbytes", "owner", "shape")

    def __init__(
        self, address: int, shape: tuple[int, ...], itemsize: int, dtype: str | None, owner: object
    ) -> None:
        self.address, self.shape, self.dtype, self.owner = address, shape, dtype, owner
        self.nbytes = math.prod(shape) * itemsize


def foreign_array(value: Any, kind: str) -> ForeignArray | None:
    """Return where an array is, or None if it is no array on the device.

    Args:
        value: Anything.
        kind: Of the device: ``cuda``, or ``cpu``, where device memory is host memory. There only
            DLPack is taken, and nothing that has the buffer protocol: that is host memory on every
            device, and must be uploaded for the program to run on a GPU as well.

    Raises:
        ValueError: It is an array on the device, but not a contiguous one.
    """
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is not None and kind == "cuda":
        itemsize, shape = int(interface["typestr"][2:]), tuple(interface["shape"])
        if not gapless(shape, interface.get("strides"), itemsize):
            raise ValueError(_GAPS)
        name = name_of_typestr(interface["typestr"])
        return ForeignArray(int(interface["data"][0] or 0), shape, itemsize, name, value)
    if _is_host_memory(value) or _dlpack_device(value) not in _REACHABLE[kind]:
        return None
    return _taken(value)


def foreign_host_array(value: Any) -> ForeignArray | None:
    """Return where an array in host memory is, by DLPack, or None if it is none.

    Raises:
        ValueError: Its memory has gaps, or its library does not give it away.
    """
    where = _dlpack_device(value)
    if where is None:
        return None
    if where not in _ON_HOST:
        raise ValueError("it is on a device; device.copy(target, x) takes it there")
    return _taken(value)


def _dlpack_device(value: Any) -> int | None:
    """Return the type of device that an array says it is on; None: it is no array of DLPack."""
    where = getattr(value, "__dlpack_device__", None)
    if where is None or isinstance(value, type):
        return None
    try:
        return int(where()[0])
    except Exception as error:
        raise ValueError(f"__dlpack_device__ does not tell where it is: {error!r}") from error


def _taken(value: Any) -> ForeignArray:
    """Take an array by DLPack.

    Raises:
        ValueError: Its library does not give it away, or its memory has gaps.
    """
    try:
        capsule = value.__dlpack__()
    except Exception as error:  # a tensor that needs gradients, a lazy one, ...
        raise ValueError(f"its library does not give it away: {error}") from error
    return _read(capsule)


def gapless(shape: tuple[int, ...], strides: Any, unit: int = 1) -> bool:
    """Return whether elements lie one after the other, in C order.

    Args:
        shape: Of the array.
        strides: Its strides, or None: they do.
        unit: The stride between neighbours.
    """
    if strides is None or 0 in shape:
        return True
    expected = unit
    for size, stride in zip(reversed(shape), reversed(tuple(strides)), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _is_host_memory(value: Any) -> bool:
    if isinstance(value, HostArray):
        return True
    try:
        memoryview(value)
    except (TypeError, ValueError, BufferError):
        return hasattr(value, "__array_interface__")
    return True


class _Tensor(ctypes.Structure):
    """``DLTensor``."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
_capsule_pointer.restype = ctypes.c_void_p


def _read(capsule: object) -> ForeignArray:
    tensor = _Tensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = [tensor.strides[i] for i in range(tensor.ndim)] if tensor.strides else None
    if not gapless(shape, strides):
        raise ValueError(_GAPS)
    bits = tensor.lanes * tensor.bits
    name = name_of_dlpack(tensor.code, tensor.bits) if tensor.lanes == 1 else None
    address = (tensor.data or 0) + tensor.byte_offset
    return ForeignArray(address, shape, bits // _BITS_OF_A_BYTE, name, capsule)
