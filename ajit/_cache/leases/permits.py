"""Permits: a limit on concurrent compiles on this machine, over all processes of a cache.

A permit is a lease on one of ``count`` lock files of this machine (of this boot of its kernel, so
that containers which share the cache count together). The one thread of a pool that decides what
starts next polls for it, a few times a second: a compile takes long in comparison, and no thread
waits for a permit inside of a lock. Permits of dead processes are free at once.

The limit only saves load. So a permit is granted that holds no lease if there are no locks, if they
do not answer, or if a holder is silent for longer than the patience (stopped, or its disk hangs).
And after the total patience: then, until a permit is to be had, one compile of this pool runs at a
time in spite of those who hold them all, however lively they are.

A process that releases a permit could take it again before another process looks, for as long as
its queue lasts. So a process that has had permits for a while, and sees that another one waits,
skips a turn.
"""

from __future__ import annotations

import os
import re
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from ajit._cache.leases.opening import open_to_lock, open_to_look
from ajit._cache.leases.pulse import Pulse
from ajit._cache.leases.table import Busy, Lease, LeaseTable
from ajit._core.seal import NO_TRUST
from ajit._system.guarded_calls import NoAnswer, guarded_calls
from ajit._system.process import this_process
from ajit._system.threads import DaemonThreads
from ajit.errors import CacheError

if TYPE_CHECKING:
    from ajit._cache.files.directory import CacheDirectory
    from ajit._cache.leases.holder import HolderRecord
    from ajit._core.job import CompileJob
    from ajit._core.seal import Trust

__all__ = ["PERMIT_PREFIX", "CompilePermit", "CompilePermits", "is_permit_file"]

PERMIT_PREFIX = "permit-"
"""Prefix of the names of permits. They are not keys, so no kernel has them."""

is_permit_file = re.compile(r"permit-.+-[0-9]+\.lock|.+\.waiting").fullmatch
"""Matches the last part of the names of files that this module makes."""

BEAT_SECONDS = 1.0

TURN_SECONDS = 2.0
"""How long a process may take permits in a row. Pretty arbitrary: a few small compiles."""

YIELD_SECONDS = 0.15
"""How long it then skips; other processes ask ten times a second."""

WAITS_SECONDS = 0.5
"""How long a process's note that it waits is valid."""

DOUBTED_SECONDS = 1.0
"""How long a permit is waited for where a lease has just not been answered. Pretty arbitrary."""

UNCOUNTED = -1
"""Number of a permit that was granted because the file system does not answer."""

