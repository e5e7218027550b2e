"""Host memory of other objects: where it is, what it holds, and a hold on it."""

from __future__ import annotations

import ctypes
import math
import operator
import re
from typing import Any

from ajit._gpu.dlpack import foreign_host_array, gapless
from ajit._gpu.dtype import DTYPES, name_of_format, name_of_typestr
from ajit._gpu.hostarray import HostArray
from ajit.errors import ArgumentError

__all__ = ["HostView"]

_MOST_BYTES = 1 << 63
_MALFORMED = (LookupError, TypeError, ValueError, OverflowError)
"""What reading an ``__array_interface__`` raises that does not keep to its rules."""
_GAPS = "its memory is not C-contiguous; give a copy: np.ascontiguousarray(x), or bytes(x)"


_NAME = re.compile(r":[^:]*:")
"""Of a field, in a format of the buffer protocol: ``T{i:a:O:b:}``."""
_OBJECT = "'|O'"
"""A field of Python objects, in the description of ``__array_interface__``."""


class HostView:
    """Contiguous memory of an object with the buffer protocol, ``__array_interface__`` or DLPack.

    The others are for types that the buffer protocol has no letter for, such as bfloat16.

    Attributes:
        address: Of the first byte.
        nbytes: Its size in bytes; may be 0.
        shape: Elements along each axis.
        dtype: Name of their type, or None: none that ajit knows.
        called: What the object calls their type, for messages.
        owner: Keeps the address good while it is referred to.
    """

    __slots__ = ("address", "called", "dtype", "nbytes", "owner", "shape")

    def __init__(self, obj: Any, *, writable: bool = False) -> None:
        """Look at an object.

        Raises:
            ArgumentError: It has no memory to look at, it is not contiguous, or it is read-only
                where it must be written.
        """
        self.owner: Any = obj
        self.dtype: str | None
        if isinstance(obj, HostArray):
            self.address, self.nbytes = obj.pointer, obj.nbytes
            self.shape, self.dtype, self.called = obj.shape, obj.dtype, obj.dtype
            return
        try:
            view = memoryview(obj)
        except (TypeError, ValueError, BufferError) as error:
            self._look_further(obj, error, writable)
            return
        if not view.c_contiguous:
            raise _refusal(obj, writable, _GAPS)
        if writable and view.readonly:
            raise _refusal(obj, writable, "its memory is read-only")
        _refuse(obj, writable, objects="O" in _NAME.sub("", view.format))
        self.owner = view  # an exported buffer can be neither resized nor freed
        self.nbytes, self.shape = view.nbytes, view.shape or ()
        self.called = view.format
        self.dtype = name_of_format(view.format, view.itemsize)
        self.address = _address(view)

    def _look_further(self, obj: Any, error: Exception, writable: bool) -> None:  # noqa: FBT001  # private
        interface = getattr(obj, "__array_interface__", None)
        if interface is not None:
            try:
                self._take_interface(obj, interface, writable)
            except _MALFORMED as malformed:
                detail = f"its __array_interface__ is malformed: {malformed!r}"
                raise _refusal(obj, writable, detail) from malformed
            return
        try:
            array = foreign_host_array(obj)
        except ValueError as refused:
            raise _refusal(obj, writable, str(refused)) from refused
        if array is None:
            raise _refusal(obj, writable, _no_memory(obj, error)) from error
        self.address, self.nbytes, self.owner = array.address, array.nbytes, array
        self.shape, self.dtype = array.shape, array.dtype
        self.called = str(getattr(obj, "dtype", "unknown"))

    def _take_interface(self, obj: Any, interface: Any, writable: bool) -> None:  # noqa: FBT001  # private
        self.shape, typestr = tuple(interface["shape"]), interface["typestr"]
        itemsize = _itemsize(typestr)
        if not gapless(self.shape, interface.get("strides"), itemsize):
            raise _refusal(obj, writable, _GAPS)
        nbytes = math.prod(self.shape) * itemsize
        if itemsize < 1 or min(self.shape, default=0) < 0 or nbytes >= _MOST_BYTES:
            raise ValueError(f"shape {self.shape} of {typestr}")
        data = interface.get("data")
        if not isinstance(data, tuple):  # an object with a buffer; the object itself has none
            memory = memoryview(data).cast("B")
            offset = operator.index(interface.get("offset", 0))
            if not 0 <= offset <= memory.nbytes - nbytes:
                raise ValueError(f"{nbytes} bytes from {offset} on, its data has {memory.nbytes}")
            data, self.owner = (_address(memory) + offset, memory.readonly), (obj, memory)
        if writable and data[1]:
            raise _refusal(obj, writable, "its memory is read-only")
        objects = typestr[1:2] == "O" or _OBJECT in str(interface.get("descr"))
        _refuse(obj, writable, objects=objects)
        self.address, self.nbytes = operator.index(data[0]), nbytes
        self.called = str(getattr(obj, "dtype", typestr))
        # numpy shows the types of ml_dtypes as bytes without a meaning; they have names.
        known = DTYPES.get(self.called)
        named = self.called if known is not None and known.itemsize == itemsize else None
        self.dtype = named or name_of_typestr(typestr)


def _refuse(obj: object, writable: bool, *, objects: bool) -> None:  # noqa: FBT001  # private
    """Refuse arrays of Python objects: bytes there are addresses. And masks, which are lost."""
    if objects:
        raise _refusal(
            obj, writable, "its elements are Python objects; convert them: x.astype(np.float32)"
        )
    if hasattr(obj, "filled") and hasattr(obj, "mask"):
        raise _refusal(obj, writable, "it is a masked array; take x.filled(value)")


def _no_memory(obj: object, error: Exception) -> str:
    if isinstance(obj, list | tuple | int | float):
        return "it is no array: np.asarray(x, np.float32) makes one"
    return f"it has no usable buffer: {error}"


def _itemsize(typestr: str) -> int:
    """Return the size of an element: ``<f4``, ``<U3`` (of 4 bytes each), ``<M8[us]``."""
    size = int(typestr[2:].partition("[")[0])
    return 4 * size if typestr[1] == "U" else size


def _refusal(obj: object, writable: bool, detail: str) -> ArgumentError:  # noqa: FBT001  # private
    direction = "to" if writable else "from"
    return ArgumentError(operation=f"copy {direction} a {type(obj).__name__}", detail=detail)


class _PyBuffer(ctypes.Structure):
    """``Py_buffer`` of the C API: the fields up to the address, and room for the others."""

    _fields_ = (("buf", ctypes.c_void_p), ("others", ctypes.c_void_p * 16))


_PyBUF_SIMPLE = 0
_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.c_void_p, ctypes.c_int)
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.c_void_p,)
_release_buffer.restype = None


def _address(view: memoryview) -> int:
    """The address of a view. `ctypes` itself gives it for writable memory only."""
    raw = _PyBuffer()
    _get_buffer(view, ctypes.byref(raw), _PyBUF_SIMPLE)
    address = raw.buf or 0
    _release_buffer(ctypes.byref(raw))
    return address
