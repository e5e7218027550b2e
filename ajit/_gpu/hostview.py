"""Host memory of somebody else: where it is, how large it is, and a hold on it."""

from __future__ import annotations

import ctypes
import math
from typing import Any

from ajit.errors import ArgumentError

__all__ = ["HostView"]


class HostView:
    """Contiguous memory of an object that has the buffer protocol or ``__array_interface__``.

    The second is for dtypes that the buffer protocol has no letter for, such as bfloat16.

    Attributes:
        address: Of the first byte.
        nbytes: Its size in bytes; may be 0.
        owner: Keeps the address good while it is referred to.
    """

    __slots__ = ("address", "nbytes", "owner")

    def __init__(self, obj: Any, *, writable: bool = False) -> None:
        """Look at an object.

        Raises:
            ArgumentError: It has no memory to look at, it is not contiguous, or it is read-only
                where it must be written.
        """
        self.owner: Any = obj
        try:
            view = memoryview(obj)
        except (TypeError, ValueError, BufferError) as error:
            self.address, self.nbytes = _by_array_interface(obj, error, writable=writable)
            return
        if not view.c_contiguous:
            raise _refusal(obj, writable, "its memory is not C-contiguous; copy it first")
        if writable and view.readonly:
            raise _refusal(obj, writable, "its memory is read-only")
        self.owner = view  # an exported buffer can be neither resized nor freed
        self.nbytes = view.nbytes
        self.address = _address(view)

    @classmethod
    def of_new_bytes(cls, nbytes: int) -> HostView:
        """Look at a new bytes object, `owner`, that is filled before anybody else sees it.

        Filling a bytearray and making bytes of it would copy everything once more, on the loop.
        """
        view = cls(b"")
        if nbytes:
            view.owner = _new_bytes(None, nbytes)
            view.address = _bytes_address(view.owner)
            view.nbytes = nbytes
        else:
            view.owner = b""
        return view


def _by_array_interface(obj: Any, error: Exception, *, writable: bool) -> tuple[int, int]:
    interface = getattr(obj, "__array_interface__", None)
    if interface is None:
        raise _refusal(obj, writable, f"it has no usable buffer: {error}") from error
    if interface.get("strides") is not None:
        raise _refusal(obj, writable, "its memory is not C-contiguous; copy it first")
    address, readonly = interface["data"]
    if writable and readonly:
        raise _refusal(obj, writable, "its memory is read-only")
    return address, math.prod(interface["shape"]) * int(interface["typestr"][2:])


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


_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.argtypes = (ctypes.c_char_p, ctypes.c_ssize_t)
_new_bytes.restype = ctypes.py_object
_bytes_address = ctypes.pythonapi.PyBytes_AsString
_bytes_address.argtypes = (ctypes.py_object,)
_bytes_address.restype = ctypes.c_void_p
