"""What goes between Python and the executor: layouts, and the functions of the library.

Numbers and layouts are read from ``native/table.def``, which the C sources include; a library that
was built from another table is refused when it is loaded. Functions that only touch memory are
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

from ajit._gpu.table import StaleLibrary, Table

__all__ = [
    "ACCEPTED", "ALLOC", "ALLOC_HOST", "ALL_LANES", "CALL", "CAPTURE", "CLOSE_PORT", "CLUSTERED",
    "COLUMN", "COPIES", "COPY", "COPY_ON_DEVICE", "COPY_TO_DEVICE", "COPY_TO_HOST", "COUNTERS",
    "ELAPSED", "ELAPSED_LAYOUT", "EXECUTOR", "EXPIRED", "FILL", "FULL", "GOOD", "HEARTBEAT",
    "HEARTBEAT_MAGIC", "IS_LOST", "JOIN", "LANES", "LAUNCH", "LAUNCH_FIXED", "LAUNCH_FIXED_BYTES",
    "LAUNCH_GRAPH", "LAUNCH_OPERATION", "LAUNCH_SUBMISSION", "LOAD", "LOST", "MAKE_EVENT",
    "MAKE_STREAM", "MARK", "NATIVE", "NO_MEMORY", "NO_ROOM", "OPERATIONS", "OUTSIDE", "PAGES",
    "PAGES_LAYOUT", "PRIORITISED", "PROGRAMMATIC", "RANGES", "RECORD", "RECORDS", "RECORD_EVENT",
    "REGION", "REGISTER", "RETIRED", "SETTLED", "SHAPE", "SHARED_LANE", "SIMPLE", "SOURCE_OUTSIDE",
    "STEP", "STEPPED", "STOP", "STOPPED", "SUBMISSION", "TABLE", "TENSOR_TYPE", "TIME", "TIMED",
    "TWICE", "WAIT", "Counters", "DeviceInfo", "FillLayout", "Function", "LaunchLayout", "Library",
    "LoadLayout", "Options", "Resource", "StaleLibrary", "library", "simple", "submission",
]  # fmt: skip

NATIVE: Final = Path(__file__).parent / "native"
"""Where the libraries lie, in a wheel and in a checkout alike."""

EXECUTOR: Final = NATIVE / "libajit_executor.so"

TABLE: Final = Table(NATIVE / "table.def")
"""What is read here; the library is held against it when it is loaded."""

# Operations.
(
    LAUNCH, COPY_TO_DEVICE, COPY_TO_HOST, COPY_ON_DEVICE, FILL, MARK,
    RECORD_EVENT, WAIT, STEP, COPIES, JOIN, LAUNCH_GRAPH, PAGES,
) = TABLE.numbers(
    "OPCODE",
    "LAUNCH", "COPY_TO_DEVICE", "COPY_TO_HOST", "COPY_ON_DEVICE", "FILL", "MARK",
    "RECORD_EVENT", "WAIT", "STEP", "COPIES", "JOIN", "LAUNCH_GRAPH", "PAGES",
)  # fmt: skip
ALLOC, ALLOC_HOST, LOAD, MAKE_STREAM, MAKE_EVENT, ELAPSED, CAPTURE, REGISTER = TABLE.numbers(
    "OPCODE",
    "ALLOC", "ALLOC_HOST", "LOAD", "MAKE_STREAM", "MAKE_EVENT", "ELAPSED", "CAPTURE", "REGISTER",
)  # fmt: skip
CLOSE_PORT, CALL, STOP = TABLE.numbers("OPCODE", "CLOSE_PORT", "CALL", "STOP")

OPERATIONS: Final = TABLE.texts()
"""What the heartbeat's operation is called."""

