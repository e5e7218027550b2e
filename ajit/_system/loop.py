"""The bridge to an event loop: into it from a thread, and to a task of it that no other task owns.

ajit's own threads (lock waits, compile slots, the CUDA thread) finish things that tasks wait for.
This module is the only place that knows how to wake an event loop from another thread, and how to
start a task beside all others, on asyncio, uvloop and trio alike, without importing any of them:
anyio hands out the running loop as a token, and both kinds of loop have one thread-safe method to
run a callback. What starts a task is a method of the one and a function of the other's module.

Guarantees: nothing here blocks; a callback for a loop that has ended is dropped, and the caller is
told; a `Promise` is resolved at most once, from any thread; nothing that a task of `start_task`
raises gets out of it.
"""

from __future__ import annotations

import contextvars
import sys
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import anyio
from anyio.lowlevel import current_token

from ajit._system.uncancelled import wait_uncancelled
from ajit._system.warn import warn_only

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

__all__ = ["LoopHandle", "Promise"]

T = TypeVar("T")


class LoopHandle:
    """One event loop, as other threads may use it. Get it with `LoopHandle.current()`.

    Attributes:
        native: The loop (asyncio, uvloop) or the token (trio) itself.
        thread_id: The thread that the loop runs in.
    """

    __slots__ = ("_post", "native", "thread_id")

    def __init__(self, native: object, thread_id: int) -> None:
        self.native = native
        self.thread_id = thread_id
        # asyncio and uvloop have the first of these methods, trio's token the second.
        name = (
            "call_soon_threadsafe" if hasattr(native, "call_soon_threadsafe") else "run_sync_soon"
        )
        self._post: Callable[..., object] = getattr(native, name)

    @classmethod
    def current(cls) -> LoopHandle:
        """Return the handle of the loop that runs the calling task.

        Raises:
            anyio.NoEventLoopError: If the caller runs in no event loop.
        """
        return cls(current_token().native_token, threading.get_ident())

    @property
    def is_running_here(self) -> bool:
        """Whether the caller is a task of this loop."""
        return self.native is current_token().native_token

    def call_soon(self, function: Callable[..., object], *args: Any) -> bool:
        """Run ``function(*args)`` in the loop, soon. Any thread may call this.

        Returns:
            False if the loop has ended: the call is dropped, because no task can wait any more.
        """
        try:
            self._post(function, *args)
        except RuntimeError:  # closed loop; trio's RunFinishedError is a RuntimeError as well
            return False
        return True

    def start_task(
        self,
        function: Callable[[], Coroutine[Any, Any, None]],
        *,
        name: str,
        ended: Callable[[], None],
    ) -> None:
        """Start a task that belongs to no other task. In the loop's own thread only.

        It lives until it returns, or until the loop ends: asyncio then cancels it together with all
        other tasks, which may happen before it has begun; trio does when the main task has ended.
        It has a copy of the caller's context variables. What it raises is an `AjitWarning`: on trio
        an exception of such a task would end the program.

        Args:
            function: The task.
            name: Of the task, for those who list tasks.
            ended: Called in the loop once the task is over, in every case; must not raise.
        """
        if hasattr(self.native, "create_task"):
            task = self.native.create_task(_guarded(function, name), name=name)
            _tasks.add(task)  # the loop itself refers to its tasks weakly
            task.add_done_callback(_tasks.discard)
            task.add_done_callback(lambda _: ended())
            return

        async def with_end() -> None:
            try:
                await _guarded(function, name)
            finally:
                ended()

        # The token is trio's, so trio has been imported.
        context = contextvars.copy_context()
        sys.modules["trio"].lowlevel.spawn_system_task(with_end, name=name, context=context)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LoopHandle) and other.native is self.native

    def __hash__(self) -> int:
        return id(self.native)


class Promise(Generic[T]):
    """A value that any thread hands to one loop, once.

    It belongs to the loop that made it: only tasks of that loop may wait. Any number of tasks may.
    """

    __slots__ = ("_error", "_event", "_lock", "_loop", "_settled", "_traceback", "_value")

    def __init__(self) -> None:
        self._loop = LoopHandle.current()
        self._event = anyio.Event()
        self._lock = threading.Lock()
        self._settled = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._traceback: TracebackType | None = None

    def resolve(self, value: T) -> bool:
        """Hand over a value. Any thread; False if it was settled before, or its loop has ended."""
        return self._settle(value, None)

    def reject(self, error: BaseException) -> bool:
        """Hand over an exception. Any thread; returns False as `resolve` does."""
        return self._settle(None, error)

    @property
    def settled(self) -> bool:
        """Whether a value or an exception has been handed over."""
        return self._settled

    async def wait(self) -> T:
        """Wait for the value and return it, or raise the exception. Cancelling only leaves."""
        await self._event.wait()
        return self._outcome()

    async def wait_uncancelled(self) -> T:
        """The same, but a cancellation is raised when it has been settled, and not before."""
        await wait_uncancelled(self._event)
        return self._outcome()

    def _outcome(self) -> T:
        if self._error is not None:
            # Each raise adds to the traceback of the one error: start from the original one.
            raise self._error.with_traceback(self._traceback)
        return cast("T", self._value)

    def _settle(self, value: T | None, error: BaseException | None) -> bool:
        with self._lock:
            if self._settled:
                return False
            self._settled, self._value, self._error = True, value, error
            self._traceback = error.__traceback__ if error is not None else None
        return self._loop.call_soon(self._event.set)


_tasks: set[object] = set()
"""Tasks of asyncio loops that `LoopHandle.start_task` has started and that have not ended."""


async def _guarded(function: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
    try:
        await function()
    except anyio.get_cancelled_exc_class():
        return  # the loop ends; there is nothing behind this task that could be cancelled
    except BaseException as exc:  # noqa: BLE001  # see `start_task`
        warn_only(f"the task {name!r} failed: {type(exc).__name__}: {exc}")
