"""Lock files of this process: the inside of `ajit._cache.lock`, which says why it is like this.

State of a slot, and what guards it::

    fd                      ``io``, which is held during system calls but never while waiting for
                            a lock
    owner, helper, queue    ``process.lock``, which is held for a few instructions and no more;
                            ``owner`` is changed under both

``io`` is taken before ``process.lock``, never after it. ``helper`` says that a thread is on its
way to the lock; only that thread clears it, and until then no other thread of the process opens
the file to lock it. Whoever ends as owner or as helper looks after the queue (`settle`), so
nobody in it is forgotten.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import struct
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ajit._cache.fs import FILE_MODE, with_parent
from ajit._cache.holder import HolderRecord, clear_record, read_record, write_record
from ajit._cache.lease import Busy, Lease, LeaseWait, Unavailable, lock_threads
from ajit.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._cache.directory import CacheDirectory

__all__ = ["Process", "Slot", "borrow_slot", "current_process"]

Place = tuple[tuple[int, int], str]
"""A lock file before it is opened: identity of the cache directory, and key."""

POLL_SECONDS = (0.005, 0.020)
"""Between two tries after EDEADLK, at random, so that two processes do not keep step."""

_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_OPEN_TO_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_HELD_BY_ANOTHER = (errno.EAGAIN, errno.EACCES)  # POSIX allows either
_FLOCK = struct.Struct("@hhqqi4x")
"""``struct flock`` on 64-bit Linux: type, whence, start, length, pid."""


class Process:
    """All slots of this process. A forked child begins with a new one.

    Attributes:
        forked_away: Whether this is a copy of the parent's, in a child.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.slots: dict[Place, Slot] = {}
        self.forked_away = False