# Answers of submit.
ACCEPTED, FULL, STOPPED, LOST, NO_MEMORY = TABLE.numbers(
    "REFUSAL", "ACCEPTED", "FULL", "STOPPED", "LOST", "NO_MEMORY"
)
# Flags of a record.
SETTLED, RETIRED, IS_LOST, EXPIRED, STEPPED, TIMED = TABLE.numbers(
    "FLAG", "SETTLED", "RETIRED", "IS_LOST", "EXPIRED", "STEPPED", "TIMED"
)

LANES, SHARED_LANE, TIME, RECORDS, HEARTBEAT_MAGIC = TABLE.numbers(
    "CONSTANT", "LANES", "SHARED_LANE", "TIME", "RECORDS", "HEARTBEAT_MAGIC"
)
"""`SHARED_LANE` is of streams that the executor did not make. `TIME` is added to the lane of a
submission: the device tells how long it worked."""
ALL_LANES: Final = (1 << LANES) - 1

# --- layouts; the fields in the order in which they are packed ------------------------------------

_OPERATION: Final = ("opcode", "bytes")
_TARGET: Final = ("port", "number", "stream", "deadline_ns", "lane")
SUBMISSION: Final = TABLE.layout("submission", *_TARGET, "count", "bytes")
"""The lane with or without `TIME`; how many operations follow, and their bytes."""
SHAPE: Final = TABLE.layout(
    "shape", "grid", "block", "shared_bytes", "cluster", "flags", "priority"
)
CLUSTERED, PROGRAMMATIC, PRIORITISED = TABLE.numbers(
    "LAUNCH_FLAG", "CLUSTERED", "PROGRAMMATIC", "PRIORITISED"
)
"""Flags of a shape; 0: a plain launch."""
_LAUNCH: Final = TABLE.codes("launch", *_OPERATION, "function", "argument_bytes", "shape")
LaunchLayout: Final = "".join(_LAUNCH)
"""Opcode, bytes, function, argument bytes, and the shape as packed before, see `SHAPE`."""
COPY: Final = TABLE.layout("copy", *_OPERATION, "target", "source", "size")
FillLayout: Final = TABLE.layout("fill", *_OPERATION, "target", "size", "value")
LoadLayout: Final = TABLE.layout("load", *_OPERATION, "image", "names", "count")
SIMPLE: Final = TABLE.layout("alloc", *_OPERATION, "size")
"""Also of most other operations: those that have one number, or none."""
ELAPSED_LAYOUT: Final = TABLE.layout("elapsed", *_OPERATION, "start", "end", "reserved")
REGION: Final = TABLE.layout("region", *_OPERATION, "address", "size", "ended", "shared", "unused")
PAGES_LAYOUT: Final = TABLE.layout(
    "pages", *_OPERATION,
    "to_host", "rows", "ids", "chunks", "events", "chunk_ids", "id_bytes", "split", "split_bytes",
    "count", "device_bytes", "host_bytes", "piece_bytes", "step_rows",
)  # fmt: skip
"""Then the tables, see there; `count` and the two behind it are two numbers each."""
COLUMN: Final = TABLE.layout("column", "start", "bytes", "is_signed")
RANGES: Final = TABLE.layout(
    "ranges", "count", "target", "target_bytes", "source", "source_bytes", "target_offsets",
    "source_offsets", "sizes",
)  # fmt: skip
GOOD, OUTSIDE, TWICE, NO_ROOM, SOURCE_OUTSIDE = TABLE.numbers(
    "VERDICT", "GOOD", "OUTSIDE", "TWICE", "NO_ROOM", "SOURCE_OUTSIDE"
)
"""On a table of numbers."""
HEARTBEAT: Final = TABLE.layout(
    "heartbeat",
    "magic", "pid", "entered_ns", "operation", "number", "progress", "in_flight", "oldest_ns",
    "lost",
)  # fmt: skip
RECORD: Final = TABLE.layout("record", "number", "code", "flags", "value", "detail", "nanoseconds")

TENSOR_TYPE: Final = TABLE.layout(
    "tensor_type", "code", "bits", "device_type", "device_id", "dimensions"
)

