"""How much page-locked memory the staging pools of a device may hold, and who waits for room.

One for each device of the process: its loops share the limit, since page-locked memory is taken
from the whole machine. Who needs room waits in line, whichever loop it is in: no one is overtaken,
and a large one does not starve behind small ones. Safe for use by any thread; the lock is held for
a few lines, and never in a finalizer that may have interrupted one of them.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Protocol

from ajit._system.loop import Promise

if TYPE_CHECKING:
    from ajit._gpu.memory import PinnedBuffer

__all__ = ["PinnedBudget", "PinnedWaiter"]


class _Pool(Protocol):
    def make_room(self) -> None: ...


class PinnedWaiter:
    """One that waits for room. Made in its loop.

    Attributes:
        size: Bytes that it needs.
        pool: That it will take them for.
        granted: Whether it has the room.
        buffer: Memory of that size that comes with it; None: it has to be allocated.
    """

    __slots__ = ("buffer", "granted", "pool", "size", "told")

    def __init__(self, pool: object, size: int) -> None:
        self.pool, self.size = pool, size
        self.granted = False
        self.buffer: PinnedBuffer | None = None
        self.told: Promise[None] = Promise()

    def grant(self, buffer: PinnedBuffer | None = None) -> None:
        """Let it go on."""
        self.granted, self.buffer = True, buffer
        self.told.resolve(None)


class PinnedBudget:
    """The limit, and the line before it.

    Attributes:
        limit_bytes: What all pools may hold, on loan or not.
        held_bytes: What they hold now, or are about to.
        lock: Guards the line and what is held.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.lock = threading.Lock()
        self._line: deque[PinnedWaiter] = deque()
        self._pools: weakref.WeakSet[_Pool] = weakref.WeakSet()

    def add_pool(self, pool: _Pool) -> None:
        """A pool begins."""
        with self.lock:
            self._pools.add(pool)

    @property
    def crowded(self) -> bool:
        """Whether someone waits: then nothing is kept idle."""
        return bool(self._line)

    def take(self, size: int) -> bool:
        """Take room if there is enough and none waits for it."""
        with self.lock:
            if self._line or self.held_bytes + size > self.limit_bytes:
                return False
            self.held_bytes += size
            return True

    def stand_in_line(self, pool: _Pool, size: int) -> PinnedWaiter:
        """Wait for room, behind those that wait already; pools are asked for what lies idle."""
        waiter = PinnedWaiter(pool, size)
        with self.lock:
            self._line.append(waiter)
            self._serve()
            pools = list(self._pools)
        for each in pools:
            each.make_room()
        return waiter

    def leave(self, waiter: PinnedWaiter) -> bool:
        """Wait no longer; whether it has the room nevertheless."""
        with self.lock:
            if waiter in self._line:
                self._line.remove(waiter)
                self._serve()
            return waiter.granted

    def leave_all(self, pool: object) -> None:
        """Those who wait for a pool that is closed get none, and are told."""
        with self.lock:
            gone = [waiter for waiter in self._line if waiter.pool is pool]
            for waiter in gone:
                self._line.remove(waiter)
                waiter.told.resolve(None)
            self._serve()

    def give_back(self, size: int) -> None:
        """Give room back."""
        with self.lock:
            self.held_bytes -= size
            self._serve()

    def take_back(self, pool: object, buffer: PinnedBuffer) -> bool | None:
        """Say what becomes of memory that comes back from a loan. The caller has the lock.

        Returns:
            True: it was handed to the first in line, who needs the like. False: others wait, so it
            is to be freed, and its room given back. None: the pool keeps it.
        """
        if not self._line:
            return None
        first = self._line[0]
        if first.pool is not pool or first.size != buffer.nbytes:
            return False
        self._line.popleft().grant(buffer)
        return True

    def _serve(self) -> None:
        while self._line and self.held_bytes + self._line[0].size <= self.limit_bytes:
            waiter = self._line.popleft()
            self.held_bytes += waiter.size
            waiter.grant()

    def __repr__(self) -> str:
        waiting = len(self._line)
        return f"<PinnedBudget {self.held_bytes} of {self.limit_bytes} bytes, {waiting} wait>"
