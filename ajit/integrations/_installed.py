"""What an `install` has changed, and how it is put back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ajit._system.warn import warn_only
from ajit._system.with_block import EndsWithBlock
from ajit.errors import ForkedRuntime, RuntimeClosed

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GONE", "Installed", "Patch", "warn_gone"]

GONE = (RuntimeClosed, ForkedRuntime)
"""What a call gets where the runtime is not there any more: the peer then works alone."""


class Installed(EndsWithBlock):
    """Adapters that are installed. A context; leaving it uninstalls them."""

    def __init__(self, *undo: Callable[[], None]) -> None:
        self._undo = list(undo)

    def add(self, other: Installed) -> None:
        """Take over what another has changed."""
        self._undo.append(other.uninstall)

    def uninstall(self) -> None:
        """Put everything back, the last change first. A second call does nothing."""
        while self._undo:
            self._undo.pop()()

    _end = uninstall

    def __repr__(self) -> str:
        return f"<Installed {len(self._undo)} changes>"


class Patch:
    """One attribute that is replaced, until `undo`.

    It is put back only if it still is what was put there: another tool may have wrapped it since,
    and what it has wrapped goes on to work.
    """

    _MISSING = object()

    def __init__(self, owner: Any, name: str, value: Any) -> None:
        self._owner, self._name, self._value = owner, name, value
        self._before = vars(owner).get(name, self._MISSING)
        setattr(owner, name, value)

    def undo(self) -> None:
        """Put back what was there."""
        if vars(self._owner).get(self._name) is not self._value:
            return
        if self._before is self._MISSING:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._before)


def warn_gone(peer: str, error: Exception) -> None:
    """Say that a peer works alone from now on."""
    warn_only(f"{peer} compiles by itself, and not through ajit: {error}", stacklevel=3)
