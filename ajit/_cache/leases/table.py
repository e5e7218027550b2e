"""Leases: who may compile a key, decided between processes and nodes by POSIX record locks.

Why classic ``fcntl`` locks: network file systems carry them between nodes, where ``flock`` and OFD
locks often stay local, and the kernel frees them when their holder dies, SIGKILL included. They
come with three traps, which give this module and `ajit._cache.leases.lock_file` their shape:

1. They belong to the process. Two threads of one process do not exclude each other, and closing
   *any* descriptor of a file drops the process's lock on it. So there is one table for the whole
   process (all event loops, threads and caches in it), a lock file has one object there, and a
   lock file at most one descriptor. Nothing else in ajit opens a lock file, not even to read it.
2. Waiting for one blocks a thread, and such a wait cannot be cancelled. So daemon threads wait,
   one for each contended key, up to a handful for a cache (`ajit._cache.leases.lock_waiters`).
   Waiters come and go; a thread that wins after all of them have left releases at once. A waiter
   for an entry passes a glance: the thread first waits for a shared lock, under which all processes
   look in parallel, and waits for the exclusive one only if nothing was found.
3. The kernel looks for cycles between processes, not threads, and calls it a deadlock (EDEADLK) if
   two processes wait for each other's keys, although both go on compiling. Such a wait goes on by
   polling.

The lock file stays when a lease is released (`lock_file` says how one of a bygone key is removed),
and holds the record of its holder (`ajit._cache.leases.holder`).

Where the locks may not reach other nodes (`CacheDirectory.lease_kind` is ``directory``), the lock
is only the way to the lease, which is a numbered directory: see `ajit._cache.leases.claims`.

A lock only saves work: a cache is correct without locks. So nothing here raises for what the file
system does: if locks do not work, the answer is `Unavailable`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit._cache.leases.holder import HolderRecord, Phase
from ajit._cache.leases.lease import Busy, Glance, Glimpse, Lease, LeaseWait, Unavailable
from ajit._cache.leases.lock_file import borrow_lock_file, current_process
from ajit._core.seal import NO_TRUST
from ajit.errors import CacheError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ajit._cache.files.directory import CacheDirectory
    from ajit._cache.leases.lock_file import LockFile
    from ajit._core.seal import Trust

__all__ = [
    "Busy",
    "Glance",
    "Glimpse",
    "HolderRecord",
    "Lease",
    "LeaseStatistics",
    "LeaseTable",
    "LeaseWait",
    "Phase",
    "Unavailable",
]


@dataclass(frozen=True, slots=True)
class LeaseStatistics:
    """Leases of this process, over all caches.

    Attributes:
        held: Leases held.
        waiting: Waiters that have not left.
        waiters: Locks that a thread is on its way to, also if their waiters have all left.
        threads: Threads that wait for locks; above a handful, one tries all other locks.
    """

    held: int
    waiting: int
    helpers: int
    threads: int


class LeaseTable:
    """The leases of one cache directory. Any number may be made for one directory.

    Args:
        directory: The cache.
        trust: Which seal of a holder's record is asked for, and which one ours has. A record
            without a good one reads as None.
        of_node: Whether they are among the processes of one node, whatever the directory is on.
    """

    def __init__(
        self, directory: CacheDirectory, trust: Trust = NO_TRUST, *, of_node: bool = False
    ) -> None:
        self.directory = directory
        self._trust = trust
        self._of_node = of_node

    def try_acquire(
        self, key: str, compiler: str, *, name: str = "", claim: bool = True
    ) -> Lease | Busy | Unavailable:
        """Take the lease of a key if it is free. Does not wait for it, but does a little I/O.

        Args:
            key: Hex key.
            compiler: Compiler and version, for the holder record.
            name: Label of what is to be compiled, for the same.
            claim: Where leases are directories, whether to make one. If not, other nodes are not
                kept from it while it is held; and it is only given if none of them has it.
        """
        if self.directory.access == "none":
            return Unavailable(self.directory.problem)
        try:
            self.directory.renew_if_removed()
        except (OSError, CacheError) as exc:
            return Unavailable(str(exc))
        with self._borrow(key) as lock_file, lock_file.io:
            return lock_file.try_lock(compiler, name, self._trust, claim=claim)

    def wait(
        self, key: str, compiler: str, glance: Glance | None = None, *, name: str = ""
    ) -> LeaseWait:
        """Queue up for the lease of a key. Call it in an event loop; never blocks.

        Waiters of one process are served in order. The wait goes on until `LeaseWait.abandon`.

        Args:
            key: Hex key.
            compiler: Compiler and version, for the holder record.
            glance: Called in a thread when the lock is ours. If it returns anything but None, the
                lock is passed on at once and the waiter gets the value as a `Glimpse`. So a
                published entry passes through a queue of processes without waiting for their event
                loops.
            name: Label of what is to be compiled, for the holder record.
        """
        wait = LeaseWait(key, compiler, glance, name, self._trust)
        if self.directory.access == "none":
            wait.deliver(Unavailable(self.directory.problem))
            return wait
        with self._borrow(key) as lock_file:
            lock_file.enqueue(wait)
        return wait

    def read_holder(self, key: str, *, left: bool = False) -> HolderRecord | None:
        """Return the record of a lease's holder; None if it is free, or has no good record.

        Does a little I/O.

        Args:
            key: Hex key.
            left: Whether to return, where leases are directories, the record of a holder that has
                left as well: its lease may have come and gone since the last look.
        """
        if self.directory.access == "none":
            return None
        with self._borrow(key) as lock_file, lock_file.io:
            return lock_file.read_holder(self._trust, left=left)

    def last_written(self, key: str) -> float | None:
        """Return when the record of a lease was last written, or None if it never was.

        A Unix time by the file system's clock. A holder that releases its lease writes, too.
        """
        with self._borrow(key) as lock_file:
            return lock_file.last_written()

    def _borrow(self, key: str) -> AbstractContextManager[LockFile]:
        claims = self.directory.lease_kind == "directory" and not self._of_node
        return borrow_lock_file(self.directory, key, claims=claims)

    @staticmethod
    def statistics() -> LeaseStatistics:
        """Count leases, waiters and threads of this process, over all caches."""
        process = current_process()
        with process.lock:
            lock_files = list(process.lock_files.values())
            return LeaseStatistics(
                held=sum(lock_file.owner is not None for lock_file in lock_files),
                waiting=sum(wait.waiting for lock_file in lock_files for wait in lock_file.queue),
                helpers=sum(lock_file.helper for lock_file in lock_files),
                threads=sum(waiters.threads() for waiters in process.waiters.values()),
            )

    def __repr__(self) -> str:
        return f"<LeaseTable {self.directory.path} {self.statistics()}>"
