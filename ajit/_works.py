"""One task for each piece of work, however many tasks want it.

The work runs in the runtime's task group and never in a caller's scope: a caller that is cancelled
only leaves, and the others get what they wait for. When the group is cancelled, because the runtime
closes, every waiter gets `RuntimeClosed`. Belongs to one event loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import anyio

from ajit._cache.flight import copy_of
from ajit.errors import RuntimeClosed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from anyio.abc import TaskGroup

__all__ = ["Works"]

T = TypeVar("T")


@dataclass(slots=True)
class _Work(Generic[T]):
    done: anyio.Event = field(default_factory=anyio.Event)
    value: T | None = None
    error: Exception | None = None


class Works:
    """The pieces of work in progress."""

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self._works: dict[Hashable, _Work[Any]] = {}

    def __len__(self) -> int:
        return len(self._works)

    async def join(self, name: Hashable, do: Callable[[], Awaitable[T]]) -> T:
        """Wait for the work of that name; start it if nobody has. Cancelling only leaves.

        Raises:
            RuntimeClosed: The task group was cancelled meanwhile.
            Exception: What the work raised; each waiter gets its own copy.
        """
        work: _Work[T] | None = self._works.get(name)
        if work is None:
            work = self._works[name] = _Work()
            self._group.start_soon(self._run, name, work, do)
        await work.done.wait()
        if work.error is not None:
            raise copy_of(work.error)
        return cast("T", work.value)

    async def _run(self, name: Hashable, work: _Work[T], do: Callable[[], Awaitable[T]]) -> None:
        # What waiters get if this task is cancelled.
        work.error = RuntimeClosed("the runtime was closed during this request")
        try:
            work.value, work.error = await do(), None
        except Exception as exc:  # noqa: BLE001  # the waiters raise it, defects of ajit included
            work.error = exc
        finally:
            del self._works[name]
            work.done.set()
