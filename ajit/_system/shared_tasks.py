"""One task for each piece of work, however many tasks want it.

The work runs in the runtime's task group and never in a caller's scope: a caller that is cancelled
only leaves, and the others get what they wait for. What becomes of work that everybody has left is
a setting: it is finished, so that the cache gains, or it is cancelled. When the group is cancelled,
because the runtime closes, every waiter gets `RuntimeClosed`. Belongs to one event loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import anyio

from ajit._system.exceptions import copy_of
from ajit.errors import RuntimeClosed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from anyio.abc import TaskGroup

__all__ = ["Works"]

T = TypeVar("T")
U = TypeVar("U")


@dataclass(slots=True)
class _Work(Generic[T, U]):
    """A piece of work.

    Attributes:
        urgency: Whether somebody awaits it, if that matters.
        kept: Whether it goes on without waiters whatever the setting.
        waiters: Tasks that wait for it.
    """

    urgency: U | None
    kept: bool
    waiters: int = 0
    done: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    value: T | None = None
    error: Exception | None = None


class Works(Generic[U]):
    """The pieces of work in progress.

    Args:
        group: Where they run.
        cancel_abandoned: Whether work that its last waiter has left is cancelled.
    """

    def __init__(self, group: TaskGroup, *, cancel_abandoned: bool = False) -> None:
        self._group = group
        self._cancel_abandoned = cancel_abandoned
        self._works: dict[Hashable, _Work[Any, U]] = {}

    def __len__(self) -> int:
        return len(self._works)

    def __contains__(self, name: Hashable) -> bool:
        return name in self._works

    def urgency(self, name: Hashable) -> U | None:
        """Return what the work of that name was begun with, from that moment to its end."""
        work = self._works.get(name)
        return None if work is None else work.urgency

    def begin(
        self, name: Hashable, do: Callable[[], Awaitable[T]], urgency: U | None = None
    ) -> None:
        """Start the work of that name, if nobody has, without waiting. It is never abandoned."""
        work = self._works.get(name) or self._start(name, do, urgency)
        work.kept = True

    async def join(
        self, name: Hashable, do: Callable[[], Awaitable[T]], urgency: U | None = None
    ) -> T:
        """Wait for the work of that name; start it if nobody has. Cancelling only leaves.

        Raises:
            RuntimeClosed: The task group was cancelled meanwhile.
            Exception: What the work raised; each waiter gets its own copy.
        """
        work: _Work[T, U] = self._works.get(name) or self._start(name, do, urgency)
        work.waiters += 1
        try:
            await work.done.wait()
        finally:
            work.waiters -= 1
            self._left(name, work)
        if work.error is not None:
            raise copy_of(work.error)
        return cast("T", work.value)

    def _start(
        self, name: Hashable, do: Callable[[], Awaitable[T]], urgency: U | None
    ) -> _Work[T, U]:
        work: _Work[T, U] = _Work(urgency, kept=not self._cancel_abandoned)
        self._works[name] = work
        self._group.start_soon(self._run, name, work, do)
        return work

    def _left(self, name: Hashable, work: _Work[Any, U]) -> None:
        if work.waiters or work.kept or work.done.is_set():
            return
        # Whoever wants it from now on begins anew; the flight and the lease keep the two apart.
        self._forget(name, work)
        work.scope.cancel()

    async def _run(self, name: Hashable, work: _Work[T, U], do: Callable[[], Awaitable[T]]) -> None:
        # What waiters get if this task is cancelled.
        work.error = RuntimeClosed("the runtime was closed during this request")
        try:
            with work.scope:
                work.value, work.error = await do(), None
        except Exception as exc:  # noqa: BLE001  # the waiters raise it, defects of ajit included
            work.error = exc
        finally:
            self._forget(name, work)
            work.done.set()

    def _forget(self, name: Hashable, work: _Work[Any, U]) -> None:
        if self._works.get(name) is work:
            del self._works[name]
