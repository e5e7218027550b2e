"""The pool's queue: foreground before background, first come, first served within each."""

from __future__ import annotations

from collections import deque
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._compile.pool.task import Priority, Task

__all__ = ["JobQueue"]


class JobQueue:
    """Tasks that wait for a slot. Not thread-safe: it belongs to the pool's lock."""

    def __init__(self) -> None:
        # In the order in which they are served.
        self._lines: dict[Priority, deque[Task]] = {"foreground": deque(), "background": deque()}

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[Task]:
        return chain.from_iterable(self._lines.values())

    def count(self, priority: Priority) -> int:
        """How many tasks of a priority wait."""
        return len(self._lines[priority])

    def push(self, task: Task) -> None:
        """Put a task at the end of its line."""
        self._lines[task.priority].append(task)

    def head(self) -> Task | None:
        """The task that is next, if any waits."""
        return next(iter(self), None)

    def remove(self, task: Task) -> bool:
        """Take a task out; False if it is not in the queue (any more)."""
        line = self._lines[task.priority]
        if task not in line:
            return False
        line.remove(task)
        return True

    def promote(self, key: str) -> bool:
        """Move background tasks of a key to the end of the foreground; False if there is none."""
        moved = [task for task in self._lines["background"] if task.job.key == key]
        for task in moved:
            self.remove(task)
            task.priority = "foreground"
            self.push(task)
        return bool(moved)

    def clear(self) -> None:
        """Drop everything."""
        for line in self._lines.values():
            line.clear()
