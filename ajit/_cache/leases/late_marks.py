"""Marks of claims that could not be written when they were left: tried again for a while.

A claim that is not marked as left costs its followers the silence of a holder. A file server that
restarts takes longer than a release may, and shorter than that silence. One thread tries for all
claims of the process, and there is none while all marks are written.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from ajit._system.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LateMarks", "late_marks"]

RETRY_SECONDS = 0.5
GIVE_UP_SECONDS = 60.0
"""Both pretty arbitrary. After so long a holder is silent for all who wait with usual settings."""

_threads = DaemonThreads("ajit-mark")


class LateMarks:
    """Calls that are made again until they succeed. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for a few instructions only
        self._due: dict[Callable[[], bool], float] = {}
        self._running = False

    def add(self, write: Callable[[], bool]) -> None:
        """Try it again, until it says that it is done. It must not raise, and may hang."""
        with self._lock:
            self._due[write] = time.monotonic() + GIVE_UP_SECONDS
            if self._running:
                return
            self._running = True
        try:
            _threads.run(self._retry)
        except RuntimeError:  # no more threads: followers wait for silence, and that is all
            with self._lock:
                self._running = False

    def waiting(self) -> int:
        """How many are not written yet."""
        return len(self._due)

    def _retry(self) -> None:
        while self._some_are_due():
            time.sleep(RETRY_SECONDS)
            with self._lock:
                due = list(self._due.items())
            for write, give_up in due:
                if write() or time.monotonic() > give_up:
                    with self._lock:
                        self._due.pop(write, None)

    def _some_are_due(self) -> bool:
        with self._lock:
            self._running = bool(self._due)
            return self._running

    def __repr__(self) -> str:
        return f"<LateMarks {self.waiting()} waiting>"


late_marks = LateMarks()
"""Those of this process."""


def _forget() -> None:
    # The claims are the parent's, and so is the thread.
    late_marks.__init__()  # type: ignore[misc]  # a fork replaces the state of the process


os.register_at_fork(after_in_child=_forget)
