"""The trace of a runtime: its timeline in a file, to which all processes append that have its name.

A thread writes: a file may be on a disk that hangs. Each write is whole lines, by one call on a
descriptor that appends, which local file systems do in one step; over a network file system lines
of several nodes may be lost, so there each node needs a file of its own. A trace never fails a
server: if it cannot be written, one `AjitWarning` says so, and it ends.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from ajit._runtime.trace_lines import TraceLines
from ajit._system.warn import warn_only

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._core.events import Event
    from ajit._gpu.completion.state import TicketState
    from ajit._runtime.statistics import RuntimeStatistics
    from ajit._runtime.trace_lines import Line

__all__ = ["Trace"]

CURVE_SECONDS = 1.0
"""How often a point of the curves is written."""

MOST_BYTES = 1 << 30
"""Of the file. A trace is for minutes; one that was forgotten must not fill the disk."""

CLOSE_SECONDS = 1.0
"""How long closing waits for what is left to be written."""


class Trace:
    """Writes one runtime's timeline. Belongs to its event loop.

    Args:
        path: The file; made if it is not there.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lines = TraceLines(os.getpid(), platform.node())
        self._queue: SimpleQueue[list[Line] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="ajit-trace", daemon=True)
        self._thread.start()
        self._queue.put(self._lines.first())

    def __call__(self, event: Event) -> None:
        """Take an event. Does not block."""
        lines = self._lines.of(event)
        if lines and self._thread.is_alive():
            self._queue.put(lines)

    def take_ticket(self, ticket: TicketState[Any], _: object) -> None:
        """Take a ticket whose outcome is known just now. Does not block."""
        lines = self._lines.of_ticket(ticket, time.time())
        if lines and self._thread.is_alive():
            self._queue.put(lines)

    async def run(self, statistics: Callable[[], RuntimeStatistics]) -> None:
        """Draw the curves until cancelled."""
        while self._thread.is_alive():
            self._queue.put(self._lines.of_statistics(statistics(), time.time()))
            await anyio.sleep(CURVE_SECONDS)

    def close(self) -> None:
        """Write what is left. Blocks, for a second at most."""
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    # --- in the thread

    def _write(self) -> None:
        # As the shell has it: a ~ of a user whom it does not know stays as it is.
        self._path = os.path.abspath(os.path.expanduser(self._path))  # noqa: PTH100, PTH111
        try:
            fd = _opened(self._path)
            try:
                self._write_to(fd)
            finally:
                os.close(fd)
        except OSError as exc:
            warn_only(f"the trace {self._path} cannot be written: {exc.strerror or exc}")

    def _write_to(self, fd: int) -> None:
        while (lines := self._next()) is not None:
            text = b"".join(msgspec.json.encode(line) + b",\n" for line in lines)
            if os.fstat(fd).st_size + len(text) > MOST_BYTES:
                warn_only(f"the trace {self._path} has {MOST_BYTES >> 20} MiB and goes no further")
                return
            os.write(fd, text)

    def _next(self) -> list[Line] | None:
        """All lines that there are; waits for the first."""
        found = self._queue.get()
        if found is None:
            return None
        more: list[Line] | None = found
        with contextlib.suppress(Empty):
            while len(found) < 1000 and (more := self._queue.get_nowait()) is not None:
                found += more
            if more is None:
                self._queue.put(None)  # the end, for the next call
        return found


def _opened(path: str) -> int:
    """Open the file to append; if it is not there, make it with its first line, in one step."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        new = f"{path}.{secrets.token_hex(4)}"
        fd = os.open(new, flags | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, b"[\n")
            with contextlib.suppress(FileExistsError):
                os.link(new, path)
        finally:
            os.close(fd)
            Path(new).unlink()
        return os.open(path, flags)
