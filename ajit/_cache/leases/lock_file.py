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

A lock file is unlinked only by who holds its lock (`LockFile.discard`; the collector does so, long
after the key's last use). A process that was on its way to the lock of that file then gets it, but
later ones make a new file: two would hold the lease. So who gets the lock looks whether the file
has its name still, and begins again if not. A file that is locked and has its name keeps it
until the lock is released, and so there is one holder; tests enumerate every order of these steps.
This needs a file system on which unlinking is seen at once, which a network's need not be.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from ajit._cache.files.fs import close_unwritten, remove_file, stat_file
from ajit._cache.leases import posix
from ajit._cache.leases.claims import Claims
from ajit._cache.leases.holder import HolderRecord, clear_record, read_record, write_record
from ajit._cache.leases.lease import (
    Busy,
    Glimpse,
    Lease,
    LeaseWait,
    Unavailable,
    first_record,
)
from ajit._cache.leases.lock_waiters import LockWaiters
from ajit._cache.leases.opening import open_to_lock, open_to_look
from ajit._core.seal import NO_TRUST
from ajit._system.process import this_process
from ajit.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ajit._cache.files.directory import CacheDirectory
    from ajit._core.seal import Trust

__all__ = ["LockFile", "Process", "borrow_lock_file", "current_process"]

LockName = tuple[tuple[int, int], str]
"""A lock file before it is opened: identity of the cache directory, and key."""


class Process:
    """All lock files of this process. A forked child begins with a new one.

    Attributes:
        lock: Held for a few instructions only.
        lock_files: By their names.
        waiters: The threads that wait for locks, for each cache directory: those of one whose file
            system hangs are all used up.
        forked_away: Whether this is a copy of the parent's, in a child.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock_files: dict[LockName, LockFile] = {}
        self.waiters: dict[tuple[int, int], LockWaiters] = {}
        self.forked_away = False

    def waiters_of(self, directory: tuple[int, int]) -> LockWaiters:
        """Return the waiting threads of one cache directory."""
        with self.lock:
            waiters = self.waiters.get(directory)
            if waiters is None:
                waiters = self.waiters[directory] = LockWaiters()
            return waiters


class LockFile:
    """One lock file, for as long as this process uses it."""

    def __init__(
        self, process: Process, directory: CacheDirectory, name: LockName, claims: Claims | None
    ) -> None:
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
        self.claims = claims
        self._asked = NO_TRUST  # the last that was asked for, if any was
        self._name = f"locks/{key[:2]}/{key}.lock"

    # --- with `io` held -------------------------------------------------------------------------

    def try_lock(
        self, compiler: str, name: str = "", trust: Trust = NO_TRUST, *, claim: bool = True
    ) -> Lease | Busy | Unavailable:
        """Take the lock if it is free, and the claim; or only see whether that is free, too."""
        with self.process.lock:
            taken = self.owner is not None or self.helper
        if taken:
            return Busy(self.read_holder(trust))
        try:
            self._open()
            if self._take(posix.take_now, posix.EXCLUSIVE, has_io=True) and self._get_claim(
                trust, make=claim
            ):
                return self._own(compiler, name, trust)
            outcome: Busy | Unavailable = Busy(self.read_holder(trust))
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
        # An owner without a claim has nothing that a waiter could work with.
        has_claim = self.claims is None or self.claims.held
        try:
            if not has_claim or not self._hand_over(seen):
                self._hand_back()
        finally:
            for wait, glimpse in seen:
                wait.deliver(glimpse)

    def discard(self) -> bool:
        """Unlink the file and release the lock, which we hold; false if the file stays.

        It stays where someone of this process waits for it, or claims decide: their numbers are
        never made twice.
        """
        unlinked = False
        if self.claims is None and not self.wanted():
            with suppress(OSError):
                unlinked = not self._lost_name() and remove_file(self.directory, self._name)
        if not unlinked:
            self.pass_on()
            return False
        # A waiter that came meanwhile is not given this file: `settle` opens the next one for it.
        self._close()
        with self.process.lock:
            self.owner = None
        self.settle()
        return True

    def _hand_over(self, seen: list[tuple[LeaseWait, Glimpse]]) -> bool:
        """Pass the lock to a waiter that needs it; note those that do not; false if none does."""
        while (wait := self._next_wait()) is not None:
            glimpse = wait.glance()
            if glimpse is not None:
                seen.append((wait, glimpse))
            elif wait.deliver(self._own(wait.compiler, wait.name, wait.trust)):
                return True
        return False

    def _hand_back(self) -> None:
        if self.claims is not None and self.claims.held:
            if self.owner is not None:
                owner = self.owner
                self.claims.leave(owner.record, owner.trust, published=owner.published)
            else:
                self.claims.leave(first_record(""), self.trust, published=False)
        # Without a former owner there is no record to clear: one write less per process.
        elif self.owner is not None:
            clear_record(self.fd)
        self._close()
        with self.process.lock:
            self.owner = None
        self.settle()

    def read_holder(self, trust: Trust = NO_TRUST, *, left: bool = False) -> HolderRecord | None:
        """Read the holder's record, through the descriptor that the process has, if it has one.

        Args:
            trust: Which seal of the record is asked for.
            left: Whether to return, from a claim, the record of a holder that has left as well.
        """
        if self.owner is not None:
            return self.owner.record
        if self.claims is not None:
            return self.claims.read(trust, left=left)
        if self.fd >= 0:
            return _read_holder(self.fd, self.key, trust)
        try:
            fd = open_to_look(self.directory, self._name)
        except OSError:
            return None
        try:
            return _read_holder(fd, self.key, trust)
        finally:
            # Closing drops the process's lock on the file. It has none: there is no owner, and
            # to become one takes `io`, which we hold.
            close_unwritten(fd)

    def last_written(self) -> float | None:
        """When the record was last written; None if it never was."""
        try:
            name = self._name if self.claims is None else self.claims.newest_record()
            return stat_file(self.directory, name).st_mtime
        except OSError:
            return None

    def _own(self, compiler: str, name: str, trust: Trust) -> Lease:
        lease = Lease(self, compiler, name, trust)
        with self.process.lock:
            self.owner = lease
        self.write(lease.record, trust)
        return lease

    def write(self, record: HolderRecord, trust: Trust) -> None:
        """Write the owner's record where waiters read it. A failure is ignored."""
        if self.claims is not None and self.claims.held:
            self.claims.write(record, trust)
        else:
            write_record(self.fd, record, self.key, trust)

    def _get_claim(self, trust: Trust, *, make: bool) -> bool:
        if self.claims is None:
            return True
        return self.claims.try_make(trust) if make else self.claims.is_free(trust)

    def _open(self) -> None:
        self.fd = open_to_lock(self.directory, self._name)

    def _close(self) -> None:
        # This releases the lock.
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
            if wait.trust.required != "none":
                self._asked = wait.trust
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
            self.process.waiters_of(self.name[0]).send(self)

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

    def take(self, kind: int) -> bool:
        """Wait for the lock, as `posix.take` does. Where claims decide, there need be no locks."""
        return self._take(posix.take, kind)

    def take_now(self, kind: int) -> bool:
        """The same without waiting, as `posix.take_now` does."""
        return self._take(posix.take_now, kind)

    def _take(self, take: Callable[[int, int], bool], kind: int, *, has_io: bool = False) -> bool:
        """Get the lock of the file that has the name: see the module's docstring."""
        while True:
            with self._or_none():
                if not take(self.fd, kind):
                    return False
            if not self._lost_name():
                return True
            with nullcontext() if has_io else self.io:
                self._close()
                self._open()

    def _lost_name(self) -> bool:
        """Whether the file was unlinked after it was opened. One small call, if it was not."""
        try:
            ours = os.fstat(self.fd)
            if ours.st_nlink:
                return False
            # Some FUSE file systems count no names.
            there = stat_file(self.directory, self._name)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def unlock(self) -> None:
        """Release the lock, and keep the file open."""
        with self._or_none():
            posix.unlock(self.fd)

    @contextmanager
    def _or_none(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            if self.claims is None or exc.errno not in posix.NO_LOCKS:
                raise

    @property
    def trust(self) -> Trust:
        """What the waiters ask for: the strictest, if they belong to several runtimes.

        That of waiters which have left counts, too: a claim that was made for them is left with
        their seal.
        """
        with self.process.lock:
            asked = [wait.trust for wait in self.queue if wait.trust.required != "none"]
            return asked[0] if asked else self._asked

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
def borrow_lock_file(
    directory: CacheDirectory, key: str, *, claims: bool = False
) -> Iterator[LockFile]:
    """Yield the process's one object for a lock file, which stays in the table meanwhile.

    Args:
        directory: The cache.
        key: Hex key.
        claims: Whether the lease needs a claim as well; always the same for a key.
    """
    process = _process
    name = (directory.identity, key)
    with process.lock:
        lock_file = process.lock_files.get(name)
        if lock_file is None:
            own = Claims(directory, key) if claims else None
            lock_file = process.lock_files[name] = LockFile(process, directory, name, own)
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


def _read_holder(fd: int, key: str, trust: Trust) -> HolderRecord | None:
    """Return the record of the lock's holder; None if there is none, or it has not written yet.

    A record without the seal that is asked for counts as none.

    A holder that was killed leaves its record behind, but not its lock. So a record counts only if
    the file is locked, and only if it names the process that the kernel names, where the two can be
    compared. If they differ, a waiter has the lock for a glance, or a new holder just got it.
    """
    pid = posix.lock_holder_pid(fd)
    record = None if pid is None else read_record(fd, key, trust)
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
