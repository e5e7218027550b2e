"""Standard output that may be closed, or full: the command ends with a message, not a traceback.

Everything that prints (this command line, click, rich) goes through `sys.stdout`. So its lowest
layer is replaced by one whose errors are of a kind of their own: a command that handles `OSError`,
for instance of its cache, does not take them for its own.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import Any

__all__ = ["OutputFailed", "OutputGone", "drop_output", "watch_output"]

_STDOUT = 1
_LAST_STREAM = 2


class OutputFailed(Exception):
    """Standard output could not be written.

    Attributes:
        reason: Why, in the system's words.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class OutputGone(OutputFailed):
    """Standard output has no reader any more (``ajit cache ls | head -1``)."""


class _Output(io.FileIO):
    """Standard output, without buffers."""

    def write(self, data: object) -> int | None:  # type: ignore[override]  # any buffer
        try:
            return super().write(data)  # type: ignore[arg-type]  # the same
        except BrokenPipeError as exc:
            raise OutputGone(exc.strerror or str(exc)) from None
        except OSError as exc:
            raise OutputFailed(exc.strerror or str(exc)) from None


class _Closed(io.RawIOBase):
    """Standard output that was closed when the command was started (``>&-``)."""

    dropped = False

    def write(self, data: Any) -> int:
        if not self.dropped:
            raise OutputFailed(os.strerror(errno.EBADF))
        return len(data)

    def writable(self) -> bool:
        return True


def watch_output() -> None:
    """Tell errors of standard output apart from all others, and have something behind 0, 1 and 2.

    Else the first file that is opened has a number that commands and compilers print to.
    """
    _fill_streams()
    stdout = sys.stdout
    if stdout is None:
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(_Closed()), encoding="utf-8")
    elif stdout is sys.__stdout__ and isinstance(stdout, io.TextIOWrapper):
        # What the locale cannot encode (µ, a table's lines) is replaced: the result is printed.
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Output(_STDOUT, "wb", closefd=False)),
            encoding=stdout.encoding,
            errors="replace",
            line_buffering=stdout.line_buffering,
            write_through=stdout.write_through,
        )
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # for good


def drop_output() -> None:
    """Send what is left in buffers nowhere: Python would complain of it once more at its end."""
    _Closed.dropped = True
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), _STDOUT)


def _fill_streams() -> None:
    with suppress(OSError):
        while (fd := os.open(os.devnull, os.O_RDWR)) <= _LAST_STREAM:
            os.set_inheritable(fd, True)  # noqa: FBT003  # the only way to call it
        os.close(fd)
