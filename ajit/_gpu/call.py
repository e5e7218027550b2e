"""Python on the CUDA thread: a function on its way there, and what became of it."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ajit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Call", "check_no_coroutine"]

T = TypeVar("T")


class Call(Generic[T]):
    """A Python function on its way to the CUDA thread, and what became of it."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._error: BaseException | None = None
        self._value: T | None = None

    def run(self) -> None:
        try:
            self._value = self._function()
        except BaseException as error:  # noqa: BLE001  # it is raised where the call is awaited
            self._error = error

    def outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return cast("T", self._value)


def check_no_coroutine(function: Callable[..., object]) -> None:
    """Refuse what only an event loop could run.

    Raises:
        UsageError: It is a coroutine function, or wraps one.
    """
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    if inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(
        getattr(inner, "__call__", None)  # noqa: B004  # not whether it can be called
    ):
        raise UsageError(
            f"{function!r} is a coroutine function, and no event loop runs on the CUDA thread; "
            f"give device.run a plain function, and await in the loop"
        )
