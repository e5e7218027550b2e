"""Flights: one resolution of a key in this process, however many tasks, loops and threads want it.

The first member of a flight leads: it does the work. The others wait, each on a promise in its
event loop. All of them get the leader's answer or its error. A leader that leaves
without either (it was cancelled, or its runtime is closing) hands the lead to the member that has
waited longest; so a member that lives never waits for one that is gone::

    with flights.join(cache, key) as membership:
        answer = await membership.wait()
        if answer is None:                       # we lead, from the start or by now
            try:
                answer = await work()
            except AjitError as exc:
                membership.fail(exc)
                raise
            membership.finish(answer)

One lock guards everything. It is held for a few instructions at a time, and never during a wait.
There is no I/O here. A forked child begins without flights.

Leaving never waits for the lock: the garbage collector may run the end of an abandoned coroutine's
``with`` block anywhere, also in the middle of `Flights.join`. So a member that leaves is put into a
queue, and each holder of the lock works off that queue after it has released the lock.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ajit._system.exceptions import copy_of
from ajit._system.loop import Promise
from ajit._system.with_block import EndsWithBlock
from ajit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

__all__ = ["FlightStatistics", "Flights", "Membership", "flights"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FlightStatistics:
    """Flights of this process.

    Attributes:
        flights: Keys that are being resolved.
        members: Tasks that want them, leaders included.
    """

    flights: int
    members: int


class Flights(Generic[T]):
    """A table of flights. Any thread may use it; `flights` is the table of the process."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def join(self, cache: Hashable, key: str) -> Membership[T]:
        """Join the flight of a key, or begin one and lead it. Call it in an event loop.

        Args:
            cache: Identifies the cache: equal for all stores of one directory.
            key: Hex key.

        Returns:
            The membership, to be left when its ``with`` block ends.
        """
        membership: Membership[T] = Membership(self)
        place = (cache, key)
        with self._locked():
            flight = self._table.get(place)
            if flight is None:
                flight = self._table[place] = _Flight(place, membership)
            else:
                flight.followers[membership] = None
            membership.flight = flight
        return membership

    def statistics(self) -> FlightStatistics:
        """Count flights and members."""
        self._sweep()
        with self._locked():
            members = sum(1 + len(flight.followers) for flight in self._table.values())
            return FlightStatistics(flights=len(self._table), members=members)

    def __repr__(self) -> str:
        return f"<Flights {self.statistics()}>"

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._table: dict[tuple[Hashable, str], _Flight[T]] = {}
        self._leaving: deque[Membership[T]] = deque()

    # --- for memberships --------------------------------------------------------------------------

    def close(self, membership: Membership[T]) -> None:
        """Let none join the flight of a membership any more."""
        with self._locked():
            if membership.flight is not None:
                self._remove(membership.flight)

    def leave(self, membership: Membership[T]) -> None:
        """Take a membership out of its flight, at once or when the lock is free."""
        self._leaving.append(membership)
        self._sweep()

    def land(self, membership: Membership[T]) -> list[Membership[T]]:
        """End the flight that a membership leads, and return the others."""
        with self._locked():
            flight = membership.flight
            if flight is None or flight.leader is not membership:
                raise RuntimeError("only the leader of a flight can end it")
            # Out of the table before any follower is told: a later member begins a new flight, and
            # finds the result in the cache.
            self._remove(flight)
            membership.flight = None
            followers = list(flight.followers)
            for follower in followers:
                follower.flight = None
        return followers

    # --- inside -----------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        finally:
            self._sweep()

    def _sweep(self) -> None:
        """Work off the queue of leaving members; if the lock is held, its holder will do it."""
        lock = self._lock
        while self._leaving and lock.acquire(blocking=False):
            try:
                led = [
                    self._remove_member(self._leaving.popleft()) for _ in range(len(self._leaving))
                ]
            finally:
                lock.release()
            for flight in led:
                if flight is not None:
                    self._offer_lead(flight)

    def _remove_member(self, membership: Membership[T]) -> _Flight[T] | None:
        """Take a member out. Return its flight if that has a new leader who must be told."""
        flight, membership.flight = membership.flight, None
        if flight is None:
            return None
        if flight.leader is not membership:
            del flight.followers[membership]
            return None
        self._next_leader(flight)
        return flight

    def _next_leader(self, flight: _Flight[T]) -> None:
        """Make the first follower the leader, or end the flight. With the lock held."""
        flight.leader = next(iter(flight.followers), None)
        if flight.leader is None:
            self._remove(flight)
        else:
            del flight.followers[flight.leader]

    def _offer_lead(self, flight: _Flight[T]) -> None:
        """Tell the new leader; pass over those whose event loop has ended."""
        while (leader := flight.leader) is not None and not leader.promise.resolve(None):
            with self._locked():
                if flight.leader is leader:
                    leader.flight = None
                    self._next_leader(flight)

    def _remove(self, flight: _Flight[T]) -> None:
        # By identity: after a fork the table is another one.
        if self._table.get(flight.place) is flight:
            del self._table[flight.place]


