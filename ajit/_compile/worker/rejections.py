"""Why a source was rejected, as far as its log and the time for asking again tell.

*Where the first error stands*: in the user's text, or in lines of ajit. A log is text from outside,
and this is one of two things that are asked of it (the other is what a shortage of processes
prints, see `ajit._compile.worker.commands`). What depends on it is no more than whether compilers
are asked again why they rejected a source, and which of two errors a user gets: each has the log.

An entry point is asked for in lines that ajit adds, and these have a file name of their own. A name
that does not exist is an error there. An error inside a template that an entry point instantiates
(``static_assert``) stands where the template does.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from ajit._compile.worker.messages import JobFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ENTRY_LINES",
    "EXPLAIN_SECONDS",
    "QUICK_SECONDS",
    "ErrorPlace",
    "Explaining",
    "first_error_place",
    "without_more_time",
]

EXPLAIN_SECONDS = 20.0
"""Finding out why a source was rejected never takes more than this beyond the compile that failed,
nor more than that compile took,"""

QUICK_SECONDS = 5.0
"""unless that took less than this: then each entry point is asked for. Both are pretty arbitrary:
on a busy machine a small source may well take a second."""

ErrorPlace = Literal["source", "entries", ""]

ENTRY_LINES = "ajit-entries"
"""File name of the lines in which nvcc and host compilers are asked for entry points."""

_NVRTC_LINES = "__nv_name_map"
"""What NVRTC calls those in which it looks for name expressions."""

# EDG (NVRTC and nvcc), then gcc and clang. An "internal error" is none of the source's.
_ERROR = re.compile(
    r"^(?P<edg>[^\s(][^(\n]*)\((?P<edg_line>\d+)\): (?:catastrophic |fatal )?error\b"
    r"|^(?P<gcc>[^\s:][^:\n]*):(?P<gcc_line>\d+):(?:\d+:)? (?:fatal )?error: ",
    re.MULTILINE,
)


def first_error_place(log: str) -> ErrorPlace:
    """Where the first error stands that names a file and a line.

    Returns:
        ``source`` for the user's source or a header, ``entries`` for a line of ajit that asks for
        an entry point, "" if no error says where it is.
    """
    match = _ERROR.search(log)
    if match is None:
        return ""
    place = match["edg"] or match["gcc"]
    return "entries" if place in (ENTRY_LINES, _NVRTC_LINES) else "source"


class Explaining:
    """How long it may still take to compile a source again, to find out why it was rejected.

    What takes a minute to fail is not compiled four times more. A try is expected to take as long
    as the first one.
    """

    def __init__(self, first_seconds: float) -> None:
        self._expected_seconds = first_seconds
        quick = first_seconds < QUICK_SECONDS
        self._left_seconds = EXPLAIN_SECONDS if quick else min(first_seconds, EXPLAIN_SECONDS)

    @property
    def has_time(self) -> bool:
        """Whether there is time for another try."""
        return self._expected_seconds <= self._left_seconds

    def took(self, seconds: float) -> None:
        """Count a try."""
        self._left_seconds -= seconds


def without_more_time(entries: Sequence[str], first_log: str) -> JobFailed:
    """Say what the log alone tells, when there is no time for the next question.

    Each entry point has its own line of those that ajit adds, and they come after the source, whose
    errors would have come first.

    Args:
        entries: The entry points of the job, in the order of their lines.
        first_log: Of the compile that failed, with all of them.
    """
    match = _ERROR.search(first_log)
    if match is not None and first_error_place(first_log) == "entries":
        line = int(match["edg_line"] or match["gcc_line"])
        if 1 <= line <= len(entries):
            return JobFailed(kind="entry", entry=entries[line - 1], log=first_log)
    return JobFailed(kind="compile", log=first_log)
