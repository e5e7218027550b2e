"""Log lines, made from events, under the logger ``ajit``.

A server's log must say which process a request waits for, even without a subscriber: in other
projects, workers that waited in silence made slow compiles look like hangs.

A log handler may block (a full pipe behind standard error), so a separate thread writes the lines.
It starts with the first line and ends with the runtime.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from logging.handlers import QueueListener
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import anyio

from ajit._core import events
from ajit._printable import difference_texts, printable_line
from ajit._system.in_thread import run_in_thread
from ajit.errors import CompileError, CompileForbidden

if TYPE_CHECKING:
    from ajit.errors import AjitError

__all__ = ["LogLines"]

_logger = logging.getLogger("ajit")

QUIET_WAIT_SECONDS = 0.5
"""A shorter wait is not logged. Pretty arbitrary."""

REPEAT_SECONDS = 10.0
"""How long after a line about a wait the next one is written."""

_SAYS_ERROR = re.compile(r"\b(?:fatal )?error\b", re.IGNORECASE)

Line = tuple[int, str]


class LogLines:
    """A subscriber that writes a line for every event an operator would want to see.

    Args:
        limiter: For the thread that waits, at the end, until everything is written.
    """

    def __init__(self, limiter: anyio.CapacityLimiter) -> None:
        self._limiter = limiter
        self._queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
        self._listener: QueueListener | None = None
        # Key to how long its wait had lasted when a line was last written about it.
        self._said: dict[str, float] = {}
        # Name and key to when the next line may say that it failed behind its fallback.
        self._permit_due = float("-inf")
        self._making_due = float("-inf")
        self._failed_behind_due: dict[tuple[str, str], float] = {}

    def __call__(self, event: events.Event) -> None:
        """Queue a line for the thread. Does not block."""
        if not self._is_due(event):
            return
        self._write(_line(event))

    def failed_behind(self, name: str, key: str, fallback: str, error: AjitError) -> None:
        """Log that a kernel failed whose fallback serves; not at every attempt. Does not block."""
        now = time.monotonic()
        due = self._failed_behind_due.get((name, key), now)
        if now < due:
            return
        self._failed_behind_due[name, key] = now + REPEAT_SECONDS
        self._write(_behind(_what(name, key), fallback, error))

    def _write(self, line: Line | None) -> None:
        if line is None or not _logger.isEnabledFor(line[0]):
            return
        if self._listener is None:
            listener = QueueListener(self._queue, _ToLogger())
            try:
                listener.start()
            except RuntimeError:
                return  # no thread can be started: the request will say so, in its error
            self._listener = listener
        level, text = line
        text = printable_line(text)  # one event, one line
        self._queue.put(_logger.makeRecord(_logger.name, level, __file__, 0, text, (), None))

    def _is_due(self, event: events.Event) -> bool:
        """Whether to log a report of a wait: the first one, then one at intervals."""
        if isinstance(event, events.WaitingForPermit):
            return self._is_permit_due(event)
        if isinstance(event, events.MakingKey):
            return self._is_making_due()
        if not isinstance(event, events.Waiting):
            if isinstance(event, events.WaitEnded):
                self._said.pop(event.key, None)
            return True
        waited = event.waited_seconds
        if waited < QUIET_WAIT_SECONDS:
            # A new wait. The former one may have been cancelled without an event.
            self._said.pop(event.key, None)
            return False
        said = self._said.get(event.key)
        # If it has lasted for less than was logged before, it is a new wait, too.
        if said is not None and said <= waited < said + REPEAT_SECONDS:
            return False
        self._said[event.key] = waited
        return True

    def _is_permit_due(self, event: events.WaitingForPermit) -> bool:
        """Whether to log it: at intervals, one line for all compiles that wait."""
        now = time.monotonic()
        if event.waited_seconds < REPEAT_SECONDS or now < self._permit_due:
            return False
        self._permit_due = now + REPEAT_SECONDS
        return True

    def _is_making_due(self) -> bool:
        """Whether to log it: at first, then at intervals, one line for all that are slow."""
        now = time.monotonic()
        if now < self._making_due:
            return False
        self._making_due = now + REPEAT_SECONDS
        return True

    async def aclose(self) -> None:
        """Write the remaining lines, and end the thread."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await run_in_thread(listener.stop, limiter=self._limiter)


class _ToLogger(logging.Handler):
    def handle(self, record: logging.LogRecord) -> bool:
        _logger.handle(record)
        return True


def _line(event: events.Event) -> Line | None:
    maker = _MAKERS.get(type(event))
    return None if maker is None else maker(event, _what(event.name, event.key))


