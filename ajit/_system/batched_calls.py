"""Visits to a thread: short blocking calls that tasks ask for at the same time are made in one go.

A server that starts asks for hundreds of kernels in one turn of its loop, and each takes a thread
70 µs and getting there and back twice that. So the first task that asks leads a visit: it lets the
others of this turn come along, up to `VISIT_CALLS` of them, goes to the thread once for all, and
wakes them when all is done. Threads at the same time would be no help: these calls are short
stretches between two system calls, and two threads that take turns with the GIL need twice the time
of one (measured: 200 entries read by one thread 4 ms, by two 9 ms).

Belongs to one event loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

import anyio
import anyio.lowlevel

from ajit._system.exceptions import copy_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["VISIT_CALLS", "Visits"]

T = TypeVar("T")

VISIT_CALLS = 16
"""Calls of one visit. Pretty arbitrary: most of what can be saved, and one that is slow, since its
headers are on a network disk, holds up no more than 15 others."""


class InThread(Protocol):
    """Runs a function in a thread; not abandoned on cancellation."""

    async def __call__(self, function: Callable[..., T], *args: object) -> T:
        """Return what the function returns."""


@dataclass(slots=True)
class _Visit:
    """One visit.

    Attributes:
        calls: What is to be done.
        outcomes: What came of each, or its error.
        error: Why there was no visit at all.
    """

    calls: list[Callable[[], object]] = field(default_factory=list)
    outcomes: list[tuple[object, Exception | None]] = field(default_factory=list)
    error: Exception | None = None
    done: anyio.Event = field(default_factory=anyio.Event)

    def make(self) -> None:
        """Make the calls. In the thread."""
        for call in self.calls:
            try:
                self.outcomes.append((call(), None))
            except Exception as exc:  # noqa: BLE001  # who asked for it raises it
                self.outcomes.append((None, exc))


class Visits:
    """The visits of one runtime.

    Args:
        in_thread: Makes a visit.
    """

    def __init__(self, in_thread: InThread) -> None:
        self._in_thread = in_thread
        self._boarding: _Visit | None = None

    async def call(self, function: Callable[[], T]) -> T:
        """Run a short blocking function in a thread, together with others.

        Raises:
            Exception: What it raised, or why no thread could be had.

        Cancelling only leaves: the function runs all the same, also for who was cancelled before.
        It does not come back from the thread before the others' are done. Only asyncio's own
        `Task.cancel` of who leads can keep a function from running: that of who leads.
        """
        visit, leads = self._boarding, False
        if visit is None or len(visit.calls) == VISIT_CALLS:
            visit, leads = _Visit(), True
            self._boarding = visit
        place = len(visit.calls)
        visit.calls.append(function)
        if leads:
            await self._make(visit)
        else:
            await visit.done.wait()
        if visit.error is not None:
            raise copy_of(visit.error)
        if place >= len(visit.outcomes):
            # Who led was ended by force, as only asyncio's own `Task.cancel` can.
            return await self.call(function)
        value, error = visit.outcomes[place]
        if error is not None:
            raise error
        return cast("T", value)

    async def _make(self, visit: _Visit) -> None:
        try:
            # Shielded: the others rely on it. It takes no longer than the thread.
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.cancel_shielded_checkpoint()
                self._depart(visit)
                await self._in_thread(visit.make)
        except Exception as exc:  # noqa: BLE001  # everybody of this visit raises it
            visit.error = exc
        finally:
            self._depart(visit)
            visit.done.set()

    def _depart(self, visit: _Visit) -> None:
        if self._boarding is visit:
            self._boarding = None
