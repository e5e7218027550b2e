"""What went wrong lately, told by boards, by the cache's history, and by events of a runtime.

The same failure may be told by all three: then the one with a log is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ajit._runtime.board_view import error_of, trouble_of
from ajit.dashboard.snapshot import Problem, long, short
from ajit.dashboard.words import duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ajit import events
    from ajit._cache.entries.history import Compiled
    from ajit._runtime.board_form import ErrorView
    from ajit.instrumentation import RuntimeView

__all__ = ["MOST_PROBLEMS", "Heard", "merged", "of_boards", "of_history"]

MOST_PROBLEMS = 24

SAME_SECONDS = 30.0
"""Two reports of one failure are so far apart at most: waiters get it later, and clocks differ."""


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
        error = error_of(event)
        if error is None:
            return
        log = trouble_of(event) or ""
        log = log if self._logs and "\n" in log else ""
        problem = _problem(error, event.pid, event.host, log)
        self.problems = (problem, *self.problems)[:MOST_PROBLEMS]


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
        _problem(one, view.pid, view.host, log="") for view in views for one in view.recent_errors
    ]


def _problem(error: ErrorView, pid: int, host: str, log: str) -> Problem:
    return Problem(
        unix_seconds=error.unix_seconds,
        kind=short(error.kind),
        name=short(error.name),
        key=short(error.key),
        text=short(error.text),
        log=long(log),
        pid=pid,
        host=short(host),
    )


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
