"""A runtime's events as a timeline: lines of the Trace Event Format, which Perfetto opens.

What has a duration is a slice that ends when its event was emitted, or, for device work, when the
loop heard that it is done. Slices that overlap are put into rows of their own, since slices of one
row have to be nested. Times are microseconds of the wall clock, so that processes fit together.

Pure. Source of the format: "Trace Event Format", Google, JSON array format: one object a line, and
the closing bracket may be missing, so several processes can append to one file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from ajit._core import events

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._gpu.completion.state import TicketState
    from ajit._runtime.statistics import RuntimeStatistics

__all__ = ["TraceLines"]

Line: TypeAlias = "dict[str, Any]"

ROWS_EACH = 1000
"""Rows that a kind of slices may have; their numbers tell them apart."""

MOST_CHARACTERS = 300
"""Of a text in a slice's arguments."""

MOST_TICKETS = 1000
"""Of which there are slices in one second: a trace is not to slow a busy server down."""

MOST_STEPS = 256
"""Of one ticket that are shown."""

_Slice: TypeAlias = "tuple[str, str, Callable[[Any], float]]"
"""Kind of rows, name of the slice, and its seconds."""

_SLICES: dict[type[events.Event], _Slice] = {
    events.KernelReady: ("kernels", "", lambda e: e.seconds),
    events.BundleReady: ("kernels", "", lambda e: e.seconds),
    events.CompileFinished: ("compiles", "compile", lambda e: e.seconds),
    events.CompileFailed: ("compiles", "compile failed", lambda e: e.seconds),
    events.CompileCancelled: ("compiles", "compile cancelled", lambda e: e.seconds),
    events.WaitEnded: ("waits", "wait", lambda e: e.waited_seconds),
    events.KeyMade: ("keys and reads", "key", lambda e: e.seconds),
    events.EntryRead: ("keys and reads", "read", lambda e: e.seconds),
    events.ModuleLoaded: ("loads", "load", lambda e: e.seconds),
    events.DeviceResumed: ("device", "stall", lambda e: e.seconds),
}
KV, WORK = "KV transfers", "device work"
_KINDS = (*dict.fromkeys(kind for kind, _, _ in _SLICES.values()), KV, WORK)

_MOMENTS: tuple[type[events.Event], ...] = (
    events.BackgroundFailed,
    events.CacheResponsive,
    events.CacheUnresponsive,
    events.CacheUnwritable,
    events.CompiledLate,
    events.DeviceLost,
    events.EntriesEvicted,
    events.EntryRejected,
    events.FallbackUsed,
    events.NotPublished,
)
"""Shown as a mark across the process."""


