"""What goes between Python and the executor: layouts, and the functions of the library.

Mirrors ``native/executor/wire.h``; a test compares the sizes. Functions that only touch memory are
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
    "ACCEPTED", "ALLOC", "ALLOC_HOST", "ALL_LANES", "CALL", "CAPTURE", "CLOSE_PORT", "COPIES",
    "COPY", "COPY_ON_DEVICE", "COPY_TO_DEVICE", "COPY_TO_HOST", "ELAPSED", "ELAPSED_LAYOUT",
    "EXPIRED", "FILL", "FULL", "HEARTBEAT", "HEARTBEAT_MAGIC", "IS_LOST", "JOIN", "LAUNCH",
    "LAUNCH_GRAPH", "LOAD", "LOST", "MAKE_EVENT", "MAKE_STREAM", "MARK", "NATIVE", "NO_MEMORY",
    "OPERATIONS", "RECORD", "RECORDS", "RECORD_EVENT", "RETIRED", "SETTLED", "SHARED_LANE",
    "SIMPLE", "STEP", "STEPPED", "STOP", "STOPPED", "SUBMISSION", "TIME", "TIMED", "WAIT",
    "Counters", "DeviceInfo", "FillLayout", "Function", "LaunchLayout", "Library", "LoadLayout",
    "Options", "Resource", "library", "simple", "submission",
]  # fmt: skip

NATIVE: Final = Path(__file__).parent / "native"
"""Where the libraries lie, in a wheel and in a checkout alike."""

# Operations.
LAUNCH, COPY_TO_DEVICE, COPY_TO_HOST, COPY_ON_DEVICE, FILL, MARK = 1, 2, 3, 4, 5, 6
RECORD_EVENT, WAIT, STEP, COPIES, JOIN, LAUNCH_GRAPH = 7, 8, 9, 10, 11, 12
ALLOC, ALLOC_HOST, LOAD, MAKE_STREAM, MAKE_EVENT, ELAPSED, CAPTURE = 16, 17, 18, 19, 20, 21, 22
CLOSE_PORT, CALL, STOP = 32, 33, 34

OPERATIONS: Final = {
    LAUNCH: "launch", COPY_TO_DEVICE: "copy to the device", COPY_TO_HOST: "copy to the host",
    COPY_ON_DEVICE: "copy on the device", FILL: "fill", MARK: "mark", RECORD_EVENT: "record",
    WAIT: "wait for an event", STEP: "step", COPIES: "copies", JOIN: "wait for a stream",
    LAUNCH_GRAPH: "launch a graph", ALLOC: "allocate", ALLOC_HOST: "allocate pinned memory",
    LOAD: "load", MAKE_STREAM: "make a stream", MAKE_EVENT: "make an event",
    ELAPSED: "elapsed time", CAPTURE: "capture", CALL: "run Python", 48: "free", 49: "ask a stream",
}  # fmt: skip
"""What the heartbeat's operation is called."""

# Answers of submit.
ACCEPTED, FULL, STOPPED, LOST, NO_MEMORY = 0, 1, 2, 3, 4
# Flags of a record.
SETTLED, RETIRED, IS_LOST, EXPIRED, STEPPED, TIMED = 1, 2, 4, 8, 16, 32

ALL_LANES: Final = (1 << 64) - 1
SHARED_LANE: Final = 63
"""Of streams that the executor did not make."""

SUBMISSION: Final = struct.Struct("<QQQQQII")
"""Port, number, stream, deadline in nanoseconds, lane and `TIME`, operations, their bytes."""
TIME: Final = 1 << 32
"""Added to the lane of a submission: the device tells how long it worked."""
LaunchLayout: Final = "IIQI44s"
"""Opcode, bytes, function, argument bytes, and the shape as packed before, see `SHAPE`."""
SHAPE: Final = struct.Struct("<10IHh")
"""Grid, block, shared bytes, cluster, flags, priority."""
CLUSTERED, PROGRAMMATIC, PRIORITISED = 1, 2, 4
"""Flags of a shape; 0: a plain launch."""
COPY: Final = struct.Struct("<IIQQQ")
"""Opcode, bytes, target, source, size."""
FillLayout: Final = struct.Struct("<IIQQQ")
"""Opcode, bytes, target, size, value."""
LoadLayout: Final = struct.Struct("<IIQQQ")
"""Opcode, bytes, image, names, count."""
SIMPLE: Final = struct.Struct("<IIQ")
"""Opcode, bytes, and the one number that most operations have."""
ELAPSED_LAYOUT: Final = struct.Struct("<IIQQQ")
"""Opcode, bytes, start, end, 0."""
HEARTBEAT: Final = struct.Struct("<9Q")
"""Magic, pid, entered, operation, number, progress, in flight, oldest, lost."""
HEARTBEAT_MAGIC: Final = 0x3130544145424A41

