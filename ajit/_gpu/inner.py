"""The one door from an object that users hold to what the package keeps behind it.

What users hold is thin: it has the public names, and one reference to an internal object with the
rest. So nothing internal shows up in an editor, and nothing in the package reaches for private
names.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

__all__ = ["HasInner", "inner"]

T_co = TypeVar("T_co", covariant=True)


class HasInner(Protocol[T_co]):
    """An object of the public face, and what is behind it."""

    @property
    def _inner(self) -> T_co: ...


def inner(held: HasInner[T_co]) -> T_co:
    """Return what is behind an object that users hold. For the package only."""
    return held._inner  # noqa: SLF001  # this is the door
