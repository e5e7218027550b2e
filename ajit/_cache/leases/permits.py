"""Permits: a limit on concurrent compiles on this machine, over all processes of a cache.

A permit is a lease on one of ``count`` lock files of this machine (of this boot of its kernel, so
that containers which share the cache count together). The one thread of a pool that decides what
starts next polls for it, a few times a second: a compile takes long in comparison, and no thread
waits for a permit inside of a lock. Permits of dead processes are free at once.

The limit only saves load. So if there are no locks, or a holder is silent for longer than the
patience (stopped, or its disk hangs), a permit is granted that holds no lease.

A process that releases a permit could take it again before another process looks, for as long as
its queue lasts. So a process that has had permits for a while, and sees that another one waits,
skips a turn.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

from ajit._cache.leases.table import Busy, Lease, LeaseTable
from ajit._system.process import this_process
from ajit._system.threads import DaemonThreads

if TYPE_CHECKING:
    from ajit._cache.files.directory import CacheDirectory
    from ajit._cache.leases.holder import HolderRecord
    from ajit._core.job import CompileJob

__all__ = ["PERMIT_PREFIX", "CompilePermit", "CompilePermits"]

PERMIT_PREFIX = "permit-"
"""Prefix of the names of permits. They are not keys, so no kernel has them."""

BEAT_SECONDS = 1.0

TURN_SECONDS = 2.0
"""How long a process may take permits in a row. Pretty arbitrary: a few small compiles."""

YIELD_SECONDS = 0.15
"""How long it then skips; other processes ask ten times a second."""

WAITS_SECONDS = 0.5
"""How long a process's note that it waits is valid."""

_threads = DaemonThreads("ajit-permit")


class CompilePermit:
    """The leave to compile one job, from `CompilePermits.try_admit`.

    Attributes:
        lease: Its lease; None if the permit was granted without one.
    """

    def __init__(self, permits: CompilePermits, number: int, lease: Lease | None) -> None:
        self._permits = permits
        self.number = number
        self.lease = lease

    def release(self) -> None:
        """Release it. A little I/O."""
        self._permits.give_back(self)

    def __repr__(self) -> str:
        return f"<CompilePermit {self.number} {self.lease!r}>"