class TraceLines:
    """The lines of one process.

    Args:
        pid: The process.
        host: Its host.
    """

    def __init__(self, pid: int, host: str) -> None:
        self._pid = pid
        self._process = f"ajit {pid} on {host}"
        self._ends: dict[str, list[float]] = {}
        self._tickets = 0
        self._left_out = 0

    def first(self) -> list[Line]:
        """The process's name."""
        return [self._about("process_name", 0, self._process)]

    def of(self, event: events.Event) -> list[Line]:
        """The lines of an event; none if it is not shown."""
        shown = _SLICES.get(type(event))
        if shown is not None:
            return self._slice(event, *shown)
        if isinstance(event, _MOMENTS):
            name = type(event).__name__
            return [self._line("i", name, event.unix_seconds, 0, event, s="p")]
        return []

    def of_ticket(self, ticket: TicketState[Any], unix_seconds: float) -> list[Line]:
        """The lines of device work that has ended just now, with its steps; none if it is too much.

        Args:
            ticket: It has its outcome.
            unix_seconds: Now.
        """
        self._tickets += 1
        if self._tickets > MOST_TICKETS:
            self._left_out += 1
            return []
        begun = unix_seconds - ticket.nanoseconds / 1e9
        kind = KV if ticket.operation.startswith(("load pages", "save pages")) else WORK
        row, is_new = self._row(kind, begun, unix_seconds)
        name = ticket.operation[:MOST_CHARACTERS]
        facts: dict[str, str | int | float] = {
            "ticket": ticket.number,
            "outcome": ticket.outcome_name,
        }
        lines = [self._about("thread_name", row, kind)] if is_new else []
        lines.append(self._work(name, row, begun, ticket.nanoseconds, kind, facts))
        if ticket.steps is not None:
            lines += self._steps(ticket.steps.done, row, begun, kind)
        return lines

    def _steps(self, done: dict[int, int], row: int, begun: float, kind: str) -> list[Line]:
        before, lines = 0, []
        for index, at in sorted(done.items())[:MOST_STEPS]:
            since = begun + before / 1e9
            lines.append(self._work(f"step {index}", row, since, max(0, at - before), kind, {}))
            before = max(before, at)
        return lines

    def _work(
        self, name: str, row: int, begun: float, nanoseconds: int, kind: str, facts: Any
    ) -> Line:
        return {
            "ph": "X", "name": name, "pid": self._pid, "tid": row, "ts": begun * 1e6, "cat": kind,
            "dur": nanoseconds / 1e3, "args": facts,
        }  # fmt: skip

    def of_statistics(self, statistics: RuntimeStatistics, unix_seconds: float) -> list[Line]:
        """The curves, at one moment."""
        pool, device = statistics.pool, statistics.device
        curves: dict[str, dict[str, float]] = {
            "compiles": {"running": pool.running, "queued": pool.queued},
            "waiting": {"resolutions": len(statistics.waiting)},
        }
        if device is not None:
            curves["tickets"] = {"in flight": device.in_flight}
            curves["device memory"] = {"bytes": device.live_memory_bytes}
            curves["submissions"] = {"in all": device.dispatched}
            curves["device work left out"] = {"tickets": self._left_out}
        self._tickets = 0
        return [
            {"ph": "C", "name": name, "pid": self._pid, "ts": unix_seconds * 1e6, "args": values}
            for name, values in curves.items()
        ]

    def _slice(
        self, event: events.Event, kind: str, name: str, seconds_of: Callable[[Any], float]
    ) -> list[Line]:
        seconds = seconds_of(event)
        begun = event.unix_seconds - seconds
        row, is_new = self._row(kind, begun, event.unix_seconds)
        name = f"{name} {event.name[:MOST_CHARACTERS]}".strip() or kind
        line = self._line("X", name, begun, row, event, cat=kind, dur=seconds * 1e6)
        return [self._about("thread_name", row, kind), line] if is_new else [line]

    def _row(self, kind: str, begun: float, ended: float) -> tuple[int, bool]:
        """The first row of a kind whose last slice has ended by then; events come as they end."""
        ends = self._ends.setdefault(kind, [])
        index = next((i for i, end in enumerate(ends) if end <= begun), len(ends))
        is_new = index == len(ends)
        ends[index:] = [ended, *ends[index + 1 :]]
        return 1 + _KINDS.index(kind) * ROWS_EACH + min(index, ROWS_EACH - 1), is_new

    def _line(  # the parts of a line
        self, ph: str, name: str, seconds: float, row: int, event: events.Event, **more: object
    ) -> Line:
        return {
            "ph": ph,
            "name": name,
            "pid": self._pid,
            "tid": row,
            "ts": seconds * 1e6,
            **more,
            "args": _arguments(event),
        }

    def _about(self, what: str, row: int, name: str) -> Line:
        return {"ph": "M", "name": what, "pid": self._pid, "tid": row, "args": {"name": name}}


_LEFT_OUT = {"name", "unix_seconds", "monotonic_seconds", "pid", "host"}


def _arguments(event: events.Event) -> dict[str, str | int | float]:
    made: dict[str, str | int | float] = {}
    for name in event.__dataclass_fields__:
        value = getattr(event, name)
        if isinstance(value, events.Holder):
            made[name] = str(value)
        elif isinstance(value, str | int | float) and name not in _LEFT_OUT and value != "":
            made[name] = value[:MOST_CHARACTERS] if isinstance(value, str) else value
    return made
