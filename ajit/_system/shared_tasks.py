"""Shared tasks: one task for each piece of work, however many callers want it.

Callers of one event loop join work or lead it in this way; `ajit._resolve.flight` does the same
between the loops and threads of a process.

The work runs in the runtime's task group and never in a caller's scope: a caller that is cancelled
only leaves, and the others get what they wait for. When all callers have left, a setting decides
whether the work is finished, so that its result is cached, or cancelled. When the group is
cancelled, because the runtime closes, every caller gets `RuntimeClosed`. Belongs to one event loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import anyio

from ajit._system.exceptions import copy_of
from ajit._system.scarce import named
from ajit.errors import RuntimeClosed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from anyio.abc import TaskGroup

__all__ = ["SharedTasks"]

T = TypeVar("T")


@dataclass(slots=True)
class _Task(Generic[T]):
    """One piece of work.

    Attributes:
        tag: Given by the caller that started it, such as its urgency.
        kept: Whether it goes on without callers, regardless of the setting.
        callers: How many wait for it.
    """

    tag: object
    kept: bool
    callers: int = 0
    done: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    value: T | None = None
    error: Exception | None = None


class SharedTasks:
    """The work in progress.

    Args:
        group: Where it runs.
        cancel_abandoned: Whether work that its last caller has left is cancelled.
    """

    def __init__(self, group: TaskGroup, *, cancel_abandoned: bool = False) -> None:
        self._group = group
        self._cancel_abandoned = cancel_abandoned
        self._tasks: dict[Hashable, _Task[Any]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, name: Hashable) -> bool:
        return name in self._tasks

    def tag(self, name: Hashable) -> object:
        """Return the tag that the work of that name was begun with; None if there is no work."""
        task = self._tasks.get(name)
        return None if task is None else task.tag

    def begin(
        self, name: Hashable, do: Callable[[], Awaitable[object]], tag: object = None
    ) -> None:
        """Start the work of that name, unless it is in progress. It is never abandoned."""
        task = self._tasks.get(name) or self._start(name, do, tag)
        task.kept = True

    async def join(
        self,
        name: Hashable,
        do: Callable[[], Awaitable[T]],
        tag: object = None,
        *,
        kept: bool = False,
    ) -> T:
        """Wait for the work of that name; start it first, unless it is in progress.

        Args:
            name: Equal for callers that want the same.
            do: The work.
            tag: Kept with the work, if this call starts it.
            kept: Finish the work even if all callers have left, regardless of the setting.

        Raises:
            RuntimeClosed: The task group was cancelled meanwhile.
            Exception: What the work raised; each caller gets its own copy.

        Cancelling only leaves.
        """
        task: _Task[T] = self._tasks.get(name) or self._start(name, do, tag)
        task.kept = task.kept or kept
        task.callers += 1
        try:
            await task.done.wait()
        finally:
            task.callers -= 1
            self._left(name, task)
        if task.error is not None:
            raise copy_of(task.error)
        return cast("T", task.value)

    def _start(self, name: Hashable, do: Callable[[], Awaitable[T]], tag: object) -> _Task[T]:
        task: _Task[T] = _Task(tag, kept=not self._cancel_abandoned)
        self._tasks[name] = task
        self._group.start_soon(self._run, name, task, do)
        return task

    def _left(self, name: Hashable, task: _Task[Any]) -> None:
        if task.callers or task.kept or task.done.is_set():
            return
        # The next caller starts new work; the flight and the lease keep the two apart.
        self._forget(name, task)
        task.scope.cancel()

    async def _run(self, name: Hashable, task: _Task[T], do: Callable[[], Awaitable[T]]) -> None:
        # What callers get if this task is cancelled.
        task.error = RuntimeClosed("the runtime was closed during this request")
        try:
            with task.scope:
                task.value, task.error = await do(), None
        except Exception as exc:  # noqa: BLE001  # the callers raise it, defects of ajit included
            task.error = named(exc)
        finally:
            self._forget(name, task)
            task.done.set()

    def _forget(self, name: Hashable, task: _Task[Any]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]