class Slot:
    """One lock file, for as long as this process has something to do with it."""

    def __init__(self, process: Process, directory: CacheDirectory, place: Place) -> None:
        self.process = process
        self.directory = directory
        self.place = place
        self.key = key = place[1]
        self.io = threading.Lock()
        self.fd = -1
        self.owner: Lease | None = None
        self.helper = False
        self.borrowers = 0
        self.queue: deque[LeaseWait] = deque()
        self._name = f"locks/{key[:2]}/{key}.lock"

    # --- with `io` held -------------------------------------------------------------------------

    def try_lock(self, compiler: str) -> Lease | Busy | Unavailable:
        """Take the lock if nobody has it."""
        with self.process.lock:
            taken = self.owner is not None or self.helper
        if taken:
            return Busy(self.read_holder())
        try:
            self._open()
            # F_SETLK over the whole file.
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (OSError, CacheError) as exc:
            return self._give_up(exc)
        return self._own(compiler)

    def pass_on(self) -> None:
        """Give the lock, which we hold, to the next waiter; back to the kernel if there is none."""
        while (wait := self._next_wait()) is not None:
            if wait.deliver(self._own(wait.compiler)):
                return
        clear_record(self.fd)
        self._close()
        with self.process.lock:
            self.owner = None
        self.settle()

    def read_holder(self) -> HolderRecord | None:
        """Say who holds the lock, through the descriptor that the process has, if it has one."""
        if self.owner is not None:
            return self.owner.record
        if self.fd >= 0:
            return _read_holder(self.fd)
        try:
            fd = os.open(self._name, _OPEN_TO_READ, dir_fd=self.directory.fd)
        except OSError:
            return None
        try:
            return _read_holder(fd)
        finally:
            # Closing drops the process's lock on the file. It has none: there is no owner, and
            # to become one takes `io`, which we hold.
            os.close(fd)

    def _own(self, compiler: str) -> Lease:
        lease = Lease(self, compiler)
        with self.process.lock:
            self.owner = lease
        write_record(self.fd, lease.record)
        return lease

    def _give_up(self, exc: Exception) -> Busy | Unavailable:
        held = self.fd >= 0 and isinstance(exc, OSError) and exc.errno in _HELD_BY_ANOTHER
        outcome = Busy(read_record(self.fd)) if held else Unavailable(_reason(exc))
        self._close()
        return outcome

    def _open(self) -> None:
        try:
            # Almost always it is there already.
            self.fd = os.open(self._name, _OPEN, dir_fd=self.directory.fd)
        except FileNotFoundError:
            self.fd = with_parent(self.directory, self._name.rpartition("/")[0], self._create)

    def _create(self) -> int:
        # Not O_EXCL: whoever made it, it is the same file.
        fd = os.open(self._name, _OPEN | os.O_CREAT, FILE_MODE, dir_fd=self.directory.fd)
        # The umask may have taken our own right to open it again.
        os.fchmod(fd, FILE_MODE)
        return fd

    def _close(self) -> None:
        # This gives the lock back. The file stays: unlinked, it would go on as the lock of those
        # who have it open, beside a new one for those who come later.
        fd, self.fd = self.fd, -1
        if fd >= 0:
            # Linux frees the number even if the file system reports an error here.
            with suppress(OSError):
                os.close(fd)

    # --- the queue and its helper, without `io` ---------------------------------------------------

    def enqueue(self, wait: LeaseWait) -> None:
        """Add a waiter. Does no I/O; may start a thread."""
        with self.process.lock:
            self.queue = deque(other for other in self.queue if other.waiting)
            self.queue.append(wait)
        self.settle()

    def _next_wait(self) -> LeaseWait | None:
        with self.process.lock:
            while self.queue:
                wait = self.queue.popleft()
                if wait.waiting:
                    return wait
        return None

    def _wanted(self) -> bool:
        with self.process.lock:
            return any(wait.waiting for wait in self.queue)

    def settle(self) -> None:
        """Start a helper if somebody waits and nobody is on the way; else drop an idle slot."""
        with self.process.lock:
            idle = self.owner is None and not self.helper
            self.helper = self.helper or (idle and any(wait.waiting for wait in self.queue))
            start = idle and self.helper
            if idle and not start and not self.borrowers:
                self.process.slots.pop(self.place, None)
        if start:
            try:
                lock_threads.run(self._help)
            except RuntimeError as exc:  # no more threads; the file is not open yet
                self._end_helping(f"cannot start a thread to wait for the lock: {exc}")

    def _help(self) -> None:
        """Get the lock for those who wait. The main function of a helper thread."""
        problem = ""
        try:
            with self.io:
                # try_lock may have been quicker; then the release looks after the queue.
                open_it = self.owner is None and self._wanted()
                if open_it:
                    self._open()
            # Without `io`, so that others can read who holds the lock. Nobody else closes the
            # descriptor as long as `helper` is set.
            won = open_it and self._block()
        except (OSError, CacheError) as exc:
            won, problem = False, _reason(exc)
        with self.io:
            if won:
                self.pass_on()
            elif self.owner is None:
                self._close()
            self._end_helping(problem)

    def _end_helping(self, problem: str) -> None:
        waits: list[LeaseWait] = []
        with self.process.lock:
            self.helper = False
            if problem:
                waits, self.queue = list(self.queue), deque()
        for wait in waits:
            wait.deliver(Unavailable(problem))
        self.settle()

    def _block(self) -> bool:
        try:
            # F_SETLKW over the whole file. EINTR is retried inside (PEP 475).
            fcntl.lockf(self.fd, fcntl.LOCK_EX)
        except OSError as exc:
            if exc.errno != errno.EDEADLK:
                raise
            return self._poll()
        return True

    def _poll(self) -> bool:
        """Get the lock by trying again and again; false if everybody has left."""
        while self._wanted():
            time.sleep(random.uniform(*POLL_SECONDS))  # noqa: S311  # jitter, not a secret
            try:
                fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                if exc.errno not in _HELD_BY_ANOTHER:
                    raise
            else:
                return True
        return False

    def __repr__(self) -> str:
        return (
            f"<Slot {self.key[:16]} fd={self.fd} owned={self.owner is not None} "
            f"helper={self.helper} queue={len(self.queue)}>"
        )


@contextmanager
def borrow_slot(directory: CacheDirectory, key: str) -> Iterator[Slot]:
    """Give the process's one slot of a lock file, which stays in the table meanwhile."""
    process = _process
    place = (directory.identity, key)
    with process.lock:
        slot = process.slots.get(place)
        if slot is None:
            slot = process.slots[place] = Slot(process, directory, place)
        slot.borrowers += 1
    try:
        yield slot
    finally:
        with process.lock:
            slot.borrowers -= 1
        slot.settle()


def current_process() -> Process:
    """Return the table of this process."""
    return _process


def _read_holder(fd: int) -> HolderRecord | None:
    # A holder that was killed leaves its record behind, but not its lock.
    return read_record(fd) if _is_locked(fd) else None


def _is_locked(fd: int) -> bool:
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, question)
    except OSError:
        return True  # cannot be known; the record is the best there is
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.strerror} ({exc.filename})" if exc.filename else exc.strerror
    return str(exc)


_process = Process()


def _after_fork_in_child() -> None:
    # Descriptors of the parent's lock files stay open in the child until it ends or execs.
    # Closing them would not harm the parent, whose locks are its own; but a number from a table
    # that another thread was just changing may by now be the number of something else.
    global _process  # noqa: PLW0603  # a fork replaces the state of the process
    _process.forked_away = True
    _process = Process()


os.register_at_fork(after_in_child=_after_fork_in_child)
