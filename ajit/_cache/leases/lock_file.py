"""Lock files of this process: the implementation of `table`, which gives the reasons.

State of a lock file, and what guards it::

    fd                      ``io``, which is held during system calls but never while waiting for
                            a lock
    owner, helper, queue    ``process.lock``, which is held for a few instructions and no more;
                            ``owner`` is changed under both

``io`` is taken before ``process.lock``, never after it. ``helper`` says that a thread is on its
way to the lock; only that thread clears it, and until then no other thread of the process opens
the file to lock it. An owner or helper that ends calls `settle`, which serves the queue, so no
waiter is forgotten.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ajit._cache.files.fs import close_unwritten, with_parent
from ajit._cache.leases import posix
from ajit._cache.leases.holder import HolderRecord, clear_record, read_record, write_record
from ajit._cache.leases.lease import Busy, Glimpse, Lease, LeaseWait, Unavailable
from ajit._cache.leases.lock_waiters import LockWaiters
from ajit._system.process import this_process
from ajit.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._cache.files.directory import CacheDirectory

__all__ = ["LockFile", "Process", "borrow_lock_file", "current_process"]

LockName = tuple[tuple[int, int], str]
"""A lock file before it is opened: identity of the cache directory, and key."""


class Process:
    """All lock files of this process. A forked child begins with a new one.

    Attributes:
        lock: Held for a few instructions only.
        lock_files: By their names.
        waiters: The threads that wait for locks.
        forked_away: Whether this is a copy of the parent's, in a child.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock_files: dict[LockName, LockFile] = {}
        self.waiters = LockWaiters()
        self.forked_away = False


class LockFile:
    """One lock file, for as long as this process uses it."""

    def __init__(self, process: Process, directory: CacheDirectory, name: LockName) -> None:
        self.process = process
        self.directory = directory
        self.name = name
        self.key = key = name[1]
        self.io = threading.Lock()
        self.fd = -1
        self.owner: Lease | None = None
        self.helper = False
        self.borrowers = 0
        self.queue: deque[LeaseWait] = deque()
        self._name = f"locks/{key[:2]}/{key}.lock"

    # --- with `io` held -------------------------------------------------------------------------

    def try_lock(self, compiler: str, name: str = "") -> Lease | Busy | Unavailable:
        """Take the lock if it is free."""
        with self.process.lock:
            taken = self.owner is not None or self.helper
        if taken:
            return Busy(self.read_holder())
        try:
            self._open()
            if posix.take_now(self.fd, posix.EXCLUSIVE):
                return self._own(compiler, name)
            outcome: Busy | Unavailable = Busy(_read_holder(self.fd))
        except (OSError, CacheError) as exc:
            outcome = Unavailable(posix.reason(exc))
        self._close()
        return outcome

    def pass_on(self) -> None:
        """Pass the lock, which we hold, to the next waiter; without one, unlock the file.

        A waiter whose glance found something is skipped and gets that afterwards: otherwise its
        event loop would wake up now and compete with this thread, on which other processes wait.
        """
        seen: list[tuple[LeaseWait, Glimpse]] = []
        try:
            if not self._hand_over(seen):
                self._hand_back()
        finally:
            for wait, glimpse in seen:
                wait.deliver(glimpse)

    def _hand_over(self, seen: list[tuple[LeaseWait, Glimpse]]) -> bool:
        """Pass the lock to a waiter that needs it; note those that do not; false if none does."""
        while (wait := self._next_wait()) is not None:
            glimpse = wait.glance()
            if glimpse is not None:
                seen.append((wait, glimpse))
            elif wait.deliver(self._own(wait.compiler, wait.name)):
                return True
        return False

    def _hand_back(self) -> None:
        # Without a former owner there is no record to clear: one write less per process.
        if self.owner is not None:
            clear_record(self.fd)
        self._close()
        with self.process.lock:
            self.owner = None
        self.settle()

    def read_holder(self) -> HolderRecord | None:
        """Read the holder's record, through the descriptor that the process has, if it has one."""
        if self.owner is not None:
            return self.owner.record
        if self.fd >= 0:
            return _read_holder(self.fd)
        try:
            fd = os.open(self._name, posix.OPEN_TO_READ, dir_fd=self.directory.fd)
        except OSError:
            return None
        try:
            return _read_holder(fd)
        finally:
            # Closing drops the process's lock on the file. It has none: there is no owner, and
            # to become one takes `io`, which we hold.
            close_unwritten(fd)

    def _own(self, compiler: str, name: str) -> Lease:
        lease = Lease(self, compiler, name)
        with self.process.lock:
            self.owner = lease
        write_record(self.fd, lease.record)
        return lease

    def _open(self) -> None:
        try:
            # Almost always it is there already.
            self.fd = os.open(self._name, posix.OPEN_TO_LOCK, dir_fd=self.directory.fd)
        except FileNotFoundError:
            self.fd = with_parent(self.directory, self._name.rpartition("/")[0], self._create)

    def _create(self) -> int:
        # Not O_EXCL: the file may exist already, and is the same one.
        flags = posix.OPEN_TO_LOCK | os.O_CREAT
        mode = self.directory.sharing.file_mode
        fd = os.open(self._name, flags, mode, dir_fd=self.directory.fd)
        # The umask may have taken our own right to open it again. Another member of a group that
        # shares the cache may have made it in this moment; then the mode is that one's to set.
        with suppress(PermissionError):
            os.fchmod(fd, mode)
        return fd

    def _close(self) -> None:
        # This releases the lock. The file stays: if it were unlinked, processes that have it open
        # would go on using it, beside a new file for later processes.
        fd, self.fd = self.fd, -1
        if fd >= 0:
            # Linux frees the number even if the file system reports an error here.
            with suppress(OSError):
                os.close(fd)

    # --- the queue, without `io` ------------------------------------------------------------------

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

    def settle(self) -> None:
        """Start a helper if there are waiters and none is running; else drop an idle one."""
        with self.process.lock:
            idle = self.owner is None and not self.helper
            self.helper = self.helper or (idle and any(wait.waiting for wait in self.queue))
            start = idle and self.helper
            if idle and not start and not self.borrowers:
                self.process.lock_files.pop(self.name, None)
        if start:
            self.process.waiters.send(self)

    # --- for its helper: without `io`, so that others can read the holder's record. Only the helper
    # closes the descriptor while `helper` is set.

    def open_for_waiters(self) -> bool:
        """Open the file, unless the lock is ours or there are no waiters.

        `try_lock` may have been faster; then the release serves the queue.

        Raises:
            OSError: It cannot be opened.
            CacheError: The cache directory cannot be used any more.
        """
        with self.io:
            open_it = self.owner is None and self.wanted()
            if open_it:
                self._open()
            return open_it

    def close_for_now(self) -> None:
        """Close the file between two tries."""
        with self.io:
            self._close()

    def wanted(self) -> bool:
        """Whether there are waiters."""
        with self.process.lock:
            return any(wait.waiting for wait in self.queue)

    def glances(self) -> list[LeaseWait]:
        """The waiters with a glance."""
        with self.process.lock:
            return [wait for wait in self.queue if wait.waiting and wait.glances]

    def end_helping(self, *, won: bool, problem: str) -> None:
        """Pass on the lock that was won, or tell the waiters why there is none."""
        with self.io:
            if won:
                self.pass_on()
            elif self.owner is None:
                self._close()
            self.stop_helping(problem)

    def stop_helping(self, problem: str) -> None:
        """End as helper without touching the file; tell the waiters of a problem.

        Takes no `io`: a helper that never came has not opened the file.
        """
        waits: list[LeaseWait] = []
        with self.process.lock:
            self.helper = False
            if problem:
                waits, self.queue = list(self.queue), deque()
        for wait in waits:
            wait.deliver(Unavailable(problem))
        self.settle()

    def __repr__(self) -> str:
        return (
            f"<LockFile {self.key[:16]} fd={self.fd} owned={self.owner is not None} "
            f"helper={self.helper} queue={len(self.queue)}>"
        )


