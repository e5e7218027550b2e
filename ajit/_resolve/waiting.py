"""Waiting for another process's lease, and reporting its holder meanwhile.

A wait ends with the lease itself, with what its holder published, or with the end of patience.
Three things go on at once. A thread of the lock layer blocks until it gets the lock, and then looks
at the disk under it: most waiters need no lease, only what was published. A task looks for the
entry at intervals, in case the holder published and hangs before it releases the lease. The same
task measures, by this process's clock, how long the holder has not written a beat. A look that is
not answered counts as silence as well: it gets what is left of the patience.
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import anyio

from ajit._cache.entries.disk import Found
from ajit._cache.leases.pulse import Pulse
from ajit._cache.leases.table import Glimpse, Lease, Unavailable
from ajit._core import events
from ajit._system.guarded_calls import NoAnswer
from ajit.errors import CompileError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ajit._cache.leases.table import HolderRecord, LeaseWait
    from ajit._resolve.lookup import Look
    from ajit._resolve.request import Request
    from ajit._resolve.services import Services

__all__ = ["LeaseWaiter", "Silence", "WaitEnd"]

WATCH_SECONDS = 0.9
"""How long a waiter rests between two looks for the entry and the holder's beat.

After each look it reports the holder: about every second, like the holder's beats, if the disk
answers at once and there are fewer than 90 waiters. Patience ends at a look. The lease itself is
not polled: the looks are for an entry whose holder hangs before it releases the lease.
A look costs 0.7 ms of CPU, which 31 waiters on 2 cores take from the compiler that they wait for.
"""

WATCH_SECONDS_EACH = 0.01
"""With many waiters each looks less often, so that all of them together look 100 times a second:
each of N waiters of a runtime looks, and reports, every 0.01 * N seconds.
"""


class WaitEnd(NamedTuple):
    """How a wait ended.

    Attributes:
        how: ``lease`` (in `LeaseWaiter.lease`), ``seen`` (an entry or a failure), ``patience``, or
            ``unavailable`` (there are no locks after all).
        look: What was seen.
        reason: Why there are no locks.
    """

    how: Literal["lease", "seen", "patience", "unavailable"]
    look: Look | None = None
    reason: str = ""


_Lease: TypeAlias = tuple[str, int, float]


class Silence:
    """How long a holder has not written a beat: read at intervals, measured by our own clock.

    The time between two looks counts for at most twice the intended period. A process that was
    stopped itself, or whose loop was blocked, knows nothing about the holder in that time. It
    would otherwise take its own pause for the holder's silence.

    That a holder is gone is news like a beat, once for each: the next one is on its way. So is a
    record that says that its holder has left: the lease came and went between two looks.

    Args:
        now: When the first look would have been, monotonic.
        paced: Whether beats must keep pace with our clock, see `Pulse`.

    Attributes:
        seconds: How long.
    """

    def __init__(self, now: float, *, paced: bool = False) -> None:
        self.seconds = 0.0
        self._looked = now
        self._pulse = Pulse(paced=paced)
        self._beating: _Lease | None = None
        self._gone: set[_Lease] = set()

    def look(self, now: float, record: HolderRecord | None, period_seconds: float) -> None:
        """Note what a look has seen.

        Args:
            now: When, monotonic.
            record: The holder's record, or that of one that has left; None if there is none that
                could be read.
            period_seconds: The intended time between the last look and this one.
        """
        self.seconds += min(now - self._looked, 2 * period_seconds)
        self._looked = now
        if self._pulse.is_beat(record, now, time.time()):
            assert record is not None
            self.seconds, self._beating = 0.0, (record.host, record.pid, record.started)
            if record.left:
                self._gone.add(self._beating)
        if (record is None or record.left) and self._beating is not None:
            lease, self._beating = self._beating, None
            if lease not in self._gone:  # or a record that can be read now and then would be news
                self._gone.add(lease)
                self.seconds = 0.0


class LeaseWaiter:
    """One wait for the lease of a key. Belongs to the task that waits.

    Attributes:
        holder: Who holds the lease, as last read.
        lease: The lease, once it was won. The owner of the waiter releases it.
        seconds: How long the wait took, once it ended.
    """

    def __init__(
        self,
        services: Services,
        request: Request,
        holder: HolderRecord | None,
    ) -> None:
        self.holder = holder
        self.lease: Lease | None = None
        self.seconds = 0.0
        self._services = services
        self._seeker = services.seeker_for(request)
        self._name = request.spec.name
        self._wanted = request.wanted
        self._key = request.wanted.base.hex
        self._compiler = str(request.toolchain.identity)
        self._budget = request.budget
        self._place: LeaseWait | None = None

    async def wait(self, *, recache: bool) -> WaitEnd:
        """Wait for the lease, for what is published, or for the end of patience.

        Args:
            recache: Whether to ignore what is published.

        Cancelling leaves the place in the queue: `abandon` it.
        """
        begun = time.monotonic()
        glance = None if recache else self._glance
        place = self._place = self._services.leases.wait(
            self._key, self._compiler, glance, name=self._name
        )
        ends: list[WaitEnd] = []
        try:
            async with anyio.create_task_group() as group:

                async def first(wait: Callable[[], Awaitable[WaitEnd]]) -> None:
                    ends.append(await wait())
                    group.cancel_scope.cancel()

                group.start_soon(first, partial(self._win, place))
                group.start_soon(first, partial(self._watch, begun, look_too=not recache))
        finally:
            self._services.waits.pop(self._key, None)
            self.seconds = time.monotonic() - begun
        # Two may end in one turn of the loop; then a lease that was won is used.
        return WaitEnd("lease") if self.lease else ends[0]

    def abandon(self) -> None:
        """Leave the queue. A lease that is won all the same is released. Never blocks."""
        place, self._place = self._place, None
        if place is not None:
            place.abandon()

    async def _win(self, place: LeaseWait) -> WaitEnd:
        won = await place.wait()
        if isinstance(won, Unavailable):
            return WaitEnd("unavailable", reason=won.reason)
        if isinstance(won, Glimpse):
            return WaitEnd("seen", won.value)
        self.lease = won
        return WaitEnd("lease")

    def _glance(self) -> Look | None:
        """Look under the lock, in its thread."""
        look = self._seeker.look(self._wanted, layers=False)
        return look if isinstance(look, Found | CompileError) else None

    async def _watch(self, begun: float, *, look_too: bool) -> WaitEnd:
        """Look for the entry, measure the holder's silence, and report it after each look."""
        silence = Silence(begun, paced=self._services.trust.required != "none")
        patience = self._services.settings.patience_seconds
        if self.holder is None:
            # The holder had the lock but had not yet written its record; by now it has.
            with suppress(NoAnswer):
                record, _ = await self._ask(patience, look_too=False)
                self._take_in(record)
        self._report(begun)
        while True:
            period = max(WATCH_SECONDS, WATCH_SECONDS_EACH * len(self._services.waits))
            await anyio.sleep(period)
            # A disk that does not answer is silent, too: in all, not for longer than a holder, nor
            # than what a file that hung before has left of this request's patience.
            left = min(patience - silence.seconds, self._budget.seconds)
            try:
                record, look = await self._ask(max(period, left), look_too=look_too)
            except NoAnswer:
                return WaitEnd("patience")
            now = time.monotonic()
            if look is not None:
                return WaitEnd("seen", look)
            self._take_in(record)
            silence.look(now, record, period)
            if self._is_out_of_patience(silence.seconds, now - begun):
                return WaitEnd("patience")
            self._report(begun)

    async def _ask(
        self, seconds: float, *, look_too: bool
    ) -> tuple[HolderRecord | None, Look | None]:
        return await self._services.on_cache(
            self._look, look_too, lane="watch", seconds=seconds, budget=self._budget
        )

    def _look(self, look_too: bool) -> tuple[HolderRecord | None, Look | None]:  # noqa: FBT001
        record = self._services.leases.read_holder(self._key, left=True)
        return record, self._glance() if look_too else None

    def _take_in(self, record: HolderRecord | None) -> None:
        if record is not None and not record.left:
            self.holder = record

    def _is_out_of_patience(self, silent_seconds: float, waited_seconds: float) -> bool:
        settings = self._services.settings
        total = settings.patience_total_seconds
        return silent_seconds > settings.patience_seconds or 0 < total < waited_seconds

    def _report(self, begun: float) -> None:
        waiting = events.Waiting(
            name=self._name,
            key=self._key,
            holder=self.holder.holder() if self.holder else None,
            waited_seconds=time.monotonic() - begun,
        )
        self._services.waits[self._key] = waiting
        if self._services.emitter.listening:
            self._services.emitter.emit(waiting)