class Membership(EndsWithBlock, Generic[T]):
    """One task's part in a flight, from `Flights.join`.

    It belongs to the task that joined, except that `leave` may be called by any thread.
    """

    def __init__(self, flights: Flights[T]) -> None:
        self._flights = flights
        self.promise: Promise[T | None] = Promise()
        self.flight: _Flight[T] | None = None

    @property
    def leading(self) -> bool:
        """Whether this member does the work of a flight that has not ended."""
        return self.flight is not None and self.flight.leader is self

    @property
    def others(self) -> int:
        """How many others want the same key; 0 once the flight has ended."""
        flight = self.flight
        # Without the leader, or without ourselves: the number is the same.
        return 0 if flight is None else len(flight.followers)

    async def wait(self) -> T | None:
        """Wait for the leader's answer.

        Returns:
            The answer; None if this member has to do the work: it leads, or became the leader.

        Raises:
            Exception: A copy of the leader's error. A traceback grows with each raise, and the
                members' tasks raise at the same time, so each needs a copy.
        """
        if self.leading:
            return None
        return await self.promise.wait()

    def close(self) -> None:
        """Let none join any more: who comes later begins a new flight. The members stay."""
        self._flights.close(self)

    def finish(self, answer: T) -> int:
        """End the flight that we lead, with an answer for all.

        Returns:
            How many others got it.

        Raises:
            RuntimeError: We do not lead.
        """
        return sum([other.promise.resolve(answer) for other in self._flights.land(self)])

    def fail(self, error: Exception) -> int:
        """End the flight that we lead, with an error for all.

        An error that says that *our* runtime cannot be used (closed, forked) does not concern the
        others: then the lead is handed over instead.

        Returns:
            How many others got it.

        Raises:
            RuntimeError: We do not lead.
        """
        if isinstance(error, UsageError):
            self.leave()
            return 0
        return sum([other.promise.reject(copy_of(error)) for other in self._flights.land(self)])

    def leave(self) -> None:
        """Stop wanting the key. A leader hands over. Does nothing once the flight has ended."""
        self._flights.leave(self)

    _end = leave

    def __repr__(self) -> str:
        state = "leading" if self.leading else "over" if self.flight is None else "waiting"
        return f"<Membership {state} others={self.others}>"


class _Flight(Generic[T]):
    """One key that is being resolved. Guarded by the table's lock."""

    __slots__ = ("followers", "leader", "place")

    def __init__(self, place: tuple[Hashable, str], leader: Membership[T]) -> None:
        self.place = place
        self.leader: Membership[T] | None = leader
        self.followers: dict[Membership[T], None] = {}  # as an ordered set


flights: Flights[Any] = Flights()
"""The flights of this process, shared by all of its runtimes, event loops and threads."""
