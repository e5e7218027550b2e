"""The line of requests that touch the books: loads before commits, and commits before stores.

Each is done at once when its turn comes; between two the loop does all else, so that no burst of
requests holds up what is read, sent or answered beside it.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["COMMIT", "FIND", "RESERVE", "Line"]

FIND, COMMIT, RESERVE = range(3)
"""Turns, the first one first."""


class Line:
    """Calls in line. Belongs to one event loop."""

    def __init__(self) -> None:
        self._calls: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = count()
        self._more = anyio.Event()

    def __len__(self) -> int:
        return len(self._calls)

    def put(self, turn: int, call: Callable[[], None]) -> None:
        """Queue a call, which must not raise."""
        heapq.heappush(self._calls, (turn, next(self._numbers), call))
        self._more.set()

    async def run(self) -> None:
        """Do the calls, one at each turn of the loop."""
        while True:
            while self._calls:
                _, _, call = heapq.heappop(self._calls)
                call()
                await checkpoint()
            self._more = anyio.Event()
            await self._more.wait()
