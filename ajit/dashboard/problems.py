"""What went wrong lately, told by boards, by the cache's history, and by events of a runtime.

The same failure may be told by all three: then the one with a log is shown.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from ajit import events
from ajit.dashboard.snapshot import Problem, long, short
from ajit.dashboard.words import duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ajit._cache.entries.history import Compiled
    from ajit.instrumentation import RuntimeView

__all__ = ["MOST_PROBLEMS", "Heard", "first_error", "merged", "of_boards", "of_history"]

MOST_PROBLEMS = 24

SAME_SECONDS = 30.0
"""Two reports of one failure are so far apart at most: waiters get it later, and clocks differ."""


_SAYS_ERROR = re.compile(r"\berror\b:", re.IGNORECASE)


class Heard:
    """Listens to a runtime for what goes wrong, and keeps the last of it. Belongs to its loop.

    Args:
        logs: Whether logs of compilers are kept.
    """

    def __init__(self, *, logs: bool) -> None:
        self._logs = logs
        self.problems: tuple[Problem, ...] = ()
        """The newest first. Replaced and never changed, so any thread may read it."""

    def __call__(self, event: events.Event) -> None:
        """Keep it if it is one. Does not block."""
        text = _text_of(event)
        if text is None:
            return
        problem = Problem(
            unix_seconds=event.unix_seconds,
            kind=type(event).__name__,
            name=short(event.name),
            key=short(event.key),
            text=short(first_error(text)),
            log=long(text) if self._logs and "\n" in text else "",
            pid=event.pid,
            host=short(event.host),
        )
        self.problems = (problem, *self.problems)[:MOST_PROBLEMS]


def first_error(text: str) -> str:
    """Return the first line of a log that says that it is an error; else its first line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if _SAYS_ERROR.search(line)]
    return (errors or lines or [""])[0]


def _text_of(event: events.Event) -> str | None:
    match event:
        case events.CompileFailed():
            return event.error
        case events.EntryRejected() | events.CacheUnwritable() | events.CacheUnresponsive():
            return event.reason
        case events.BackgroundFailed():
            return f"to {event.doing}: {event.reason}"
        case events.DeviceStalled():
            return f"in {event.operation} for {event.seconds:.0f} s"
        case events.DeviceLost():
            return f"the device is lost: driver code {event.code}"
    return None


def of_history(compiled: Iterable[Compiled], *, logs: bool) -> list[Problem]:
    """Return the compiles that ended badly, with the beginning of their logs."""
    return [
        Problem(
            unix_seconds=one.unix_seconds,
            kind="CompileKilled" if one.outcome == "killed" else "CompileFailed",
            name=short(one.name),
            key=short(one.key),
            text=short(_how_it_ended(one)),
            log=long(one.log) if logs else "",
            pid=one.pid,
            host=short(one.host),
        )
        for one in compiled
        if one.outcome in _BAD_ENDS
    ]


_BAD_ENDS = {"failed": "", "timed out": "timed out", "crashed": "crashed", "killed": "killed"}


def _how_it_ended(one: Compiled) -> str:
    if one.outcome == "killed":
        return f"its process has died after {duration(one.seconds)} or more"
    return ": ".join(filter(None, [_BAD_ENDS[one.outcome], one.error]))


def of_boards(views: Iterable[RuntimeView]) -> list[Problem]:
    """Return what boards tell."""
    return [
        Problem(
            unix_seconds=one.unix_seconds,
            kind=short(one.kind),
            name=short(one.name),
            key=short(one.key),
            text=short(one.text),
            log="",
            pid=view.pid,
            host=short(view.host),
        )
        for view in views
        for one in view.recent_errors
    ]


def merged(now: float, *sources: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return what went wrong, once each, the newest first.

    Args:
        now: Unix time. What is said to come later, by a clock that is ahead, is said to be now.
        sources: Those with logs first. A compile that failed, and was told by several, is one.
    """
    kept: list[Problem] = []
    for problem in (_in_time(one, now) for source in sources for one in source):
        if not any(_is_same(problem, other) for other in kept):
            kept.append(problem)
    kept.sort(key=lambda one: -one.unix_seconds)
    return tuple(kept[:MOST_PROBLEMS])


def _in_time(problem: Problem, now: float) -> Problem:
    if problem.unix_seconds <= now:
        return problem
    return msgspec.structs.replace(problem, unix_seconds=now)


def _is_same(one: Problem, other: Problem) -> bool:
    if one.kind != other.kind or one.key != other.key or not one.key:
        return one == other
    return abs(one.unix_seconds - other.unix_seconds) < SAME_SECONDS
