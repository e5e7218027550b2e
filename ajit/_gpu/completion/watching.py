"""Watches: who is told of every ticket of a loop when its outcome is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ajit._system.warn import warn_only

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._gpu.completion.state import TicketState

__all__ = ["TicketWatch"]


class TicketWatch:
    """One who watches. Compared by identity.

    Args:
        ended: Called in the loop with each ticket whose outcome is known, and what `begun` had
            returned for it; must be quick.
        begun: Called where a ticket is submitted, in that thread and task; None: nothing is.
    """

    __slots__ = ("_begun", "_ended")

    def __init__(
        self,
        ended: Callable[[TicketState[Any], object], None],
        begun: Callable[[], object] | None = None,
    ) -> None:
        self._ended, self._begun = ended, begun

    def begin(self, state: TicketState[Any]) -> None:
        """Note where a ticket is submitted."""
        if self._begun is None:
            return
        try:
            state.watched = {**(state.watched or {}), self: self._begun()}
        except Exception as exc:  # noqa: BLE001  # a submission does not fail for who watches it
            self._report(exc)

    def end(self, state: TicketState[Any]) -> None:
        """Tell of a ticket."""
        try:
            self._ended(state, (state.watched or {}).get(self))
        except Exception as exc:  # noqa: BLE001  # nor does the loop
            self._report(exc)

    def _report(self, exc: Exception) -> None:
        warn_only(f"who watches tickets raised {type(exc).__name__}: {exc}")
