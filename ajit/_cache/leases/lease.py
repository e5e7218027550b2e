"""The results of asking for a lock: a lease, a wait for one, or that there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from ajit._cache.leases.beats import Poster, beats_during
from ajit._cache.leases.holder import (
    COMPILER_BYTES,
    HOST_BYTES,
    NAME_BYTES,
    HolderRecord,
    Phase,
    fitting,
)
from ajit._core.seal import NO_TRUST
from ajit._system.loop import Promise
from ajit._system.process import this_process
from ajit._system.threads import DaemonThreads
from ajit._system.with_block import EndsWithBlock

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ajit._cache.leases.lock_file import LockFile
    from ajit._core.seal import Trust

__all__ = [
    "Busy",
    "Glance",
    "Glimpse",
    "Lease",
    "LeaseWait",
    "Unavailable",
    "first_record",
    "lock_threads",
]

lock_threads = DaemonThreads("ajit-lock")

Glance: TypeAlias = Callable[[], object]
"""A waiter's look, once its process has the lock. Returns a find, or None to get the lease.

It blocks, in a thread of the lock layer or in the thread that releases the lease; an exception
counts as None. All other waiters wait while it runs, so it only reads the entry.
"""


@dataclass(frozen=True, slots=True)
class Busy:
    """Another holder has the lease.

    Attributes:
        holder: Its record, or None if that cannot be read (just now, or at all).
    """

    holder: HolderRecord | None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """No lease is available here; the work goes on without one."""

    reason: str


@dataclass(frozen=True, slots=True)
class Glimpse:
    """The lease came, but the glance found an answer, so the lease went on to the next waiter.

    Attributes:
        value: What the waiter's own glance returned.
    """

    value: Any


class Lease(EndsWithBlock):
    """A lease that is held, from `LeaseTable.try_acquire` or `LeaseWait.wait`.

    Any thread may use it. In a forked child its methods do nothing: the lock stays with the
    parent. Its methods do a little I/O.

    Attributes:
        key: Hex key.
        record: The record in the lock file.
        published: Whether its waiters find an entry or a failure record, once it is released. Set
            by the holder.
    """

    def __init__(
        self, lock_file: LockFile, compiler: str, name: str = "", trust: Trust = NO_TRUST
    ) -> None:
        self._lock_file = lock_file
        self.trust = trust
        self._phase: Phase = "queued"
        self._cpu_seconds = 0.0
        self._poster = Poster(self.beat)
        self.key = lock_file.key
        self.record = first_record(compiler, name)
        self.published = False

    @property
    def held(self) -> bool:
        """Whether this process still has it."""
        return self._lock_file.owner is self and not self._lock_file.process.forked_away

    def beat(self, phase: Phase | None = None) -> None:
        """Tell waiters that the work goes on, and in which phase. Does nothing once released.

        One small write, which hangs if the file system does.
        """
        if not self.held:
            return
        self._phase = phase or self._phase
        with self._lock_file.io:
            if self.held:
                self.record = msgspec.structs.replace(
                    self.record,
                    phase=self._phase,
                    cpu_seconds=self._cpu_seconds,
                    beat=self.record.beat + 1,
                    beat_time=time.time(),
                )
                self._lock_file.write(self.record, self.trust)

    def post_beat(self, phase: Phase, cpu_seconds: float = 0.0) -> None:
        """The same, but another thread writes it: never blocks, whatever the file system does.

        The thread that does the work calls this every second, so silence means that it has stalled.

        Args:
            phase: What is done.
            cpu_seconds: CPU time that the compiler has used.
        """
        if self.held:
            self._phase, self._cpu_seconds = phase, cpu_seconds
            self._poster.post()

    def publishing(self) -> AbstractContextManager[None]:
        """Beat as publishing, now and, for a bounded time, every second while the block runs.

        Other threads write the beats: none blocks the caller.
        """
        self.post_beat("publishing", self._cpu_seconds)
        return beats_during(self.beat)

    def looking(self) -> AbstractContextManager[None]:
        """Beat, as what it is doing, for a bounded time while the block looks at files."""
        return beats_during(self.beat)

    def release(self) -> None:
        """Pass the lease to the process's next waiter, else unlock. A second call does nothing."""
        # Asked before the lock file's lock is taken: in a forked child that may be locked for ever.
        if not self.held:
            return
        with self._lock_file.io:
            if self.held:
                self._lock_file.pass_on()

    def discard(self) -> bool:
        """Release the lease, and remove its lock file, which was not needed for long.

        Returns:
            Whether the file is gone. It stays where someone of this process waits for the lease, or
            it could not be removed.
        """
        if not self.held:
            return False
        with self._lock_file.io:
            return self._lock_file.owner is self and self._lock_file.discard()

    _end = release

    def __repr__(self) -> str:
        return f"<Lease {self.key[:16]} {self.record.phase if self.held else 'released'}>"