class CompilePermits:
    """The permits of this machine, as one pool asks for them.

    Any thread may use it. Its calls do a little I/O and never raise for its failures.

    Args:
        directory: The cache.
        count: The number of permits. Each process uses its own setting.
        patience_seconds: How long a holder may be silent.
    """

    def __init__(
        self, directory: CacheDirectory, count: int, *, patience_seconds: float = 10.0
    ) -> None:
        process = this_process()
        self._leases = LeaseTable(directory)
        self._directory = directory
        self._node = process.boot_id or process.host
        self._count = count
        self._patience_seconds = patience_seconds
        # Guards everything below. Held during the calls on lock files, which do not wait.
        self._lock = threading.Condition()
        self._held: set[CompilePermit] = set()
        # Only of those that were found held: there may be thousands of permits.
        self._beats: defaultdict[int, _Watch] = defaultdict(_Watch)
        self._beating = False
        self._turn_began = self._last_returned = float("-inf")
        self._yields_until = float("-inf")

    def try_admit(self, job: CompileJob) -> CompilePermit | None:
        """Return a permit for a job, or None if none is free. Ask again: in the end one is granted.

        Args:
            job: The job to be compiled, for the holder record.
        """
        with self._lock:
            if self._lets_others():
                return None
            permit = self._take_free(job) or self._take_due()
            if permit is None:
                self._note_waiting()
                return None
            if self._last_returned < time.monotonic() - YIELD_SECONDS and not self._held:
                self._turn_began = time.monotonic()
            self._held.add(permit)
            start = not self._beating
            self._beating = True
        if start:
            self._start_beating()
        return permit

    def give_back(self, permit: CompilePermit) -> None:
        """Take a permit back; a second call does nothing."""
        with self._lock:
            if permit in self._held:
                self._held.remove(permit)
                self._last_returned = time.monotonic()
                if permit.lease is not None:
                    permit.lease.release()
                self._lock.notify()  # the beating may end

    @property
    def held(self) -> int:
        """Permits that this pool has."""
        return len(self._held)

    # --- under the lock ---

    def _take_free(self, job: CompileJob) -> CompilePermit | None:
        for number in range(self._count):
            lease = self._leases.try_acquire(self._name(number), job.compiler, name=job.name)
            if isinstance(lease, Busy):
                self._beats[number].see(lease.holder)
                continue
            self._beats.pop(number, None)
            if isinstance(lease, Lease):
                return CompilePermit(self, number, lease)
            return CompilePermit(self, number, None)  # no locks here, so nothing to count
        return None

    def _take_due(self) -> CompilePermit | None:
        """If a holder is silent, one compile of this pool may run in its place."""
        replaced = {permit.number for permit in self._held if permit.lease is None}
        for number, watch in self._beats.items():
            if number not in replaced and watch.silent_seconds() > self._patience_seconds:
                return CompilePermit(self, number, None)
        return None

    def _name(self, number: int) -> str:
        return f"{PERMIT_PREFIX}{self._node}-{number}"

    # --- turns ---

    def _lets_others(self) -> bool:
        now = time.monotonic()
        if now < self._yields_until:
            return True
        in_a_row = self._last_returned > now - YIELD_SECONDS or bool(self._held)
        if in_a_row and now - self._turn_began > TURN_SECONDS and self._another_waits():
            self._yields_until, self._turn_began = now + YIELD_SECONDS, now
            return True
        return False

    def _note_waiting(self) -> None:
        with suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            mode = self._directory.sharing.file_mode
            fd = os.open(self._waiting_file(), flags, mode, dir_fd=self._directory.fd)
            try:
                os.pwrite(fd, _me(), 0)
                os.fchmod(fd, mode)  # the umask; fails where another user made it, and did this
            finally:
                os.close(fd)

    def _another_waits(self) -> bool:
        with suppress(OSError):
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            fd = os.open(self._waiting_file(), flags, dir_fd=self._directory.fd)
            try:
                recent = abs(time.time() - os.fstat(fd).st_mtime) < WAITS_SECONDS
                return recent and os.pread(fd, 64, 0) != _me()
            finally:
                os.close(fd)
        return False

    def _waiting_file(self) -> str:
        # Beside the lock files, whose directory is there once a permit was asked for.
        return f"locks/{PERMIT_PREFIX[:2]}/{self._node}.waiting"

    # --- beats ---

    def _start_beating(self) -> None:
        try:
            _threads.run(self._beat)
        except RuntimeError:  # no more threads: other processes lose patience, and that is all
            self._beating = False

    def _beat(self) -> None:
        """Beat for every permit that is held, until none is. The main function of a thread."""
        while True:
            with self._lock:
                if self._lock.wait_for(lambda: not self._held, BEAT_SECONDS):
                    self._beating = False
                    return
                leases = [permit.lease for permit in self._held]
            for lease in leases:
                if lease is not None:
                    lease.beat("compiling")

    def __repr__(self) -> str:
        return f"<CompilePermits {len(self._held)} held of {self._count} on {self._node[:8]}>"


class _Watch:
    """For how long a holder has been silent, by our clock."""

    def __init__(self) -> None:
        self._last: object = None
        self._since = 0.0

    def see(self, record: HolderRecord | None) -> None:
        beat = (record.pid, record.started, record.beat) if record else "unknown"
        if beat != self._last:
            self._last, self._since = beat, time.monotonic()

    def silent_seconds(self) -> float:
        return time.monotonic() - self._since if self._last is not None else 0.0


def _me() -> bytes:
    process = this_process()
    return f"{process.namespace} {process.pid} {process.start_ticks}".ljust(64).encode()
