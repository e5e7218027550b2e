"""Calls on a cache that failed in the background, where no request gets the error."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Doing", "Trouble", "Troubles"]

Doing: TypeAlias = Literal["evict", "touch"]
"""What the call was for."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Failures of one kind.

    Attributes:
        doing: What the calls were for.
        count: How many have failed.
        reason: Why the last one did.
    """

    doing: Doing
    count: int
    reason: str


class Troubles:
    """The failures that were not told yet. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Doing, Trouble] = {}

    def note(self, doing: Doing, error: OSError) -> None:
        """Note one. That a file has gone meanwhile is none."""
        if isinstance(error, FileNotFoundError):
            return
        reason = error.strerror or str(error)
        with self._lock:
            before = self._known.get(doing)
            self._known[doing] = Trouble(doing, 1 + (before.count if before else 0), reason)

    def take(self) -> list[Trouble]:
        """Return what was noted since the last call."""
        with self._lock:
            known, self._known = self._known, {}
        return list(known.values())
