"""Lease credits: how many resolutions of a runtime may go for a lease at once.

A lease tells every other process that this one compiles the key. A server that wants a thousand
kernels and compiles two at a time would take all thousand leases, with a descriptor for each, and
the other nodes that want the same kernels would idle behind it. So a resolution that misses on disk
takes a credit before it tries the lease, and there are only a few more credits than compile slots.
A resolution that finds the lease held releases its credit and waits without one, so the next
resolution can look for a key that no process compiles. A resolution that gets a lease by waiting
needs no credit; there are at most as many of these as there were leases of other processes.

Foreground goes before background, first come, first served within each. Background work may take
only half of the credits, so it never keeps a request from the slot that the pool reserves for it.

Why no resolution waits for a credit for ever: resources are taken in one order, **credit, lease,
compile slot, permit of the node**, and a resolution that waits for one of them holds none of those
after it. So none waits for a credit while it holds a lease. The holder of a credit needs no second
one to reach its end: it tries the lease without waiting; a slot comes when a compile ends, which
has a deadline; and a permit comes in the end even if its holder has stalled. The holder of a credit
does not wait for a flight either: the leader of a flight takes one, its followers take none.
Credits belong to one runtime: two runtimes in a process share flights and permits, but no credits.
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

Pretty arbitrary: one for a compile, and one for the next key on its way to the queue.
"""


@dataclass(frozen=True, slots=True)
class CreditStatistics:
    """Lease credits of a runtime: only a resolution that has one may take a lease.

    So a process with a long warm-up leaves kernels to the others. All numbers are of now.

    Attributes:
        total: Credits of the runtime.
        held: Resolutions that have one.
        waiting: Resolutions that wait for one.
        waiting_background: How many of these are background work.
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
        """Take a credit; wait until there is one. Release it with `give_back`.

        Args:
            key: Hex key that it is for; `promote` finds it by this key.
            priority: ``foreground`` if a request waits for the kernel.

        Cancelling leaves the line; then there is nothing to release.
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
        """Pass a credit to the next in line; without one, it is free."""
        self._held -= 1
        self._grant()

    def promote(self, key: str) -> None:
        """Promote background work for a key, because a request waits for it now."""
        if self._line.promote(key):
            self._grant()

    def statistics(self) -> CreditStatistics:
        """Count credits, and the resolutions that wait for one."""
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
