"""Looks at something again and again in a thread, as long as it is asked for.

What the page shows is read from files that may hang, or be many. So no event loop reads them: a
daemon thread does, and who asks gets what it found last, at once. Without questions the thread
ends, and nothing is read. If it hangs, the others go on, and say how long ago the last answer was.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from ajit._printable import printable_line
from ajit._system.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LINGER_SECONDS", "Background", "Seen"]

T = TypeVar("T")

LINGER_SECONDS = 5.0
"""How long a thread goes on after the last question. Longer than the time between two of them."""

SHARE = 0.05
"""The most of a thread's time that is spent looking: a large cache is looked at less often."""

logger = logging.getLogger("ajit.dashboard")

_threads = DaemonThreads("ajit-dashboard")


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """What was found last.

    Attributes:
        number: Of the look, from 1 on; 0 before the first.
        value: What was found; None before that.
        problem: Why the last look found nothing; "" if it did.
        at: When that was, monotonic.
    """

    number: int = 0
    value: T | None = None
    problem: str = ""
    at: float = 0.0


class Background(Generic[T]):
    """A function that is called at intervals while its results are asked for.

    Any thread and any event loop may ask. A forked child begins anew.

    Args:
        function: It may block. What it raises is told as the problem.
        every_seconds: From the beginning of a call to that of the next, or longer: see `SHARE`.
        rest: Called in that thread before it ends: it closes what is kept for the next look. Must
            not raise.
    """

    def __init__(
        self,
        function: Callable[[], T],
        every_seconds: float,
        rest: Callable[[], object] = lambda: None,
    ) -> None:
        self._function = function
        self._rest = rest
        self._every_seconds = every_seconds
        self._seen: Seen[T]
        self._forget()

    def latest(self) -> Seen[T]:
        """Return what was found last, and see to it that there is a next look. Never blocks."""
        if self._pid != os.getpid():
            self._forget()
        self._asked = asked = time.monotonic()
        if not self._looking.locked():
            self._woken = asked
            try:
                _threads.run(self._look_on)
            except RuntimeError as exc:  # no thread can be started: the next question tries again
                self._seen = Seen(self._seen.number + 1, self._seen.value, str(exc), asked)
        return self._seen

    def is_fresh(self) -> bool:
        """Return whether there was a look since the last pause. Asks, too, and never blocks."""
        return self.latest().at >= self._woken

    @property
    def silent_seconds(self) -> float:
        """For how long the call that is under way has not returned; 0.0 if there is none."""
        begun = self._begun
        return time.monotonic() - begun if begun is not None else 0.0

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._looking = threading.Lock()
        self._asked = self._woken = 0.0
        self._begun: float | None = None
        self._seen = Seen()

    def _look_on(self) -> None:
        looking = self._looking
        if not looking.acquire(blocking=False):
            return  # another thread was quicker
        try:
            while time.monotonic() - self._asked < LINGER_SECONDS:
                took = self._look()
                time.sleep(max(self._every_seconds - took, took / SHARE - took))
            self._rest()
        finally:
            looking.release()

    def _look(self) -> float:
        """Call the function, and return how long that took."""
        begun = self._begun = time.monotonic()
        value, problem = self._seen.value, ""
        try:
            value = self._function()
        except Exception as exc:  # whatever it is, it is shown, and tried again
            problem = printable_line(str(exc) or type(exc).__name__)
            if problem != self._seen.problem:  # told once, not every second
                logger.debug("the live page could not look", exc_info=True)
        now = time.monotonic()
        self._begun = None
        self._seen = Seen(self._seen.number + 1, value, problem, now)
        return now - begun
