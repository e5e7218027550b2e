"""A line with two priorities: foreground first, and first come, first served within each."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Priority", "PriorityLine"]

Priority = Literal["foreground", "background"]
"""Whether a task waits for the result now, or it is warm-up work."""


class InLine(Protocol):
    """What stands in a line. Compared by identity."""

    key: str
    priority: Priority


W = TypeVar("W", bound=InLine)


class PriorityLine(Generic[W]):
    """Things that wait. Not thread-safe: it belongs to its owner's lock or loop."""

    def __init__(self) -> None:
        # In the order in which they are served; dictionaries as ordered sets.
        self._lines: dict[Priority, dict[W, None]] = {"foreground": {}, "background": {}}

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[W]:
        return chain.from_iterable(self._lines.values())

    def count(self, priority: Priority) -> int:
        """How many of a priority wait."""
        return len(self._lines[priority])

    def push(self, waiting: W) -> None:
        """Add to the end of its priority's line."""
        self._lines[waiting.priority][waiting] = None

    def head(self, priority: Priority | None = None) -> W | None:
        """Return what is next, of a priority or of all; None if nothing waits."""
        return next(iter(self if priority is None else self._lines[priority]), None)

    def remove(self, waiting: W) -> bool:
        """Take something out of the line; False if it is not there (any more)."""
        line = self._lines[waiting.priority]
        if waiting not in line:
            return False
        del line[waiting]
        return True

    def promote(self, key: str) -> bool:
        """Move what waits in the background for a key to the end of the foreground.

        Returns:
            Whether there was any.
        """
        moved = [waiting for waiting in self._lines["background"] if waiting.key == key]
        for waiting in moved:
            self.remove(waiting)
            waiting.priority = "foreground"
            self.push(waiting)
        return bool(moved)

    def clear(self) -> None:
        """Drop everything."""
        for line in self._lines.values():
            line.clear()
