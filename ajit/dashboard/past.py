"""Compiles that have ended, as rows of the page."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from ajit._cache.entries.history import short_reason
from ajit.dashboard.snapshot import LogRow, short

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ajit._cache.entries.history import Compiled

__all__ = ["MOST_ROWS", "log_rows"]

MOST_ROWS = 20


def log_rows(compiled: Iterable[Compiled]) -> tuple[LogRow, ...]:
    """Return the last ones that are over, the newest first."""
    ended = (one for one in compiled if one.outcome != "running")
    return tuple(map(_row, islice(ended, MOST_ROWS)))


def _row(one: Compiled) -> LogRow:
    return LogRow(
        unix_seconds=one.unix_seconds,
        name=short(one.name),
        key=short(one.key),
        outcome=one.outcome,
        seconds=one.seconds,
        compiler=short(one.compiler),
        arch=short(one.arch),
        reason=short(one.reason),
        why=short(one.error or short_reason(one.reason)),
        pid=one.pid,
        host=short(one.host),
    )
