"""An event loop in a thread, for callers that have none, and one async context that it holds open.

anyio's blocking portal runs the loop. This module adds what a caller without a loop needs to know
in each state, because there the portal would hang or speak of itself:

- After the end every call raises `RuntimeClosed`, and so does a call that the end overtakes.
- In a forked child there is no such thread: a call would wait for it for ever. It raises
  `ForkedRuntime`, and closing does nothing.
- In the loop's own thread a call would wait for itself: `UsageError`.
- A context that is never left is closed when the interpreter exits, see `_close_at_exit`.

Any thread may use it. The lock is held for a few instructions at a time.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from ajit.errors import ForkedRuntime, RuntimeClosed, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

__all__ = ["LoopThread"]

T = TypeVar("T")
V = TypeVar("V")

_CLOSED = "this runtime is closed: its block was left, or the interpreter exits"


class LoopThread(Generic[V]):
    """A loop in a thread that holds one async context open.

    Args:
        backend: ``asyncio`` or ``trio``.
        opening: The context. Entered and left in the loop, by one task.

    Attributes:
        value: What entering the context returned.

    Raises:
        Exception: What entering raised. Then the thread has ended.
    """

    def __init__(self, backend: str, opening: Callable[[], AbstractAsyncContextManager[V]]) -> None:
        _close_at_exit.install()
        self._pid = os.getpid()
        self._owner = threading.current_thread()
        self._turn = threading.Condition()
        self._admitted_calls = 0
        self._state = "open"
        started: Future[BlockingPortal] = Future()
        # Not anyio's start_blocking_portal(): in a forked child, collecting it would hang.
        self._thread = threading.Thread(
            target=_serve, args=(backend, started), name="ajit-loop", daemon=True
        )
        self._thread.start()
        self._portal = started.result()
        try:
            self._held = self._portal.wrap_async_context_manager(self._portal.call(opening))
            self.value = self._held.__enter__()
        except BaseException:
            self._end()
            raise
        _open.add(self)

    def call_sync(self, function: Callable[[], T]) -> T:
        """Run a function in the loop. As `call` in all else."""

        async def called() -> T:
            return function()

        return self.call(called)

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine function in the loop, and wait for it.

        It runs in a copy of the caller's context variables. An exception in the caller, such as
        Ctrl-C, cancels it.

        Raises:
            RuntimeClosed: The context was left, before or meanwhile.
            ForkedRuntime: This is a forked child.
            UsageError: This is the loop's own thread.
            BaseException: What the function raised.
        """
        with self._admitted():
            future: Future[Callable[[], T]] = self._portal.start_task_soon(_outcome, function)
        try:
            outcome = future.result()
        except CancelledError:
            raise RuntimeClosed("this runtime was closed during this call") from None
        except BaseException:
            future.cancel()
            raise
        return outcome()

    @contextmanager
    def enter(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """Enter an async context as one that blocks. It is entered and left by one task.

        Raises:
            AjitError: As `call`, at the end of the block as well.
        """
        with self._admitted():
            held = self._portal.wrap_async_context_manager(manager)
            value = held.__enter__()
        try:
            yield value
        except BaseException as exc:
            if self._pid == os.getpid() and self._state == "open":
                held.__exit__(type(exc), exc, exc.__traceback__)
            raise
        try:
            with self._admitted():
                held.__exit__(None, None, None)
        except CancelledError:
            raise RuntimeClosed("this runtime was closed during this block") from None

    def close(self) -> None:
        """Leave the context and end the thread. In a forked child this does nothing.

        Raises:
            UsageError: This is the loop's own thread.
            Exception: What leaving raised; the thread has ended all the same.
        """
        if self._pid != os.getpid():
            return
        self._check_thread()
        with self._turn:
            if self._state != "open":
                return
            self._state = "closed"
        _open.discard(self)
        try:
            with self._turn:
                # What was admitted gets into the loop, and an answer from it.
                self._turn.wait_for(lambda: not self._admitted_calls)
            self._held.__exit__(None, None, None)
        finally:
            self._end()

    def close_after_owner(self) -> None:
        """Close it when the interpreter exits, but not under a thread that is in its block."""
        owner = self._owner
        if owner is threading.main_thread() or owner.daemon or not owner.is_alive():
            self.close()
            return

        def wait() -> None:
            owner.join()
            self.close()

        threading.Thread(target=wait, name="ajit-exit").start()

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Refuse where there is no loop; else keep it until the end of the block."""
        self._check()
        with self._turn:
            if self._state != "open":
                raise RuntimeClosed(_CLOSED)
            self._admitted_calls += 1
        try:
            yield
        finally:
            with self._turn:
                self._admitted_calls -= 1
                self._turn.notify_all()

    def _check(self) -> None:
        # The process first: after a fork the lock may be held for ever.
        if self._pid != os.getpid():
            raise ForkedRuntime(
                "this runtime was opened before a fork; open one in the child process"
            )
        self._check_thread()
        if self._state != "open":
            raise RuntimeClosed(_CLOSED)

    def _check_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise UsageError(
                "a call of a BlockingRuntime in its own event loop would wait for itself; await "
                "the coroutines of rt.device there, or make the call in another thread"
            )

    def _end(self) -> None:
        """End the loop: calls that still wait in it are cancelled, and the thread is joined."""
        with suppress(RuntimeError):  # a loop that has ended by itself
            self._portal.call(self._portal.stop, True)  # noqa: FBT003  # anyio's signature
        self._thread.join()


def _serve(backend: str, started: Future[BlockingPortal]) -> None:
    """Run the loop, in its thread."""

    async def main() -> None:
        async with BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()

    try:
        anyio.run(main, backend=backend)
    except BaseException as exc:  # noqa: BLE001  # a thread has nowhere to raise it
        if not started.done():
            started.set_exception(exc)


async def _outcome(function: Callable[[], Awaitable[T]]) -> Callable[[], T]:
    """Run a function; return what returns its result or raises its exception.

    Nothing but a cancellation is raised here: an exit or a Ctrl-C would end the loop.
    """
    try:
        result = await function()
    except anyio.get_cancelled_exc_class():
        raise
    except BaseException as exc:  # noqa: BLE001  # raised in the caller's thread
        return partial(_throw, exc)
    return lambda: result


def _throw(error: BaseException) -> NoReturn:
    raise error


_open: set[LoopThread[Any]] = set()
"""Those that were not left. Referred to until then: the collector must not close one, since that
waits, and any thread may collect, the loop's own one included."""


class _CloseAtExit:
    """Closes what was never left, when the interpreter exits.

    ``atexit`` is too late: before it runs, the interpreter joins all threads that are no daemons,
    and the worker threads of a loop end with the loop only. What the interpreter calls before that
    is what ``concurrent.futures`` uses for the same purpose.
    """

    def __init__(self) -> None:
        self._installed = False

    def install(self) -> None:
        """Register, once for the process."""
        if not self._installed:
            self._installed = True
            # Refused once the interpreter has begun to exit: a thread that opens one then has to
            # leave its block.
            with suppress(RuntimeError):
                threading._register_atexit(self._close)  # type: ignore[attr-defined]  # noqa: SLF001  # no public one

    def _close(self) -> None:
        for loop in list(_open):
            loop.close_after_owner()


_close_at_exit = _CloseAtExit()
