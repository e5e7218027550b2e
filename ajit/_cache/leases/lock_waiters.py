"""The threads that wait for locks: a handful block in the kernel, one more tries for all the rest.

A blocked thread wakes up as soon as the lock is free, so while few keys are contended, each has
such a thread. A server that wants a thousand kernels while fifteen other processes want the same
would need a thousand threads and descriptors. So above `BLOCKING_LIMIT`, one thread *tries* the
keys in turn. It opens a file only for the time of a try, and sleeps between two rounds for long
enough to use at most a twentieth of a CPU. A blocking thread that becomes free takes over a key.

A wait in the kernel cannot be cancelled, so a blocking thread may go on after all its waiters have
left. That makes the others slower, and stops none.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from ajit._cache.leases import posix
from ajit._cache.leases.claims import pause_seconds
from ajit._cache.leases.lease import lock_threads
from ajit.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._cache.leases.lock_file import LockFile

__all__ = ["BLOCKING_LIMIT", "LockWaiters"]

BLOCKING_LIMIT = 8
"""Threads that block in locks, for one cache. Pretty arbitrary: a handful."""

DEADLOCK_POLL_SECONDS = (0.005, 0.020)
"""Between two tries after EDEADLK, at random, so that two processes do not stay in step."""

ROUND_SECONDS = 0.025
"""Least time between two rounds of tries; see `REST`."""

REST = 19
"""How long it sleeps after a round, in durations of that round."""


class LockWaiters:
    """The waiting threads of this process, for one cache. Any thread."""

    def __init__(self) -> None:
        # Held for a few instructions only.
        self._lock = threading.Lock()
        self._blocking = 0
        self._tried: deque[LockFile] = deque()
        self._trying = False

    def send(self, lock_file: LockFile) -> None:
        """Get a lock for its waiters. Only one thread may be on its way to each lock file.

        If no thread can be started, the waiters that are left without one are told.
        """
        with self._lock:
            block = self._blocking < BLOCKING_LIMIT
            start = block or not self._trying
            if block:
                self._blocking += 1
            else:
                self._tried.append(lock_file)
                self._trying = True
        if start:
            try:
                lock_threads.run(*((self._block, lock_file) if block else (self._try_all,)))
            except RuntimeError as exc:
                for stranded in [self._not_blocked(lock_file)] if block else self._not_tried():
                    stranded.stop_helping(f"cannot start a thread to wait for the lock: {exc}")

    def threads(self) -> int:
        """How many threads wait for locks."""
        return self._blocking + self._trying

    def _not_blocked(self, lock_file: LockFile) -> LockFile:
        with self._lock:
            self._blocking -= 1
        return lock_file

    def _not_tried(self) -> deque[LockFile]:
        # All that are left: the others were added because this thread was expected. Even the first
        # may be missing among them, if a blocking thread has taken it over.
        with self._lock:
            stranded, self._tried = self._tried, deque()
            self._trying = False
        return stranded

    def _block(self, lock_file: LockFile) -> None:
        """Block for one lock_file after another. The main function of a blocking thread."""
        following: LockFile | None = lock_file
        while following is not None:
            _help(following)
            with self._lock:
                following = self._tried.popleft() if self._tried else None
                if following is None:
                    self._blocking -= 1

    def _try_all(self) -> None:
        """Try every lock file in turn until none is left. Runs as the trying thread."""
        while True:
            begun = time.monotonic()
            for _ in range(len(self._tried)):
                self._try_next()
            with self._lock:
                if not self._tried:
                    self._trying = False
                    return
            time.sleep(max(ROUND_SECONDS, REST * (time.monotonic() - begun)))

    def _try_next(self) -> None:
        with self._lock:
            if not self._tried:
                return
            lock_file = self._tried.popleft()
        if not _try(lock_file):
            with self._lock:
                self._tried.append(lock_file)


def _help(lock_file: LockFile) -> None:
    """Wait for the lock of a lock file, whatever happens, and end as its helper."""
    won, problem = False, ""
    try:
        if lock_file.open_for_waiters():
            won = _win(lock_file, _wait) and _wait_for_claim(lock_file)
    except (OSError, CacheError) as exc:
        problem = posix.reason(exc)
    lock_file.end_helping(won=won, problem=problem)


def _try(lock_file: LockFile) -> bool:
    """Try for the lock of a lock file; true if that was the end as its helper."""
    won, problem = False, ""
    try:
        if lock_file.open_for_waiters():
            won = _win(lock_file, _take_now) and _try_claim(lock_file)
            if not won and lock_file.wanted():
                lock_file.close_for_now()
                return False
    except (OSError, CacheError) as exc:
        problem = posix.reason(exc)
    lock_file.end_helping(won=won, problem=problem)
    return True


def _win(lock_file: LockFile, take: Callable[[LockFile, int], bool]) -> bool:
    """Get the exclusive lock; false if that is impossible, or no waiter here needs it."""
    if lock_file.glances() and take(lock_file, posix.SHARED):
        # All waiting processes have that lock at the same time, so they see the published entry in
        # parallel. In turn, each would wait for the glances of all before it.
        # Released before the exclusive lock is requested: two processes that keep the shared one
        # would wait for each other.
        _look_together(lock_file, lock_file.unlock)
    return lock_file.wanted() and take(lock_file, posix.EXCLUSIVE)


def _wait_for_claim(lock_file: LockFile) -> bool:
    """With the lock, get the claim: nothing wakes us, so look again and again."""
    begun = time.monotonic()
    while lock_file.wanted():
        if _try_claim(lock_file):
            return True
        time.sleep(pause_seconds(time.monotonic() - begun))
    return False


def _try_claim(lock_file: LockFile) -> bool:
    claims = lock_file.claims
    if claims is None or claims.try_make(lock_file.trust):
        return True
    if claims.settling:  # what its holder published may be seen at any moment
        _look_together(lock_file, lambda: None)
    return False


def _look_together(lock_file: LockFile, unlock: Callable[[], None]) -> None:
    """Take the glances, and unlock before a waiter is told.

    An event loop that wakes up competes with this thread, on which other processes wait.
    """
    seen = [
        (wait, glimpse) for wait in lock_file.glances() if (glimpse := wait.glance()) is not None
    ]
    unlock()
    for wait, glimpse in seen:
        wait.deliver(glimpse)


def _wait(lock_file: LockFile, kind: int) -> bool:
    """Wait for a lock; false if the kernel refused to block, and all waiters have left."""
    return lock_file.take(kind) or _poll(lock_file, kind)


def _take_now(lock_file: LockFile, kind: int) -> bool:
    return lock_file.take_now(kind)


def _poll(lock_file: LockFile, kind: int) -> bool:
    while lock_file.wanted():
        time.sleep(random.uniform(*DEADLOCK_POLL_SECONDS))  # noqa: S311  # jitter, not a secret
        if lock_file.take_now(kind):
            return True
    return False