RECORDS: Final = 256
RECORD: Final = struct.Struct("<QiIQQQ")
"""Number, code, flags, value, detail, nanoseconds."""

_u64, _u32, _i32 = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int32


class Options(ctypes.Structure):
    """``struct ajit_options``."""

    _fields_ = (
        ("capacity", _u64), ("spin_ns", _u64), ("deadline_ns", _u64),
        ("memory_limit_bytes", _u64), ("stall_ns", _u64), ("pool_idle_ns", _u64),
        ("ordinal", _i32), ("dump_signal", _i32), ("plain_memory", _i32), ("time_tickets", _i32),
    )  # fmt: skip


class DeviceInfo(ctypes.Structure):
    """``struct ajit_device_info``."""

    _fields_ = (
        ("name", ctypes.c_char * 256), ("total_memory_bytes", _u64), ("driver_version", _i32),
        ("major", _i32), ("minor", _i32), ("max_threads", _i32), ("max_block", _i32 * 3),
        ("max_grid", _i32 * 3), ("shared_bytes", _i32), ("shared_optin_bytes", _i32),
        ("warp_size", _i32), ("multiprocessors", _i32), ("clusters", _i32), ("memory_pools", _i32),
    )  # fmt: skip


COUNTERS = (
    "dispatched", "settled", "failed", "launches", "copies", "allocations", "loads", "in_flight",
    "live_memory_bytes", "live_resources", "deferred_frees", "lost_callbacks", "expired", "sleeps",
    "stalls", "behind_loads", "behind_loads_ns", "longest_behind_load_ns", "reserved_memory_bytes",
)  # fmt: skip


class Counters(ctypes.Structure):
    """``struct ajit_counters``."""

    _fields_ = tuple((name, _u64) for name in COUNTERS)


class Function(ctypes.Structure):
    """``struct ajit_function``."""

    _fields_ = (
        ("handle", ctypes.c_void_p), ("param_count", _u32), ("param_bytes", _u32),
        ("max_threads", _i32), ("shared_bytes", _i32), ("local_bytes", _i32), ("registers", _i32),
        ("max_dynamic_shared_bytes", _i32), ("large_clusters", _i32),
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
    "executor_counters", "executor_error", "executor_lost", "executor_heartbeat",
    "executor_heartbeat_fd", "executor_tail", "executor_head", "elapsed", "heartbeat",
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
        self.post = _typed(quick.ajit_post, None, pointer, pointer, _u64)
        packed = ctypes.c_char_p  # structures, from the `struct` module
        self.tensor = _typed(
            quick.ajit_tensor_make, pointer,
            pointer, pointer, _u64, packed, packed,
        )  # fmt: skip
        self.tensor_destructor = _typed(quick.ajit_tensor_destructor, pointer, pointer, pointer)
        self.host_make = _typed(quick.ajit_host_make, pointer, _u64)
        self.host_release = _typed(quick.ajit_host_release, None, pointer)
        self.host_tensor = _typed(
            quick.ajit_host_tensor_make, pointer,
            pointer, _u64, packed, packed,
        )  # fmt: skip
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


def submission(
    port: int,
    number: int,
    operations: bytes,
    *,
    count: int = 1,
    target: tuple[int, int] = (0, 0),
    deadline_ns: int = 0,
    timed: bool = False,
) -> bytes:
    """Return a submission of operations. `target` is a stream's handle and its lane."""
    handle, lane = target
    how = lane + TIME if timed else lane
    header = SUBMISSION.pack(port, number, handle, deadline_ns, how, count, len(operations))
    return header + operations


def simple(opcode: int, value: int = 0) -> bytes:
    """Return an operation that has one number, or none."""
    return SIMPLE.pack(opcode, SIMPLE.size, value)


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
