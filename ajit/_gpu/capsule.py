"""Memory for other libraries, as capsules of DLPack.

A library that takes a capsule renames it and deletes the tensor later, on any thread: the tensor
and its deleter are the executor's, in C. So is the destructor of capsules that were never taken.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from typing import TYPE_CHECKING, Protocol

from ajit._gpu.dtype import DTYPES
from ajit._gpu.wire import TENSOR_TYPE, library

if TYPE_CHECKING:
    from ajit._gpu.extent import Extent

__all__ = ["CPU", "CUDA", "CUDA_HOST", "CUDA_MANAGED", "Exporter", "dlpack_capsule"]

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
"""DLPack's types of devices."""


class Exporter(Protocol):
    """Memory that makes tensors of itself."""

    def _tensor(self, address: int, kind: bytes, sizes: bytes) -> int | None:
        """Return a tensor of memory in it, which keeps it, or None without host memory."""


def dlpack_capsule(
    memory: Exporter,
    address: int,
    extent: Extent,
    device: tuple[int, int],
    asked: tuple[object, object],
) -> object:
    """Return memory as a capsule with a DLPack tensor, which keeps the memory.

    Args:
        memory: What the tensor is part of.
        address: Of its first byte.
        extent: Its shape and type.
        device: DLPack's type and number of the device.
        asked: The consumer's ``dl_device`` and ``copy``.

    Raises:
        BufferError: The consumer wants a copy, or the memory on another device.
        MemoryError: There is no host memory for the tensor.
    """
    where, copy = asked
    if copy:
        raise BufferError("ajit offers its memory as it is: copy=True is not possible")
    if where is not None and where != device:
        raise BufferError(f"the memory is on the DLPack device {device}, not on {where}")
    dtype, sizes = DTYPES[extent.dtype], extent.shape
    kind = TENSOR_TYPE.pack(dtype.code, 8 * dtype.itemsize, *device, len(sizes))
    tensor = memory._tensor(address, kind, struct.pack(f"={len(sizes)}q", *sizes))  # noqa: SLF001  # private to users, not to the package
    if not tensor:
        raise MemoryError("no host memory for a tensor")
    return _new_capsule(tensor, _NAME, _destructor())


_NAME = ctypes.c_char_p(b"dltensor")
_new_capsule = ctypes.PYFUNCTYPE(
    ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p
)(("PyCapsule_New", ctypes.pythonapi))


@functools.cache
def _destructor() -> int:
    python = ctypes.pythonapi
    functions = (python.PyCapsule_IsValid, python.PyCapsule_GetPointer)
    pointers = [ctypes.cast(function, ctypes.c_void_p) for function in functions]
    destructor: int = library().tensor_destructor(*pointers)
    return destructor
