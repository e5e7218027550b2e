"""What goes between Python and the executor: layouts, and the functions of the library.

Mirrors ``native/executor.h``; a test compares the sizes. Functions that only touch memory are
called with the GIL held (PyDLL): letting it go costs up to the interpreter's switch interval, 5 ms,
to get it back beside a busy thread. The four that enter the driver, or wait for work, are called
with the GIL released (CDLL), on the CUDA thread only (rule R1).
"""

from __future__ import annotations

import ctypes
import functools
import struct
from pathlib import Path
from typing import Any, Final

__all__ = [
    "ACCEPTED",
    "ALLOC",
    "ALLOC_HOST",
    "CALL",
    "CLOSE_PORT",
    "COPY",
    "COPY_ON_DEVICE",
    "COPY_TO_DEVICE",
    "COPY_TO_HOST",
    "EXPIRED",
    "FILL",
    "FULL",
    "IS_LOST",
    "LAUNCH",
    "LOAD",
    "LOST",
    "MARK",
    "NATIVE",
    "NO_MEMORY",
    "RECORD",
    "RECORDS",
    "RETIRED",
    "SETTLED",
    "SIMPLE",
    "STOP",
    "STOPPED",
    "SUBMISSION",
    "Counters",
    "DeviceInfo",
    "FillLayout",
    "Function",
    "LaunchLayout",
    "Library",
    "LoadLayout",
    "Options",
    "Resource",
    "library",
]  # fmt: skip

NATIVE: Final = Path(__file__).parent / "native"
"""Where the libraries lie, in a wheel and in a checkout alike."""

# Operations.
LAUNCH, COPY_TO_DEVICE, COPY_TO_HOST, COPY_ON_DEVICE, FILL, MARK = 1, 2, 3, 4, 5, 6
ALLOC, ALLOC_HOST, LOAD = 16, 17, 18
CLOSE_PORT, CALL, STOP = 32, 33, 34
# Answers of submit.
ACCEPTED, FULL, STOPPED, LOST, NO_MEMORY = 0, 1, 2, 3, 4
# Flags of a record.
SETTLED, RETIRED, IS_LOST, EXPIRED = 1, 2, 4, 8

SUBMISSION: Final = struct.Struct("<QQQII")
"""Port, number, stream, count of operations, their bytes."""
LaunchLayout: Final = "IIQ28sIQQ"
"""Opcode, bytes, function, grid, block and shared bytes as packed before, argument bytes, 0, 0."""
COPY: Final = struct.Struct("<IIQQQ")
"""Opcode, bytes, target, source, size."""
FillLayout: Final = struct.Struct("<IIQQQ")
"""Opcode, bytes, target, size, value."""
LoadLayout: Final = struct.Struct("<IIQQQ")
"""Opcode, bytes, image, names, count."""
SIMPLE: Final = struct.Struct("<IIQ")
"""Opcode, bytes, size: an allocation, or an operation that has no fields."""

RECORDS: Final = 256
RECORD: Final = struct.Struct("<QiIQQQ")
"""Number, code, flags, value, detail, nanoseconds."""

_u64, _u32, _i32 = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int32


class Options(ctypes.Structure):
    """``struct ajit_options``."""

    _fields_ = (
        ("capacity", _u64), ("spin_ns", _u64), ("deadline_ns", _u64),
        ("ordinal", _i32), ("reserved", _i32),
    )  # fmt: skip


class DeviceInfo(ctypes.Structure):
    """``struct ajit_device_info``."""

    _fields_ = (
        ("name", ctypes.c_char * 256), ("total_memory_bytes", _u64), ("driver_version", _i32),
        ("major", _i32), ("minor", _i32), ("max_threads", _i32), ("max_block", _i32 * 3),
        ("max_grid", _i32 * 3), ("shared_bytes", _i32), ("shared_optin_bytes", _i32),
        ("warp_size", _i32), ("multiprocessors", _i32),
    )  # fmt: skip


COUNTERS = (
    "dispatched", "settled", "failed", "launches", "copies", "allocations", "loads", "in_flight",
    "live_memory_bytes", "live_resources", "deferred_frees", "lost_callbacks", "expired", "sleeps",
    "entered_ns",
)  # fmt: skip


class Counters(ctypes.Structure):
    """``struct ajit_counters``."""

    _fields_ = tuple((name, _u64) for name in COUNTERS)


class Function(ctypes.Structure):
    """``struct ajit_function``."""

    _fields_ = (
        ("handle", ctypes.c_void_p), ("param_count", _u32), ("param_bytes", _u32),
        ("max_threads", _i32), ("shared_bytes", _i32), ("local_bytes", _i32), ("registers", _i32),
        ("max_dynamic_shared_bytes", _i32), ("reserved", _i32),
        ("param_offsets", ctypes.POINTER(_u32)),
    )  # fmt: skip


class Resource(ctypes.Structure):
    """The part of ``struct ajit_resource`` that Python reads."""

    _fields_ = (
        ("kind", _u64), ("pointer", _u64), ("size", _u64), ("functions", ctypes.POINTER(Function)),
    )  # fmt: skip


LAYOUT = (
    "submission", "launch", "copy", "fill", "alloc", "load", "record", "function", "device_info",
    "counters", "options", "port_wanted", "port_records", "port_event_fd", "executor_info",
    "executor_counters", "executor_error", "executor_lost",
)  # fmt: skip


class Library:
    """The executor's library; get it with `library()`.

    Attributes:
        layout: Sizes and offsets that the library was built with, by name.
    """

    def __init__(self, path: Path) -> None:
        quick, slow = ctypes.PyDLL(str(path)), ctypes.CDLL(str(path))
        pointer = ctypes.c_void_p
        self.create = _typed(quick.ajit_executor_create, pointer, ctypes.c_char_p, pointer)
        self.destroy = _typed(quick.ajit_executor_destroy, None, pointer)
        self.submit = _typed(quick.ajit_submit, ctypes.c_int, ctypes.c_char_p)
        self.post = _typed(quick.ajit_post, None, pointer, pointer)
        self.port_create = _typed(quick.ajit_port_create, pointer, pointer, _u64, _u64)
        self.port_release = _typed(quick.ajit_port_release, None, pointer)
        self.port_drain = _typed(quick.ajit_port_drain, ctypes.c_uint32, pointer)
        self.port_wait = _typed(quick.ajit_port_wait, ctypes.c_uint32, pointer)
        self.serve_begin = _typed(slow.ajit_serve_begin, ctypes.c_int, pointer, ctypes.c_char_p)
        self.serve = _typed(slow.ajit_serve, ctypes.c_int, pointer, ctypes.POINTER(_u64))
        self.serve_called = _typed(slow.ajit_serve_called, None, pointer, ctypes.c_int)
        self.serve_end = _typed(slow.ajit_serve_end, ctypes.c_int, pointer)
        sizes = (_u64 * len(LAYOUT))()
        _typed(quick.ajit_layout, None, ctypes.POINTER(_u64))(sizes)
        self.layout = dict(zip(LAYOUT, sizes, strict=True))


def _typed(function: Any, result: Any, *arguments: Any) -> Any:
    function.restype, function.argtypes = result, arguments
    return function


@functools.cache
def library() -> Library:
    """Return the executor's library, loaded at the first call.

    Raises:
        OSError: It was not built, or not for this machine.
    """
    return Library(NATIVE / "libajit_executor.so")