def _what(name: str, key: str) -> str:
    return f"{name} ({key[:16]})" if key else name


def _started(event: Any, what: str) -> Line:
    target = f" for {event.arch}" if event.arch else ""  # a build has none
    return logging.INFO, f"{what}: compiling with {event.compiler}{target}"


def _waiting(event: Any, what: str) -> Line:
    waited = event.waited_seconds
    return logging.WARNING, f"{what}: waiting for {waited:.1f} s for {_who(event.holder)}"


def _making(event: Any, what: str) -> Line:
    doing = {
        "compiler": "the compiler is asked for its version",
        "files": "cache and headers are read",
    }[event.doing]
    waited = event.waited_seconds
    return logging.WARNING, f"{what}: its key has been made for {waited:.1f} s: {doing}"


def _wait_ended(event: Any, what: str) -> Line:
    waited = f"{what}: waited {event.waited_seconds:.1f} s for {_who(event.holder)}"
    if event.outcome == "patience":
        return logging.WARNING, f"{waited}; patience ended: compiling for ourselves"
    return logging.INFO, f"{waited}; ended with the {event.outcome}"


def _late(event: Any, what: str) -> Line:
    whose = f"{event.peer} " if event.peer else ""
    return logging.WARNING, f"{whose}{what}: compiled late: the runtime is frozen{_missed(event)}"


def _behind(what: str, fallback: str, error: AjitError) -> Line:
    served = f"the fallback {fallback!r} serves in its place"
    if isinstance(error, CompileForbidden):
        why = f"not compiled, because the runtime is frozen{_missed(error)}"
        return logging.WARNING, f"{what}: {served}: {why}"
    text = str(error)
    log = text if isinstance(error, CompileError) else ""  # of others, the first line says it
    why = _first_error(log) or text.partition("\n")[0]
    return logging.WARNING, f"{what}: {served}, since it could not be made ready: {why}"


def _missed(miss: events.CompiledLate | CompileForbidden) -> str:
    """What is cached instead, and who wanted it."""
    near = "; no similar kernel was found in the cache"
    if miss.nearest:
        differs = ", ".join(difference_texts(miss.differences))
        near = f"; the nearest cached kernel, {miss.nearest[:32]}, differs in {differs}"
    asked = f"; it was asked for at {miss.stack[-1]}" if miss.stack else ""
    return near + asked


def _finished(event: Any, what: str) -> Line:
    return logging.INFO, f"{what}: compiled by {event.compiler} in {event.seconds:.2f} s"


def _failed(event: Any, what: str) -> Line:
    # The error's own first line names the kernel once more.
    error = _first_error(event.error) or event.error
    return logging.WARNING, f"{what}: compile failed after {event.seconds:.2f} s: {error}"


def _rejected(event: Any, what: str) -> Line:
    return logging.WARNING, f"{what}: cached entry does not verify: {event.reason}"


def _no_locks(event: Any, what: str) -> Line:
    return logging.WARNING, f"{what}: no lease, compiling without: {event.reason}"


def _waiting_for_permit(event: Any, what: str) -> Line:
    held = "" if event.holder is None else f", of which {event.holder} has one"
    waited = f"{what}: queued for {event.waited_seconds:.1f} s"
    return logging.WARNING, f"{waited} for a compile permit of this machine{held}"


def _responsive(event: Any, what: str) -> Line:  # noqa: ARG001  # it is about no kernel
    return logging.WARNING, f"the kernel cache answers again, after {event.seconds:.1f} s"


def _not_published(event: Any, what: str) -> Line:
    return logging.WARNING, f"{what}: not kept in the cache: {event.reason}"


_MAKERS: dict[type[events.Event], Callable[[Any, str], Line]] = {
    events.Waiting: _waiting,
    events.MakingKey: _making,
    events.WaitEnded: _wait_ended,
    events.WaitingForPermit: _waiting_for_permit,
    events.CacheResponsive: _responsive,
    events.CompileStarted: _started,
    events.CompiledLate: _late,
    events.CompileFinished: _finished,
    events.CompileFailed: _failed,
    events.EntryRejected: _rejected,
    events.LocksUnavailable: _no_locks,
    events.NotPublished: _not_published,
}


def _who(holder: events.Holder | None) -> str:
    return "another process" if holder is None else str(holder)


def _first_error(text: str) -> str:
    """The compiler's first error, with its file and line: the first line that says so."""
    _, _, log = text.partition("\n")
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if _SAYS_ERROR.search(line)]
    return (errors or lines or [""])[0]
