"""Log lines, made from events, under the logger ``ajit``.

A server's log must say whom a request waits for without anybody having subscribed to anything: the
silence of waiting workers is what turned slow compiles of other projects into "hangs".

A log handler may block (a full pipe behind standard error), so lines are written by a thread of
their own, started with the first line and ended with the runtime.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from logging.handlers import QueueListener
from queue import SimpleQueue
from typing import Any

import anyio

from ajit._core import events

__all__ = ["LogLines"]

_logger = logging.getLogger("ajit")

QUIET_WAIT_SECONDS = 0.5
"""A wait shorter than this is nobody's concern. Pretty arbitrary."""

REPEAT_SECONDS = 10.0
"""How often a long wait is logged again, after the first line."""


Line = tuple[int, str]


class LogLines:
    """A subscriber that writes a line for every event an operator would want to see."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
        self._listener: QueueListener | None = None

    def __call__(self, event: events.Event) -> None:
        """Have a line written. Does not block."""
        line = _line(event)
        if line is None or not _logger.isEnabledFor(line[0]):
            return
        if self._listener is None:
            self._listener = QueueListener(self._queue, _ToLogger())
            self._listener.start()
        level, text = line
        self._queue.put(_logger.makeRecord(_logger.name, level, __file__, 0, text, (), None))

    async def aclose(self) -> None:
        """Write what is left, and end the thread."""
        if self._listener is not None:
            await anyio.to_thread.run_sync(self._listener.stop)
            self._listener = None


class _ToLogger(logging.Handler):
    def handle(self, record: logging.LogRecord) -> bool:
        _logger.handle(record)
        return True


def _line(event: events.Event) -> Line | None:
    maker = _MAKERS.get(type(event))
    return None if maker is None else maker(event, f"{event.name} ({event.key[:16]})")


def _waiting(event: Any, what: str) -> Line | None:
    """The performer reports about every second: of these, the first and then one in ten."""
    waited = event.waited_seconds
    first = QUIET_WAIT_SECONDS <= waited < QUIET_WAIT_SECONDS + 1.0
    again = waited >= REPEAT_SECONDS and waited % REPEAT_SECONDS < 1.0
    if not first and not again:
        return None
    return logging.WARNING, f"{what}: waiting for {waited:.1f} s for {_who(event.holder)}"


def _wait_ended(event: Any, what: str) -> Line:
    waited = f"{what}: waited {event.waited_seconds:.1f} s for {_who(event.holder)}"
    if event.outcome == "patience":
        return logging.WARNING, f"{waited}; patience ended: compiling for ourselves"
    return logging.INFO, f"{waited}; ended with the {event.outcome}"


def _finished(event: Any, what: str) -> Line:
    return logging.INFO, f"{what}: compiled by {event.compiler} in {event.seconds:.2f} s"


def _failed(event: Any, what: str) -> Line:
    first_line = event.error.partition("\n")[0]
    return logging.WARNING, f"{what}: {first_line}"


def _rejected(event: Any, what: str) -> Line:
    return logging.WARNING, f"{what}: cached entry does not verify: {event.reason}"


def _no_locks(event: Any, what: str) -> Line:
    return logging.WARNING, f"{what}: no lease, compiling without: {event.reason}"


_MAKERS: dict[type[events.Event], Callable[[Any, str], Line | None]] = {
    events.Waiting: _waiting,
    events.WaitEnded: _wait_ended,
    events.CompileFinished: _finished,
    events.CompileFailed: _failed,
    events.EntryRejected: _rejected,
    events.LocksUnavailable: _no_locks,
}


def _who(holder: events.Holder | None) -> str:
    if holder is None:
        return "another process"
    return (
        f"pid {holder.pid} on {holder.host}, {holder.phase} with {holder.compiler} "
        f"for {holder.age_seconds:.1f} s"
    )
