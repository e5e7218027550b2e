"""An async context that a task of its own holds open, so that any task of the loop may close it.

A context with a task group or a cancel scope inside has to be left by the task that entered it.
Users close elsewhere: in the teardown of a fixture, in the next cell of a notebook, in ``stop()``
of an engine, in a signal handler's task. So a task that belongs to no other (see
`LoopHandle.start_task`) enters the context, waits until it is asked to close, and leaves it. No
cancellation of a caller reaches the context, and no failure in the context cancels a caller.

Belongs to one event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

from ajit._system.loop import LoopHandle
from ajit._system.uncancelled import wait_uncancelled
from ajit._system.warn import warn_only
from ajit.errors import RuntimeClosed

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from typing import Self

__all__ = ["OwnTask"]

T = TypeVar("T")


class OwnTask(Generic[T]):
    """A context held open by a task of its own. Get it with `OwnTask.open`.

    Attributes:
        value: What entering the context returned; gone once it was left.
        warns: Whether it is an `AjitWarning` when the context was left before `aclose` was called:
            the loop ended, or something in the context failed.
    """

    value: T

    def __init__(self, opening: Callable[[], AbstractAsyncContextManager[T]], name: str) -> None:
        self._opening, self._name = opening, name
        self._entering = anyio.CancelScope()
        self._entered = False
        self._settled, self._asked, self._ended = anyio.Event(), anyio.Event(), anyio.Event()
        self._error: BaseException | None = None
        self.warns = True

    @classmethod
    async def open(
        cls, opening: Callable[[], AbstractAsyncContextManager[T]], *, name: str
    ) -> Self:
        """Start the task, wait until it has entered the context, and return it.

        Args:
            opening: Makes the context; called in the task.
            name: Of the context, for warnings, and of the task.

        Raises:
            RuntimeClosed: The loop ended meanwhile; the context is not open.
            Exception: What entering raised.

        Cancelling also cancels the entering, and waits for that: nothing is open afterwards.
        """
        own = cls(opening, name)
        LoopHandle.current().start_task(own._hold, name=name, ended=own._end)
        try:
            await own._settled.wait()
        except BaseException:
            own._asked.set()
            own._entering.cancel()
            await wait_uncancelled(own._ended)
            raise
        if not own._entered:
            raise own._error or RuntimeClosed(f"the event loop ended while {name} was opened")
        return own

    async def aclose(self) -> None:
        """Let the task leave the context, and wait for it. May be called again, and by many.

        Raises:
            BaseException: What leaving raised, or what failed in the context, to the first caller.

        Cancelling only ends this wait: the task goes on and leaves the context.
        """
        self._asked.set()
        await self._ended.wait()
        self._raise_error()

    async def aclose_uncancelled(self) -> None:
        """As `aclose`, but a cancellation is raised once the context was left, and not before."""
        self._asked.set()
        await wait_uncancelled(self._ended)
        self._raise_error()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    async def _hold(self) -> None:
        try:
            with self._entering:
                async with self._opening() as self.value:
                    self._entered = True
                    self._settled.set()
                    await self._asked.wait()
        except anyio.get_cancelled_exc_class():
            return  # the loop ends: `_end` warns
        except BaseException as exc:  # noqa: BLE001  # raised by `open` or `aclose`
            self._error = exc

    def _end(self) -> None:
        if self._entered and not self._asked.is_set() and self.warns:
            why = "its event loop ended" if self._error is None else _told(self._error)
            warn_only(f"{self._name} was not closed by its user and is closed now: {why}")
        self.__dict__.pop("value", None)  # it may refer to this object: no cycle stays behind
        self._settled.set()
        self._ended.set()


def _told(error: BaseException) -> str:
    """What an error says; of a group, its first one."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
