"""A function that knows how long its call took."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Timed"]

P = ParamSpec("P")
T = TypeVar("T")


class Timed(Generic[P, T]):
    """Calls a function once, in any thread.

    Attributes:
        seconds: What the call took; 0.0 before that.
    """

    __slots__ = ("_function", "seconds")

    def __init__(self, function: Callable[P, T]) -> None:
        self._function = function
        self.seconds = 0.0

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it."""
        begun = time.monotonic()
        try:
            return self._function(*args, **kwargs)
        finally:
            self.seconds = time.monotonic() - begun