@contextmanager
def borrow_lock_file(directory: CacheDirectory, key: str) -> Iterator[LockFile]:
    """Yield the process's one object for a lock file, which stays in the table meanwhile."""
    process = _process
    name = (directory.identity, key)
    with process.lock:
        lock_file = process.lock_files.get(name)
        if lock_file is None:
            lock_file = process.lock_files[name] = LockFile(process, directory, name)
        lock_file.borrowers += 1
    try:
        yield lock_file
    finally:
        with process.lock:
            lock_file.borrowers -= 1
        lock_file.settle()


def current_process() -> Process:
    """Return the table of this process."""
    return _process


def _read_holder(fd: int) -> HolderRecord | None:
    """Return the record of the lock's holder; None if there is none, or it has not written yet.

    A holder that was killed leaves its record behind, but not its lock. So a record counts only if
    the file is locked, and only if it names the process that the kernel names, where the two can be
    compared. If they differ, a waiter has the lock for a glance, or a new holder just got it.
    """
    pid = posix.lock_holder_pid(fd)
    record = None if pid is None else read_record(fd)
    if pid is None or record is None or pid <= 0:
        return record
    us = this_process()
    same_numbers = record.boot_id == us.boot_id and 0 != record.namespace == us.namespace
    return None if same_numbers and record.pid != pid else record


_process = Process()


def _after_fork_in_child() -> None:
    # Descriptors of the parent's lock files stay open in the child until it ends or execs.
    # Closing them would not harm the parent, whose locks are its own; but a number from a table
    # that another thread was just changing may by now be the number of something else.
    global _process  # noqa: PLW0603  # a fork replaces the state of the process
    _process.forked_away = True
    _process = Process()


os.register_at_fork(after_in_child=_after_fork_in_child)
