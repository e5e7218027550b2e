"""The board of a runtime as bytes: what it does now, in a small file that others read.

A board has two places for a snapshot. They are written in turn, each under a number that rises and
a checksum: so one of them is whole at any time, also if the writer was killed in the middle of the
other. A reader takes the whole one with the higher number, or looks again.

What a reader gets may be anything: the file of another version, half a file, or a damaged one. A
snapshot is of a bounded size, is checked against its types, and its texts are made printable. Pure.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from ajit._printable import printable_line

__all__ = [
    "BOARD_BYTES",
    "MOST_LISTED",
    "CompileView",
    "DeviceView",
    "ErrorView",
    "Post",
    "RuntimeState",
    "RuntimeView",
    "WaitView",
    "board_head",
    "cut_text",
    "encode_post",
    "read_post",
]

RuntimeState: TypeAlias = Literal["running", "late", "stopped", "dead", "unknown"]

BOARD_BYTES = 64 * 1024
"""Size of a board."""

MOST_LISTED = 64
"""Compiles, waits and the like that a board lists of each; the others are counted."""

MOST_CHARACTERS = 160
"""Of a text on a board."""

_MAGIC = b"ajitbrd1"
_HEAD = struct.Struct("<8sQ")
"""Magic, and the size of the whole."""
_POST = struct.Struct("<QQII")
"""Number, monotonic time in ns, length, and the checksum of these and of what follows."""
_CHECKED = struct.Struct("<QQI")
_PLACES = (1024, BOARD_BYTES // 2 + 512)
_ROOM = BOARD_BYTES // 2 - 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileView:
    """A compile or build that a runtime is at.

    Attributes:
        name: The spec's label.
        key: Hex base key.
        entry: The kernel's entry points, with commas; "" for a build.
        compiler: Compiler and version.
        arch: What it is for; "" for a build.
        reason: Why it was not found.
        phase: ``queued`` or ``compiling``.
        seconds: Since it was asked of the pool.
        cpu_seconds: CPU time that the compiler had used, about a second ago.
    """

    name: str = ""
    key: str = ""
    entry: str = ""
    compiler: str = ""
    arch: str = ""
    reason: str = ""
    phase: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitView:
    """A wait of a runtime for another process that holds the lease of a kernel.

    Attributes:
        name: The spec's label.
        key: Hex base key.
        waited_seconds: For how long.
        host: The holder's host; "" and 0 if the holder is not known.
        pid: Its process id there.
        phase: What it is at: ``queued``, ``compiling`` or ``publishing``.
        compiler: Its compiler and version.
        age_seconds: Since it took the lease.
    """

    name: str = ""
    key: str = ""
    waited_seconds: float = 0.0
    host: str = ""
    pid: int = 0
    phase: str = ""
    compiler: str = ""
    age_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceView:
    """The device of a runtime and its CUDA thread.

    Attributes:
        name: The device's.
        alive: Whether the thread runs.
        stuck: Whether it is in one operation for longer than ``stall_seconds``.
        operation: What it is at; "" while it waits for work.
        since_seconds: For how long.
        in_flight: Tickets that the device is at.
        oldest_ticket_seconds: Age of the oldest of them.
        waiting: Submissions that the thread has not taken yet.
        lost_code: The driver's code that made the context unusable, or 0.
        dispatched: Submissions in all.
        launches: Kernel launches in all.
        live_memory_bytes: Device memory that is in use.
        reserved_memory_bytes: Device memory that is taken, what the pool keeps included.
    """

    name: str = ""
    alive: bool = True
    stuck: bool = False
    operation: str = ""
    since_seconds: float = 0.0
    in_flight: int = 0
    oldest_ticket_seconds: float = 0.0
    waiting: int = 0
    lost_code: int = 0
    dispatched: int = 0
    launches: int = 0
    live_memory_bytes: int = 0
    reserved_memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorView:
    """Something that went wrong in a runtime.

    Attributes:
        unix_seconds: When.
        kind: The event's class: ``CompileFailed``, ``DeviceLost``, ...
        name: The spec's label, or the device's.
        key: Hex base key, or "".
        text: The first line of what is known.
    """

    unix_seconds: float = 0.0
    kind: str = ""
    name: str = ""
    key: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeView:
    """One open runtime of this machine, as its board says it. Times are as of its last beat.

    Attributes:
        state: ``running``; ``late``: it has not beaten for two seconds, so its event loop is
            blocked or has no CPU; ``stopped``: its process is (SIGSTOP, a debugger); ``dead``: its
            process is gone; ``unknown``: it does not beat, and is in another container.
        silent_seconds: Since its last beat.
        lag_seconds: How much too late its event loop was at its last beat.
        pid: Its process, in that process's own pid namespace, ``namespace``.
        host: Host name.
        program: The program's name, without its arguments.
        version: Of ajit.
        number: Which runtime of its process it is, from 1 on.
        opened_unix_seconds: When it was opened.
        cache_dir: Its cache directory.
        device: Its device; None without one, or before that is known.
        from_memory: Requests that found their kernel loaded; as in `RuntimeStatistics`, like what
            follows.
        compiles: What it compiles now, the longest first.
        waits: What it waits for, likewise.
        making_keys: Keys that have been in the making for half a second or more.
        queued: Compiles that wait for a slot, memory or a permit.
        held_back: For which of them the next one waits.
        left_out: Compiles and waits that did not fit on the board.
        errors: How often something went wrong.
        recent_errors: The last of these, the newest first.
    """

    state: RuntimeState = "unknown"
    silent_seconds: float = 0.0
    lag_seconds: float = 0.0
    pid: int
    namespace: int = 0
    start_ticks: int = 0
    boot_id: str = ""
    host: str = ""
    program: str = ""
    version: str = ""
    number: int = 1
    opened_unix_seconds: float = 0.0
    cache_dir: str = ""
    cache_problem: str = ""
    device: DeviceView | None = None
    from_memory: int = 0
    from_disk: int = 0
    compiled: int = 0
    failed: int = 0
    waited: int = 0
    fallbacks: int = 0
    handovers: int = 0
    late_compiles: int = 0
    in_progress: int = 0
    loaded_modules: int = 0
    rejected: int = 0
    compile_seconds: float = 0.0
    queue_seconds: float = 0.0
    saved_seconds: float = 0.0
    cache_entries: int | None = None
    cache_bytes: int | None = None
    cache_limit_bytes: int = 0
    evicted_entries: int = 0
    background_errors: int = 0
    events_dropped: int = 0
    slots: int = 0
    running: int = 0
    queued: int = 0
    held_back: str = ""
    workers: int = 0
    compiles: tuple[CompileView, ...] = ()
    waits: tuple[WaitView, ...] = ()
    making_keys: int = 0
    left_out: int = 0
    errors: int = 0
    recent_errors: tuple[ErrorView, ...] = ()


class Post(NamedTuple):
    """A snapshot on a board.

    Attributes:
        number: Of the beat, from 1 on.
        monotonic_ns: When it was written.
        view: What it says.
    """

    number: int
    monotonic_ns: int
    view: RuntimeView


_decoder = msgspec.msgpack.Decoder(RuntimeView)
_encoder = msgspec.msgpack.Encoder()


def board_head() -> bytes:
    """Return how a board begins."""
    return _HEAD.pack(_MAGIC, BOARD_BYTES)


def cut_text(text: str) -> str:
    """Return a text as a board has it: not too long, and in UTF-8."""
    return text[:MOST_CHARACTERS].encode(errors="replace").decode()


def encode_post(view: RuntimeView, number: int, monotonic_ns: int) -> tuple[int, bytes]:
    """Return where on the board a snapshot goes, and its bytes. Lists are cut until they fit."""
    data, most = _encoder.encode(view), MOST_LISTED
    while len(data) > _ROOM - _POST.size:
        most //= 2
        kept = view.compiles[:most], view.waits[:most]
        left = len(view.compiles) + len(view.waits) - sum(map(len, kept))
        shorter = replace(
            view,
            compiles=kept[0],
            waits=kept[1],
            recent_errors=view.recent_errors[:most],
            left_out=view.left_out + left,
        )
        data = _encoder.encode(shorter)
        if not most and len(data) > _ROOM - _POST.size:
            raise ValueError("a snapshot is too large for its board")
    summed = zlib.crc32(data, zlib.crc32(_CHECKED.pack(number, monotonic_ns, len(data))))
    return _PLACES[number % 2], _POST.pack(number, monotonic_ns, len(data), summed) + data


def read_post(board: bytes) -> Post | None:
    """Return the newest snapshot that a board has; None if it has none that is whole.

    It never raises, whatever the bytes are.
    """
    if len(board) < BOARD_BYTES or _HEAD.unpack_from(board) != (_MAGIC, BOARD_BYTES):
        return None
    whole = [post for place in _PLACES if (post := _post_at(board, place)) is not None]
    for number, monotonic_ns, data in sorted(whole, reverse=True):
        view = _decoded(data)
        if view is not None:
            return Post(number, monotonic_ns, view)
    return None


def _post_at(board: bytes, place: int) -> tuple[int, int, bytes] | None:
    number, monotonic_ns, length, summed = _POST.unpack_from(board, place)
    begin = place + _POST.size
    if not number or length > _ROOM - _POST.size:
        return None
    data = board[begin : begin + length]
    known = zlib.crc32(data, zlib.crc32(_CHECKED.pack(number, monotonic_ns, length)))
    return (number, monotonic_ns, data) if known == summed else None


def _decoded(data: bytes) -> RuntimeView | None:
    try:
        view = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # not UTF-8; nested too deep
        return None
    shown: RuntimeView = _clean(view)
    return shown


def _clean(value: Any) -> Any:
    """The same with printable texts, each in one line, and with numbers that can be shown.

    What is infinite or not a number becomes 0: one such number must not hide the whole board.
    """
    if isinstance(value, str):
        return printable_line(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else 0.0
    if isinstance(value, tuple):
        return tuple(map(_clean, value))
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(value, **{f.name: _clean(getattr(value, f.name)) for f in fields(value)})
