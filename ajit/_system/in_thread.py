"""Blocking calls in threads, awaited.

As `anyio.to_thread.run_sync`, in daemon threads of ajit's own. anyio's threads are no daemons and
end with the task that the loop was started for: they outlive a runtime in a server, and end never
where that task is never seen to end (nest_asyncio, a loop that is closed by hand).
"""

from __future__ import annotations

import contextvars
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from ajit._system.loop import Promise
from ajit._system.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run_in_thread"]

T = TypeVar("T")

_threads = DaemonThreads("ajit-io")


async def run_in_thread(
    function: Callable[..., T],
    *args: object,
    limiter: anyio.CapacityLimiter,
    abandon: bool = False,
) -> T:
    """Run a blocking call in a thread; return what it returns, or raise what it raises.

    Args:
        function: What is called, with a copy of the caller's context variables.
        *args: Its arguments.
        limiter: Waited for first.
        abandon: Whether cancelling leaves the call to itself; else it waits for its end.

    Raises:
        RuntimeError: No thread can be started; nothing was called.
    """
    await checkpoint_if_cancelled()
    async with limiter:
        promise: Promise[T] = Promise()
        try:
            _threads.run_and_tell(_run, promise, contextvars.copy_context(), function, args)
            return await (promise.wait() if abandon else promise.wait_uncancelled())
        finally:
            del promise  # an error refers to this frame by its traceback


def _run(
    promise: Promise[T],
    context: contextvars.Context,
    function: Callable[..., T],
    args: tuple[Any, ...],
) -> Callable[[], object]:
    try:
        return partial(promise.resolve, context.run(function, *args))
    except BaseException as exc:  # noqa: BLE001  # the task raises it
        return partial(promise.reject, exc)
