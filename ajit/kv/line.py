"""The line of requests that touch the books: loads before commits, and commits before stores.

One call is done at each turn of the loop; between two the loop does all else, so that no burst of
requests holds up what is read, sent or answered beside it. Of one turn clients go round, whatever
each has in line; and a turn that has been passed by `MOST_PASSED` times is next, so that no flood
of lookups keeps others from storing. A client has so much in line and no more: who reads its
requests waits (`Line.wait_for_room`) before more are taken.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["COMMIT", "FIND", "RESERVE", "Line"]

FIND, COMMIT, RESERVE = range(3)
"""Turns, the first one first."""

MOST_PASSED = 16
"""Calls of earlier turns before one that waits. Pretty arbitrary: some milliseconds."""
MOST_CALLS = 64
MOST_DIGESTS = 16_384
"""Of one client in line; at least one call is taken, whatever its size. Answers to them are some
hundred KiB."""


@dataclass(slots=True)
class _Client:
    """What one client has in line.

    Attributes:
        calls: How many.
        digests: In all of these.
        less: Set when they get fewer, if one waits for that.
    """

    calls: int = 0
    digests: int = 0
    less: anyio.Event | None = None

    @property
    def full(self) -> bool:
        return self.calls >= MOST_CALLS or self.digests >= MOST_DIGESTS


class Line:
    """Calls in line. Belongs to one event loop."""

    def __init__(self) -> None:
        # Clients in the order in which they come next, for each turn.
        self._turns: tuple[dict[int, deque[tuple[int, Callable[[], None]]]], ...] = ({}, {}, {})
        self._passed = [0] * len(self._turns)
        self._clients: dict[int, _Client] = {}
        self._more = anyio.Event()

    def __len__(self) -> int:
        return sum(client.calls for client in self._clients.values())

    def put(self, turn: int, client: int, digests: int, call: Callable[[], None]) -> None:
        """Queue a call, which must not raise.

        Args:
            turn: `FIND`, `COMMIT` or `RESERVE`.
            client: Whose it is.
            digests: That it is about.
            call: What to do.
        """
        self._turns[turn].setdefault(client, deque()).append((digests, call))
        has = self._clients.setdefault(client, _Client())
        has.calls += 1
        has.digests += digests
        self._more.set()

    async def wait_for_room(self, client: int) -> None:
        """Wait until a client may have one more in line. One task of each client at a time."""
        while (has := self._clients.get(client)) is not None and has.full:
            has.less = anyio.Event()
            await has.less.wait()

    def forget(self, client: int) -> None:
        """Drop the calls of a client that has gone."""
        for calls in self._turns:
            calls.pop(client, None)
        has = self._clients.pop(client, None)
        if has is not None and has.less is not None:
            has.less.set()

    async def run(self) -> None:
        """Do the calls, one at each turn of the loop."""
        while True:
            while (call := self.next_call()) is not None:
                call()
                await checkpoint()
            self._more = anyio.Event()
            await self._more.wait()

    def next_call(self) -> Callable[[], None] | None:
        """Take the call that is next out of the line; None if there is none."""
        turn = self._next_turn()
        if turn is None:
            return None
        turns = self._turns[turn]
        client = next(iter(turns))
        calls = turns.pop(client)
        digests, call = calls.popleft()
        if calls:
            turns[client] = calls  # behind the others
        self._took(client, digests)
        return call

    def _next_turn(self) -> int | None:
        waiting = [turn for turn, calls in enumerate(self._turns) if calls]
        if not waiting:
            return None
        late = [turn for turn in waiting if self._passed[turn] >= MOST_PASSED]
        chosen = max(late, default=waiting[0])
        for turn in waiting:
            self._passed[turn] = 0 if turn == chosen else self._passed[turn] + (turn > chosen)
        return chosen

    def _took(self, client: int, digests: int) -> None:
        has = self._clients[client]
        has.calls -= 1
        has.digests -= digests
        if not has.calls:
            del self._clients[client]
        if has.less is not None and not has.full:
            has.less.set()
            has.less = None
