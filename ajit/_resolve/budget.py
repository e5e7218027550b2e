"""What one request may still wait for a cache that does not answer.

A request makes several calls on the cache: looks, the lease, the publish. A file that hangs may be
in the way of each of them, and with a patience each they would add up. So they share one: a call
that is answered costs nothing, and one that is not takes what it waited. Pure, with no clock.
"""

from __future__ import annotations

__all__ = ["LEAST_SECONDS", "Budget"]

LEAST_SECONDS = 0.25
LEAST_SHARE = 0.1
"""A call gets this share of the patience, or `LEAST_SECONDS`, when nothing is left. Both pretty
arbitrary: one file that hangs is no reason not to keep a kernel that a slow disk would take."""


class Budget:
    """The patience of one request. Belongs to the event loop.

    Args:
        seconds: The patience.
    """

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self._least = min(seconds, max(LEAST_SECONDS, LEAST_SHARE * seconds))

    @property
    def seconds(self) -> float:
        """What the next call may wait for its answer."""
        return max(self._least, self._left)

    def take(self, seconds: float) -> None:
        """A call has waited for so long, and was not answered."""
        self._left = max(0.0, self._left - seconds)

    def __repr__(self) -> str:
        return f"<Budget {self._left:.1f} s left>"
