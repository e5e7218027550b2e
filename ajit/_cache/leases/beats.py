"""Beats of a holder: posted by the thread that works, and written by threads that may hang.

A beat is a write to the lock file, and a dead file system blocks its writer. So threads that do
nothing else write the beats. They are posted by the thread that does the work, such as a compile's:
if that thread stalls, the beats stop, whatever else still runs.

While an entry is published, its thread may hang in ``fsync`` for any time, and cannot post. Then
another thread beats in its place (`beats_during`), for at most `PUBLISH_SECONDS`: on a disk that
never answers, waiters lose that time and their patience. If the disk takes no beats either, they
lose only their patience.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ajit._system.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PUBLISH_SECONDS", "Poster", "beats_during"]

BEAT_SECONDS = 1.0

PUBLISH_SECONDS = 30.0
"""For how long a publish beats. A network disk under load takes seconds to write a few MB."""

_threads = DaemonThreads("ajit-beat")


class Poster:
    """Makes a call that may hang, in a thread, once after any number of posts. Any thread may post.

    There is one call at a time. All posts during that call lead to one more call after it.

    Args:
        write: What is called. It must not raise.
    """

    def __init__(self, write: Callable[[], object]) -> None:
        self._write = write
        self._lock = threading.Lock()  # held for a few instructions only
        self._due = False
        self._writing = False

    def post(self) -> None:
        """Request a call. Never blocks; does nothing if no thread can be started."""
        with self._lock:
            self._due = True
            if self._writing:
                return
            self._writing = True
        try:
            _threads.run(self._write_due)
        except RuntimeError:  # no more threads: this beat is lost, the next one may work
            with self._lock:
                self._writing = False

    def _write_due(self) -> None:
        while True:
            with self._lock:
                self._writing, self._due = self._due, False
                if not self._writing:
                    return
            self._write()


@contextmanager
def beats_during(beat: Callable[[], object]) -> Iterator[None]:
    """Beat every second, in a thread, while a block runs, for at most `PUBLISH_SECONDS`.

    A beat that hangs does not hold up the block.

    Args:
        beat: Beats. It may hang; it must not raise.
    """
    ended = threading.Event()
    try:
        _threads.run(_beat_until, ended, beat)
    except RuntimeError:  # no more threads: waiters may lose patience, and that is all
        ended.set()
    try:
        yield
    finally:
        ended.set()


def _beat_until(ended: threading.Event, beat: Callable[[], object]) -> None:
    deadline = time.monotonic() + PUBLISH_SECONDS
    while not ended.wait(BEAT_SECONDS) and time.monotonic() < deadline:
        beat()
