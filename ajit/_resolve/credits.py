"""Lease credits: how many resolutions of a runtime may go for a lease at once.

A lease says to every other process that somebody sees to this key. A server that wants a thousand
kernels and compiles two at a time would say so of all thousand, with a descriptor for each, and the
other nodes that want the same ones would idle behind it. So a resolution that misses on disk takes
a credit before it tries the lease, and there are only a few more of them than compile slots. Who
finds the lease held gives the credit back and waits without one: the next resolution looks for a
key that nobody is at. Who wins a lease by waiting needs no credit; there are at most as many of
these as others had leases.

Foreground before background, first come, first served within each. Background work may take half of
the credits only: then it never stands between a request and the slot that the pool keeps for it.

Why nobody hangs on a credit: things are taken in one order, **credit, lease, compile slot, permit
of the node**, and who waits for one of them holds none of those after it. So nobody waits for a
credit while holding a lease, and whoever holds one is on the way to an end that needs no further
credit: the lease is tried without waiting, a slot comes when a compile ends, which has a deadline,
and a permit comes in the end, whoever has stalled. Nor does anybody who holds a credit wait for a
flight: the leader of a flight takes one, and those who follow it take none. Credits belong to one
runtime, so two of them in a process share the flights and the permits, but no credits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from ajit._system.priority_line import PriorityLine

if TYPE_CHECKING:
    from ajit._system.priority_line import Priority

__all__ = ["CREDITS_PER_SLOT", "CreditStatistics", "Credits"]

CREDITS_PER_SLOT = 2
"""Credits of background work for each compile slot, and as many more for foreground work.

Pretty arbitrary: one that compiles, and one that is looked up, leased and queued meanwhile.
"""


@dataclass(frozen=True, slots=True)
class CreditStatistics:
    """Lease credits of a runtime.

    Attributes:
        total: How many there are.
        held: Resolutions that have one.
        waiting: Resolutions that wait for one.
        waiting_background: How many of these nobody awaits.
    """

    total: int
    held: int
    waiting: int
    waiting_background: int


@dataclass(slots=True, eq=False)
class _Waiter:
    """A resolution that waits for a credit."""

    key: str
    priority: Priority
    granted: anyio.Event = field(default_factory=anyio.Event)


class Credits:
    """The credits of one runtime. Belongs to its event loop.

    Args:
        slots: Compile slots of the runtime.
    """

    def __init__(self, slots: int) -> None:
        background = slots * CREDITS_PER_SLOT
        # In the order in which they are served. Nothing waits below its limit.
        self._limits: dict[Priority, int] = {"foreground": 2 * background, "background": background}
        self._line: PriorityLine[_Waiter] = PriorityLine()
        self._held = 0

    async def take(self, key: str, priority: Priority) -> None:
        """Take a credit; wait until there is one. To be given back (`give_back`).

        Args:
            key: Hex key that it is for, to be promoted by.
            priority: ``foreground`` if somebody awaits the kernel.

        Cancelling leaves the line; then there is nothing to give back.
        """
        if self._held < self._limits[priority]:
            self._held += 1
            return
        waiter = _Waiter(key, priority)
        self._line.push(waiter)
        try:
            await waiter.granted.wait()
        except BaseException:
            if waiter.granted.is_set():
                self.give_back()
            self._line.remove(waiter)
            raise

    def give_back(self) -> None:
        """Give a credit to the next in line, else back."""
        self._held -= 1
        self._grant()

    def promote(self, key: str) -> None:
        """Let background work for a key go with the foreground, for somebody awaits it now."""
        if self._line.promote(key):
            self._grant()

    def statistics(self) -> CreditStatistics:
        """Count credits, and who waits for one."""
        return CreditStatistics(
            total=self._limits["foreground"],
            held=self._held,
            waiting=len(self._line),
            waiting_background=self._line.count("background"),
        )

    def __repr__(self) -> str:
        return f"<Credits {self.statistics()}>"

    def _grant(self) -> None:
        for priority, limit in self._limits.items():
            while self._held < limit and (waiter := self._line.head(priority)) is not None:
                self._line.remove(waiter)
                self._held += 1
                waiter.granted.set()
