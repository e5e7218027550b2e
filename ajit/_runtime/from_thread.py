"""Calls into a runtime from threads that run no event loop of it.

A `BlockingRuntime` has its own way (`ajit._runtime.loop_thread`). This is that for a runtime of a
server: its loop runs in another thread, and goes on serving while the caller waits.
"""

from __future__ import annotations

import contextvars
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

import anyio

from ajit._resolve.late import asked_from, caller_stack
from ajit._runtime.blocking import BlockingRuntime
from ajit._runtime.runtime import Runtime
from ajit.errors import ForkedRuntime, RuntimeClosed, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ajit._system.loop import LoopHandle

__all__ = ["call", "is_loop_thread", "runtime_of"]

T = TypeVar("T")


def runtime_of(runtime: Runtime | BlockingRuntime) -> Runtime:
    """Return the runtime that lives in an event loop.

    Raises:
        UsageError: It is neither kind of runtime.
    """
    if isinstance(runtime, BlockingRuntime):
        return runtime._runtime  # noqa: SLF001  # its other half
    if isinstance(runtime, Runtime):
        return runtime
    raise UsageError(f"expected an open runtime of ajit, got {type(runtime).__name__}")


def is_loop_thread(runtime: Runtime | BlockingRuntime) -> bool:
    """Whether the calling thread runs the runtime's event loop, so that it must not wait for it."""
    return _loop_of(runtime_of(runtime)).thread_id == threading.get_ident()


def call(runtime: Runtime | BlockingRuntime, function: Callable[[Runtime], Awaitable[T]]) -> T:
    """Run a coroutine function in the runtime's loop, and wait for it in this thread.

    An exception in this thread, such as Ctrl-C, cancels it.

    Raises:
        RuntimeClosed: It is closed, or was meanwhile.
        ForkedRuntime: This is a forked child.
        UsageError: This is the loop's own thread; nothing was started.
        Exception: What the function raised.
    """
    inner = runtime_of(runtime)
    if isinstance(runtime, BlockingRuntime):
        return runtime.call(function, inner)
    if inner._state == "forked":  # noqa: SLF001  # likewise
        raise ForkedRuntime("this runtime was opened before a fork; open one in the child process")
    if is_loop_thread(runtime):
        raise UsageError(
            "this call waits for a compile, and would stop the event loop that it is made in; make "
            "it in a thread, as with anyio.to_thread.run_sync, or await a warm-up before"
        )
    return _Waiting(inner, function).result()


class _Waiting:
    """One call, in its thread and in the loop."""

    def __init__(self, runtime: Runtime, function: Callable[[Runtime], Awaitable[T]]) -> None:
        self._runtime = runtime
        self._function = function
        self._future: Future[object] = Future()
        self._scope: anyio.CancelScope | None = None

    def result(self) -> T:  # type: ignore[type-var]  # that of the function
        loop = _loop_of(self._runtime)
        context = contextvars.copy_context()
        if self._runtime._kernels.services.freeze.mode is not None:  # noqa: SLF001  # likewise
            context.run(asked_from, caller_stack())
        if not loop.call_soon(context.run, self._start, loop):
            raise RuntimeClosed("the event loop of this runtime has ended")
        try:
            return self._future.result()  # type: ignore[return-value]
        except BaseException:
            loop.call_soon(self._cancel)
            raise

    def _start(self, loop: LoopHandle) -> None:
        loop.start_task(self._run, name="ajit-call", ended=self._ended)

    async def _run(self) -> None:
        self._scope = anyio.CancelScope()
        try:
            with self._scope:
                self._future.set_result(await self._function(self._runtime))
        except Exception as exc:  # noqa: BLE001  # raised in the caller's thread
            self._future.set_exception(exc)

    def _ended(self) -> None:
        if not self._future.done():
            self._future.set_exception(RuntimeClosed("this runtime was closed during this call"))

    def _cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()


def _loop_of(runtime: Runtime) -> LoopHandle:
    return runtime._loop  # noqa: SLF001  # likewise
