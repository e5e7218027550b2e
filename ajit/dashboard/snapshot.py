"""What the live page shows, as one value: the server makes it, and the page only draws it.

Every text in it comes from outside: names of kernels, logs, records that any process wrote. `short`
cuts it to a length and makes it printable; the page puts it into the document as text, never as
markup. Times are seconds as of when the snapshot was made.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from ajit._printable import printable, printable_line

__all__ = [
    "WORST_FIRST",
    "CacheEntry",
    "CacheState",
    "DeviceRow",
    "Group",
    "Headline",
    "KvRow",
    "Level",
    "LogRow",
    "Problem",
    "ProcessRow",
    "Rates",
    "Snapshot",
    "Statement",
    "Waiter",
    "Work",
    "long",
    "short",
]

Level: TypeAlias = Literal["quiet", "busy", "warning", "bad"]

WORST_FIRST: dict[Level, int] = {"bad": 0, "warning": 1, "busy": 2, "quiet": 3}
"""By what things of a level are sorted."""

MOST_CHARACTERS = 160
"""Of a text in a table."""

MOST_LOG_CHARACTERS = 8000
"""Of a compiler's log: its beginning has the first error."""


class Statement(msgspec.Struct, frozen=True):
    """One sentence of the headline."""

    level: Level
    text: str


class Headline(msgspec.Struct, frozen=True, kw_only=True):
    """What is the matter, in plain words.

    Attributes:
        level: Of the worst of it.
        text: What goes on.
        problems: What is wrong, the worst first.
    """

    level: Level
    text: str
    problems: tuple[Statement, ...] = ()


class DeviceRow(msgspec.Struct, frozen=True, kw_only=True):
    """The device of a runtime, and what its CUDA thread is at."""

    name: str
    level: Level
    operation: str
    since_seconds: float
    in_flight: int
    oldest_ticket_seconds: float
    waiting: int
    lost_code: int
    launches: int
    used_bytes: int
    reserved_bytes: int


class ProcessRow(msgspec.Struct, frozen=True, kw_only=True):
    """One open runtime that uses the cache.

    Attributes:
        state: ``running``, ``late``, ``stopped``, ``dead`` or ``unknown``.
        level: How bad that is.
        waiting: Kernels that it waits for.
        held_back: Why its next compile does not start.
    """

    pid: int
    host: str
    program: str
    number: int
    state: str
    level: Level
    silent_seconds: float
    lag_seconds: float
    open_seconds: float
    version: str
    compiling: int
    queued: int
    held_back: str
    slots: int
    workers: int
    waiting: int
    memory: int
    disk: int
    compiled: int
    failed: int
    fallbacks: int
    late_compiles: int
    compile_seconds: float
    saved_seconds: float
    device: DeviceRow | None
    problem: str


class Waiter(msgspec.Struct, frozen=True, kw_only=True):
    """A process that waits for another one."""

    pid: int
    host: str
    program: str
    waited_seconds: float


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """A compile that goes on, or another lease that is held; and who waits for it.

    Attributes:
        kind: ``kernel``, ``permit`` or ``eviction``.
        seconds: Since it began.
        silent_seconds: Since its holder's last beat; None if it holds no lease.
        state: Of the process, as in `ProcessRow`; "" if it has no board here.
        authentic: Whether its record has the seal that is asked for.
        blocked: Threads of this machine in its lock, as the kernel counts them.
        waiters: Those that are known, the longest first.
        more_waiters: Beyond those.
    """

    kind: str = "kernel"
    level: Level = "busy"
    name: str = ""
    key: str = ""
    phase: str = ""
    compiler: str = ""
    arch: str = ""
    reason: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    silent_seconds: float | None = None
    pid: int = 0
    host: str = ""
    program: str = ""
    state: str = ""
    authentic: bool = True
    blocked: int = 0
    waiters: tuple[Waiter, ...] = ()
    more_waiters: int = 0


class Group(msgspec.Struct, frozen=True):
    """Entries of one range of sizes or ages."""

    label: str
    entries: int
    size_bytes: int


class CacheEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the cache; of a bad one only key, size and problem are known.

    Attributes:
        unused_seconds: Since it was last used, to about an hour.
        created: Unix time in seconds, by the clock of who compiled it; 0.0 if it is not known.
        problem: Why it cannot be used, or "".
    """

    key: str
    name: str = ""
    kind: str = ""
    arch: str = ""
    compiler: str = ""
    size_bytes: int
    unused_seconds: float = 0.0
    created: float = 0.0
    compile_seconds: float = 0.0
    problem: str = ""


class CacheState(msgspec.Struct, frozen=True, kw_only=True):
    """The cache, when it was last looked at.

    Attributes:
        problem: Why nothing, or nothing new, is known of it; "" if all is well.
        looked_seconds: How long ago that was; None before the first time.
        partial: Whether it has more entries than were looked at.
        limit_bytes: What it may hold; 0 is any number.
        by_size: Its entries by their size, `by_use` by when they were last used.
    """

    path: str
    problem: str = ""
    looked_seconds: float | None = None
    entries: int = 0
    size_bytes: int = 0
    partial: bool = False
    limit_bytes: int = 0
    by_size: tuple[Group, ...] = ()
    by_use: tuple[Group, ...] = ()
    largest: tuple[CacheEntry, ...] = ()
    newest: tuple[CacheEntry, ...] = ()
    unused: tuple[CacheEntry, ...] = ()


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in each of the last intervals, oldest first; None in a pause.

    Attributes:
        last: Number of the last interval since 1970: pages join what several servers tell.
    """

    interval_seconds: float
    last: int
    memory: tuple[float | None, ...]
    disk: tuple[float | None, ...]
    compiled: tuple[float | None, ...]
    failed: tuple[float | None, ...]
    compiling: tuple[float | None, ...]
    queued: tuple[float | None, ...]
    waiting: tuple[float | None, ...]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that went wrong, with the compiler's log where there is one."""

    unix_seconds: float
    kind: str
    name: str
    key: str
    text: str
    log: str = ""
    pid: int = 0
    host: str


class LogRow(msgspec.Struct, frozen=True, kw_only=True):
    """A compile that has ended, from the history that processes share.

    Attributes:
        reason: Why it was not found.
        why: The error of one that failed; of another the reason, of which the usual is ``new``.
    """

    unix_seconds: float
    name: str
    key: str
    outcome: str
    seconds: float
    compiler: str
    arch: str
    reason: str
    why: str
    pid: int
    host: str


class KvRow(msgspec.Struct, frozen=True, kw_only=True):
    """A KV store or service, and how full it is."""

    name: str
    level: Level
    text: str
    used_bytes: int = 0
    limit_bytes: int = 0
    chunks: int = 0
    clients: int = 0
    found: int = 0
    missed: int = 0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. ``schema`` rises when a field changes its meaning.

    Attributes:
        not_read: What is not of now, because it has not been read since the first request:
            ``leases``, ``history``, ``entries`` (the cache), ``service`` (of KV chunks).
    """

    schema: int = 1
    version: str
    host: str
    pid: int
    unix_seconds: float
    headline: Headline
    processes: tuple[ProcessRow, ...]
    more_processes: int
    work: tuple[Work, ...]
    more_work: int
    cache: CacheState
    rates: Rates
    problems: tuple[Problem, ...]
    log: tuple[LogRow, ...]
    kv: tuple[KvRow, ...]
    not_read: tuple[str, ...] = ()


def short(text: str, most: int = MOST_CHARACTERS) -> str:
    """Return a text from outside as one printable line that is not too long."""
    if len(text) > most:
        text = f"{text[: most - 1]}…"
    return printable_line(text)


def long(text: str) -> str:
    """Return a log: printable, and not too long. What is left out is counted."""
    left = len(text) - MOST_LOG_CHARACTERS
    if left <= 0:
        return printable(text)
    return printable(text[:MOST_LOG_CHARACTERS]) + f"\n… {left} more characters"