OVERDUE = -2
"""Number of the one permit that was granted because all others were held for too long."""

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
        patience_seconds: How long a holder may be silent, and the locks may not answer.
        patience_total_seconds: How long all permits may be held by others; 0: for ever.
        trust: Which seal of a holder's record is asked for; without it, it is silent.
    """

    def __init__(
        self,
        directory: CacheDirectory,
        count: int,
        *,
        patience_seconds: float = 10.0,
        patience_total_seconds: float = 0.0,
        trust: Trust = NO_TRUST,
    ) -> None:
        process = this_process()
        self._leases = LeaseTable(directory, trust, of_node=True)
        self._paced = trust.required != "none"
        self._directory = directory
        self._node = process.boot_id or process.host
        self._count = count
        self._patience_seconds = patience_seconds
        self._total_seconds = patience_total_seconds
        self._calls = guarded_calls(directory.path)
        self._closing = False
        self._doubted_until = float("-inf")
        # Guards everything below. Held during the calls on lock files, which do not wait.
        self._lock = threading.Condition()
        self._held: set[CompilePermit] = set()
        # Only of those that were found held: there may be thousands of permits.
        self._beats: dict[int, _Watch] = {}
        self._beating = False
        self._turn_began = self._last_returned = float("-inf")
        self._yields_until = float("-inf")
        # When all permits were first found to be held in a row of tries, and the last such try.
        self._held_since = self._refused_at = float("-inf")

    @property
    def holder(self) -> HolderRecord | None:
        """One of the processes that had a permit when one was asked for last."""
        records = [watch.record for watch in list(self._beats.values())]
        return next((record for record in records if record is not None), None)

    def close(self) -> None:
        """Do not wait for the file system any more. Any thread."""
        self._closing = True

    def doubt(self) -> None:
        """Wait for the file system only briefly for a while: a lease was not answered. Any thread.

        The process that asked for that lease has waited for its patience, and needs a permit next.
        """
        self._doubted_until = time.monotonic() + self._patience_seconds

    def try_admit(self, job: CompileJob) -> CompilePermit | None:
        """Return a permit for a job, or None if none is free. Ask again: in the end one is granted.

        Args:
            job: The job to be compiled, for the holder record.
        """
        try:
            return self._calls.call_blocking(
                partial(self._try_admit, job),
                seconds=self._deadline_seconds(),
                late=_give_back_late,
                lane="permit",
                unless=lambda: self._closing,
            )
        except NoAnswer:
            return CompilePermit(self, UNCOUNTED, None)

    def give_back(self, permit: CompilePermit) -> None:
        """Take a permit back; a second call does nothing."""
        if permit.number == UNCOUNTED:
            return
        # It is called whatever the file system does: a permit that stays would hold up all others.
        with suppress(NoAnswer):
            self._calls.call_blocking(
                partial(self._give_back, permit),
                seconds=0.0 if self._calls.is_open else self._patience_seconds,
                lane="release",
                unless=lambda: self._closing,
            )

    def _deadline_seconds(self) -> float:
        if time.monotonic() < self._doubted_until:
            return min(self._patience_seconds, DOUBTED_SECONDS)
        return self._patience_seconds

    def _try_admit(self, job: CompileJob) -> CompilePermit | None:
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

    def _give_back(self, permit: CompilePermit) -> None:
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
                watch = self._beats.setdefault(number, _Watch(paced=self._paced))
                watch.see(lease.holder)
                continue
            self._beats.pop(number, None)
            self._held_since = self._refused_at = float("-inf")
            if isinstance(lease, Lease):
                return CompilePermit(self, number, lease)
            return CompilePermit(self, number, None)  # no locks here, so nothing to count
        return None

    def _take_due(self) -> CompilePermit | None:
        """If a holder is silent, one compile of this pool may run in its place."""
        replaced = {permit.number for permit in self._held if permit.lease is None}
        if OVERDUE not in replaced and self._is_overdue():
            return CompilePermit(self, OVERDUE, None)
        for number, watch in self._beats.items():
            if number not in replaced and watch.silent_seconds() > self._patience_seconds:
                return CompilePermit(self, number, None)
        return None

    def _is_overdue(self) -> bool:
        """Whether all permits have been held by others for too long."""
        now = time.monotonic()
        if now - self._refused_at > WAITS_SECONDS:  # no compile has waited since
            self._held_since = now
        self._refused_at = now
        return 0 < self._total_seconds < now - self._held_since

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
        with suppress(OSError, CacheError):
            fd = open_to_lock(self._directory, self._waiting_file())
            try:
                os.pwrite(fd, _me(), 0)
            finally:
                os.close(fd)

    def _another_waits(self) -> bool:
        with suppress(OSError):
            fd = open_to_look(self._directory, self._waiting_file())
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

    def __init__(self, *, paced: bool) -> None:
        self._pulse = Pulse(paced=paced)
        self._since = time.monotonic()
        self.record: HolderRecord | None = None

    def see(self, record: HolderRecord | None) -> None:
        self.record = record
        now = time.monotonic()
        if self._pulse.is_beat(record, now, time.time()):
            self._since = now

    def silent_seconds(self) -> float:
        return time.monotonic() - self._since


def _give_back_late(permit: CompilePermit | None) -> None:
    """Release a permit that came when it was not waited for any more. In a thread."""
    if permit is not None:
        permit.release()


def _me() -> bytes:
    process = this_process()
    return f"{process.namespace} {process.pid} {process.start_ticks}".ljust(64).encode()
