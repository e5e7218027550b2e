"""Beats of a holder: posted by whoever works, and written by threads that may hang.

A beat is a write to the lock file, and a file system that is dead holds up whoever writes to it. So
nobody who has anything else to do writes one. The origin stays who does the work: a compile's
thread posts its beats, so a thread that is stalled goes silent, whatever else still runs.

While an entry is published, its thread hangs in ``fsync`` for as long as the disk pleases, and can
post nothing. Then a thread beats in its stead (`beats_during`), for `PUBLISH_SECONDS` at most: on a
disk that never answers, waiters lose no more than that and their patience. If the disk takes no
beats either, it is only their patience, as before.
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
    """Calls what may hang in a thread, once after any number of posts. Any thread may post.

    There is one call at a time. While it hangs, all posts together are one more call after it.

    Args:
        write: What is called. It must not raise.
    """

    def __init__(self, write: Callable[[], object]) -> None:
        self._write = write
        self._lock = threading.Lock()  # held for a few instructions only
        self._due = False
        self._writing = False

    def post(self) -> None:
        """Have it called after this. Never blocks; without a thread to be had it does nothing."""
        with self._lock:
            self._due = True
            if self._writing:
                return
            self._writing = True
        try:
            _threads.run(self._write_due)
        except RuntimeError:  # no more threads: a beat is missed, the next may come through
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
    except RuntimeError:  # no more threads: whoever waits may lose patience, and that is all
        ended.set()
    try:
        yield
    finally:
        ended.set()


def _beat_until(ended: threading.Event, beat: Callable[[], object]) -> None:
    deadline = time.monotonic() + PUBLISH_SECONDS
    while not ended.wait(BEAT_SECONDS) and time.monotonic() < deadline:
        beat()
