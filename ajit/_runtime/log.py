"""Log lines, made from events, under loggers below ``ajit``; `ajit._runtime.log_lines` words them.

A server's log must say which process a request waits for, even without a subscriber: in other
projects, workers that waited in silence made slow compiles look like hangs. And a compile of two
minutes must not be silent in the process that does it. What comes often is told at first, and then
every ten seconds.

A log handler may block (a full pipe behind standard error), so a separate thread writes the lines.
It starts with the first line and ends with the runtime.
"""

from __future__ import annotations

import logging
import time
from logging.handlers import QueueListener
from queue import SimpleQueue
from typing import TYPE_CHECKING

import anyio

from ajit._core import events
from ajit._printable import printable_line
from ajit._runtime.log_lines import Line, fallback_failed, line_of
from ajit._system.in_thread import run_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from ajit.errors import AjitError

__all__ = ["LogLines"]

QUIET_WAIT_SECONDS = 0.5
"""A shorter wait is not logged. Pretty arbitrary."""

REPEAT_SECONDS = 10.0
"""How long after a line about a wait, or what else goes on, the next one is written."""


MOST_DUE = 1000
"""Kernels whose next line has to wait; beyond that, those that need not are forgotten."""

_AT_INTERVALS: dict[type[events.Event], Callable[[events.Event], Hashable]] = {
    events.WaitingForPermit: lambda _: "permit",  # one line for all compiles that wait
    events.MakingKey: lambda _: "key",
    events.CacheUnwritable: lambda _: "unwritable",
    events.FallbackUsed: lambda event: ("fallback", event.name),
}
"""What is told at intervals only, and together with which others."""


class LogLines:
    """A subscriber that writes a line for every event an operator would want to see.

    Args:
        limiter: For the thread that waits, at the end, until everything is written.
    """

    def __init__(self, limiter: anyio.CapacityLimiter) -> None:
        self._limiter = limiter
        self._queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
        self._listener: QueueListener | None = None
        # By what goes on, a wait or a compile: how long it had lasted when that was last written.
        self._said: dict[Hashable, float] = {}
        # By what may be told: when it may be told next, monotonic.
        self._due: dict[Hashable, float] = {}

    def __call__(self, event: events.Event) -> None:
        """Queue a line for the thread. Does not block."""
        if self._is_due(event):
            self._write(line_of(event))

    def failed_behind(self, name: str, key: str, fallback: str, error: AjitError) -> None:
        """Log that a kernel failed whose fallback serves; not at every attempt. Does not block."""
        if self._is_time_for(("failed behind", name, key)):
            self._write(fallback_failed(name, key, fallback, error))

    def _write(self, line: Line | None) -> None:
        if line is None:
            return
        logger = logging.getLogger(f"ajit.{line.logger}")
        if not logger.isEnabledFor(line.level):
            return
        if self._listener is None:
            listener = QueueListener(self._queue, _ToLogger())
            try:
                listener.start()
            except RuntimeError:
                return  # no thread can be started: the request will say so, in its error
            self._listener = listener
        text = printable_line(line.text)  # one event, one line
        extra = {
            name: printable_line(value) if isinstance(value, str) else value
            for name, value in line.extra.items()
        }
        record = logger.makeRecord(
            logger.name, line.level, __file__, 0, text, (), None, extra=extra
        )
        self._queue.put(record)

    def _is_due(self, event: events.Event) -> bool:
        """Whether to log an event of a kind that comes again and again."""
        match event:
            case events.Waiting(waited_seconds=waited):
                return self._goes_on(("wait", event.key), waited, QUIET_WAIT_SECONDS)
            case events.CompileRunning(seconds=seconds):
                return self._goes_on(("compile", event.key), seconds, REPEAT_SECONDS)
            case events.WaitEnded():
                self._said.pop(("wait", event.key), None)
            case events.CompileFinished() | events.CompileFailed() | events.CompileCancelled():
                self._said.pop(("compile", event.key), None)
            case events.WaitingForPermit(waited_seconds=waited) if waited < REPEAT_SECONDS:
                return False
        what = _AT_INTERVALS.get(type(event))
        return what is None or self._is_time_for(what(event))

    def _goes_on(self, what: Hashable, lasted: float, quiet_seconds: float) -> bool:
        """Whether to log a report of what goes on: the first one, then one at intervals."""
        if lasted < quiet_seconds:
            # A new one. The former one may have been cancelled without an event.
            self._said.pop(what, None)
            return False
        said = self._said.get(what)
        # If it has lasted for less than was logged before, it is a new one, too.
        if said is not None and said <= lasted < said + REPEAT_SECONDS:
            return False
        self._said[what] = lasted
        return True

    def _is_time_for(self, what: Hashable) -> bool:
        """Whether to log it: at first, then at intervals."""
        now = time.monotonic()
        if now < self._due.get(what, now):
            return False
        if len(self._due) > MOST_DUE:  # what is due already need not be known
            self._due = {what: due for what, due in self._due.items() if due > now}
        self._due[what] = now + REPEAT_SECONDS
        return True

    async def aclose(self) -> None:
        """Write the remaining lines, and end the thread."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await run_in_thread(listener.stop, limiter=self._limiter)


class _ToLogger(logging.Handler):
    def handle(self, record: logging.LogRecord) -> bool:
        logging.getLogger(record.name).handle(record)
        return True
