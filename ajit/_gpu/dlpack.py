"""Arrays of other libraries: where their memory is, by DLPack or ``__cuda_array_interface__``.

A capsule that nobody consumes frees its tensor when it is collected, so holding it is all that it
takes to keep the memory (the DLPack specification).
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

from ajit._gpu.wire import library

__all__ = ["ForeignArray", "dlpack_capsule", "dlpack_device", "foreign_array"]

_CPU, _CUDA, _CUDA_HOST, _CUDA_MANAGED = 1, 2, 3, 13
_REACHABLE = {"cuda": (_CUDA, _CUDA_HOST, _CUDA_MANAGED), "cpu": (_CPU,)}
"""DLPack's device types that a kernel can work on, by the kind of the device."""
_BITS_OF_A_BYTE = 8


class ForeignArray:
    """Contiguous memory that another library made on the device.

    Attributes:
        address: Of the first byte.
        nbytes: Its size in bytes.
        owner: Keeps the memory.
    """

    __slots__ = ("address", "nbytes", "owner")

    def __init__(self, address: int, nbytes: int, owner: object) -> None:
        self.address, self.nbytes, self.owner = address, nbytes, owner


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
        if interface.get("strides") is not None:
            raise ValueError("its memory is not C-contiguous")
        itemsize = int(interface["typestr"][2:])
        return ForeignArray(
            int(interface["data"][0] or 0), math.prod(interface["shape"]) * itemsize, value
        )
    where = getattr(value, "__dlpack_device__", None)
    if where is None or where()[0] not in _REACHABLE[kind] or _is_host_memory(value):
        return None
    capsule = value.__dlpack__()
    return _read(capsule)


def _is_host_memory(value: Any) -> bool:
    try:
        memoryview(value)
    except TypeError:
        return False
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
    shape = [tensor.shape[i] for i in range(tensor.ndim)]
    if tensor.strides and not _contiguous(shape, [tensor.strides[i] for i in range(tensor.ndim)]):
        raise ValueError("its memory is not C-contiguous")
    nbytes = math.prod(shape) * tensor.lanes * tensor.bits // _BITS_OF_A_BYTE
    return ForeignArray((tensor.data or 0) + tensor.byte_offset, nbytes, capsule)


def _contiguous(shape: list[int], strides: list[int]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


_NAME = ctypes.c_char_p(b"dltensor")
_DESTRUCTOR = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _DESTRUCTOR)(
    ("PyCapsule_New", ctypes.pythonapi)
)
# By address: in its destructor the capsule is no object any more.
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_pointer_at = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _delete_unconsumed(capsule: int) -> None:
    """Free the tensor of a capsule that nobody consumed: a consumer renames it."""
    if _is_valid(capsule, _NAME):
        library().tensor_delete(_pointer_at(capsule, _NAME))


_destructor = _DESTRUCTOR(_delete_unconsumed)


def dlpack_device(kind: str, ordinal: int) -> tuple[int, int]:
    """Return DLPack's type and number of a device: the CPU driver's memory is host memory."""
    return (_CUDA, ordinal) if kind == "cuda" else (_CPU, 0)


def dlpack_capsule(
    executor: int, resource: int, address: int, nbytes: int, device: tuple[int, int]
) -> object:
    """Return memory as a capsule with a DLPack tensor of bytes, which holds the resource.

    Raises:
        MemoryError: There is no host memory for the tensor.
    """
    tensor = library().tensor(executor, resource, address, nbytes, *device)
    if not tensor:
        raise MemoryError("no host memory for a tensor")
    return _new_capsule(tensor, _NAME, _destructor)
