"""Calls back that keep no object alive.

Two objects that call each other are a cycle, and a cycle would leave what they hold, device memory
above all, to the garbage collector.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["weakly"]

P = ParamSpec("P")


def weakly(method: Callable[P, None]) -> Callable[P, None]:
    """Return a call of a bound method that does not keep its object alive.

    Once the object is gone, the call does nothing.
    """
    found = weakref.WeakMethod(method)

    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        bound = found()
        if bound is not None:
            bound(*args, **kwargs)

    return call