def first_record(compiler: str, name: str = "") -> HolderRecord:
    """The record with which this process begins to hold a lease."""
    process, now = this_process(), time.time()
    return HolderRecord(
        host=fitting(process.host, HOST_BYTES),
        boot_id=process.boot_id,
        pid=process.pid,
        start_ticks=process.start_ticks,
        phase="queued",
        compiler=fitting(compiler, COMPILER_BYTES),
        name=fitting(name, NAME_BYTES),
        namespace=process.namespace,
        started=now,
        beat=0,
        beat_time=now,
    )


class LeaseWait(EndsWithBlock):
    """A place in the queue for a lease, from `LeaseTable.wait`.

    Leaving the ``with`` block without the lease abandons the wait::

        with table.wait(key, compiler, glance) as waiting:
            outcome = await waiting.wait()

    Attributes:
        key: Hex key.
        compiler: Compiler and version, for the holder record.
        name: Label of the kernel to be compiled, for the same.
        trust: What that record is sealed with.
    """

    def __init__(
        self,
        key: str,
        compiler: str,
        glance: Glance | None = None,
        name: str = "",
        trust: Trust = NO_TRUST,
    ) -> None:
        self.key = key
        self.compiler = compiler
        self.name = name
        self.trust = trust
        self._glance = glance
        self._promise: Promise[Lease | Glimpse | Unavailable] = Promise()
        self._lock = threading.Lock()  # held for a few instructions only
        self._outcome: Lease | Glimpse | Unavailable | None = None
        self._over = False

    @property
    def waiting(self) -> bool:
        """Whether nothing was delivered yet and it was not abandoned."""
        return self._outcome is None and not self._over

    @property
    def glances(self) -> bool:
        """Whether the waiter has a glance."""
        return self._glance is not None

    async def wait(self) -> Lease | Glimpse | Unavailable:
        """Wait for the lease. The caller then owns it and must release it.

        Returns a `Glimpse` instead if the glance found something. A glance is taken under the lock,
        so if it found nothing, there was nothing when the caller got the lease.

        Cancelling leaves the place in the queue as it is: wait again, or abandon it.

        Raises:
            RuntimeError: The wait is over: it was abandoned, or its outcome was taken.
        """
        outcome = await self._promise.wait()
        with self._lock:
            if self._over:
                raise RuntimeError("this wait is over: abandoned, or its outcome was taken")
            self._over = True
        return outcome

    def abandon(self) -> None:
        """Leave. A lease that was delivered, or is won later, is released, in a thread.

        Does nothing after `wait` has returned: the lease is then the caller's.
        """
        with self._lock:
            if self._over:
                return
            self._over = True
            outcome = self._outcome
        if isinstance(outcome, Lease):
            try:
                lock_threads.run(outcome.release)
            except RuntimeError:  # no more threads: a short block is better than a lost lease
                outcome.release()

    def glance(self) -> Glimpse | None:
        """Look whether the lease is still needed. The lock file calls it and has the lock."""
        if self._glance is None:
            return None
        try:
            value = self._glance()
        except Exception:  # noqa: BLE001  # it only saves work; the owner of the lease looks again
            return None
        return None if value is None else Glimpse(value)

    def deliver(self, outcome: Lease | Glimpse | Unavailable) -> bool:
        """Hand the outcome over; false if the waiter has left. Called by the lock file."""
        with self._lock:
            if self._over:
                return False
            self._outcome = outcome
        return self._promise.resolve(outcome)

    _end = abandon

    def __repr__(self) -> str:
        state = "waiting" if self.waiting else "over" if self._over else "delivered"
        return f"<LeaseWait {self.key[:16]} {state}>"