# A submission of one launch: its target, what is the same in every launch of a kernel, the shape.
_HEADER = TABLE.codes("submission", *_TARGET, "count", "bytes")
LAUNCH_FIXED: Final = struct.Struct("<" + "".join((*_HEADER[len(_TARGET) :], *_LAUNCH[:-1])))
"""Count and bytes of the submission; opcode, bytes, function and argument bytes of the launch."""
LAUNCH_FIXED_BYTES: Final = struct.calcsize("<" + "".join(_LAUNCH[:-1]))
"""Of these, what an operation in a batch has: without the submission's count and bytes."""
LAUNCH_OPERATION: Final = f"<{LAUNCH_FIXED_BYTES}s{SHAPE.size}s"
LAUNCH_SUBMISSION: Final = f"<{''.join(_HEADER[: len(_TARGET)])}{LAUNCH_FIXED.size}s{SHAPE.size}s"

# --- what Python reads in place -------------------------------------------------------------------


class Options(ctypes.Structure):
    """``struct ajit_options``."""

    _fields_ = TABLE.fields("options")


class DeviceInfo(ctypes.Structure):
    """``struct ajit_device_info``."""

    _fields_ = TABLE.fields("device_info")


class Counters(ctypes.Structure):
    """``struct ajit_counters``."""

    _fields_ = TABLE.fields("counters")


COUNTERS: Final = tuple(name for name, _ in TABLE.fields("counters"))


class Function(ctypes.Structure):
    """``struct ajit_function``."""

    _fields_ = TABLE.fields("function")


class Resource(ctypes.Structure):
    """The part of ``struct ajit_resource`` that Python reads; `functions` is an address."""

    _fields_ = TABLE.fields("resource")


class Fact(ctypes.Structure):
    """``struct ajit_fact``: something that the library was built with."""

    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_uint64))


_u64 = ctypes.c_uint64


class Library:
    """The executor's library; get it with `library()`.

    Attributes:
        layout: Where the library has what Python reads in place, by names such as ``port_records``.

    Raises:
        OSError: It cannot be loaded, or (`StaleLibrary`) was built from another table.
    """

    def __init__(self, path: Path, table: Table = TABLE) -> None:
        quick, slow = ctypes.PyDLL(str(path)), ctypes.CDLL(str(path))
        pointer = ctypes.c_void_p
        self.layout = table.places(str(path), _facts(quick))
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
        numbers = ctypes.POINTER(_u64)
        self.table_ids = _typed(
            quick.ajit_table_ids, ctypes.c_int,
            pointer, packed, _u64, _u64, ctypes.c_int, numbers,
        )  # fmt: skip
        self.table_copies = _typed(quick.ajit_table_copies, ctypes.c_int, pointer, packed, numbers)
        self.serve_begin = _typed(slow.ajit_serve_begin, ctypes.c_int, pointer, ctypes.c_char_p)
        self.serve = _typed(slow.ajit_serve, ctypes.c_int, pointer, ctypes.POINTER(_u64))
        self.serve_called = _typed(slow.ajit_serve_called, None, pointer, ctypes.c_int)
        self.serve_end = _typed(slow.ajit_serve_end, ctypes.c_int, pointer)


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


def _facts(library: ctypes.CDLL) -> dict[str, int]:
    """Return what the library was built with. One that is too old to say so has no facts."""
    if not hasattr(library, "ajit_table"):
        return {}
    count = _u64()
    report = _typed(library.ajit_table, ctypes.POINTER(Fact), ctypes.POINTER(_u64))
    facts = report(ctypes.byref(count))[: count.value]
    return {fact.name.decode(): fact.value for fact in facts}


def _typed(function: Any, result: Any, *arguments: Any) -> Any:
    function.restype, function.argtypes = result, arguments
    return function


@functools.cache
def library() -> Library:
    """Return the executor's library, loaded at the first call.

    Raises:
        OSError: It was not built, or not for this machine, or (`StaleLibrary`) not from the same
            table.
    """
    return Library(EXECUTOR)
