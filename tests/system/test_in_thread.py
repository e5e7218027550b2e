"""Blocking calls in daemon threads."""

from __future__ import annotations

import contextvars
import threading

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from ajit._system import in_thread
from ajit._system.in_thread import run_in_thread
from ajit._system.threads import DaemonThreads, kept_threads

pytestmark = pytest.mark.anyio

LIMIT_SECONDS = 30.0


class Blocked:
    """A call that blocks until it is released.

    Attributes:
        begun: Set in the loop once it has its thread.
        ended: Whether it has returned.
    """

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.ended = False
        self._token = anyio.lowlevel.current_token()
        self._released = threading.Event()

    def __call__(self) -> str:
        """Block."""
        anyio.from_thread.run_sync(self.begun.set, token=self._token)
        self._released.wait(LIMIT_SECONDS)
        self.ended = True
        return "value"

    def release(self) -> None:
        """Let it return."""
        self._released.set()


@pytest.fixture
def limiter():
    """One call at a time."""
    return anyio.CapacityLimiter(1)


async def test_value_and_error_come_back(limiter):
    """From a daemon thread, with the context variables of the caller."""
    variable = contextvars.ContextVar("variable", default="")
    variable.set("the caller's")

    def look(*args):
        return variable.get(), threading.current_thread().daemon, args

    assert await run_in_thread(look, 1, 2, limiter=limiter) == ("the caller's", True, (1, 2))
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(lambda: 1 / 0, limiter=limiter)


async def test_cancelled_call_is_waited_for(limiter):
    """It is over when the cancellation is raised, and so is its place in the limiter."""
    call = Blocked()
    async with anyio.create_task_group() as group:

        async def task():
            try:
                await run_in_thread(call, limiter=limiter)
            finally:
                assert call.ended

        group.start_soon(task)
        await call.begun.wait()
        group.cancel_scope.cancel()
        call.release()

    assert limiter.borrowed_tokens == 0


async def test_abandoned_call_is_left_to_itself(limiter):
    """Cancelling returns while it still runs."""
    call = Blocked()
    async with anyio.create_task_group() as group:

        async def task():
            await run_in_thread(call, limiter=limiter, abandon=True)

        group.start_soon(task)
        await call.begun.wait()
        group.cancel_scope.cancel()

    assert not call.ended
    call.release()


async def test_one_call_after_another_has_the_same_thread(limiter, monkeypatch):
    """It is idle again before its outcome is told."""
    monkeypatch.setattr(in_thread, "_threads", DaemonThreads("test"))  # none of an earlier test
    async with kept_threads():
        used = {await run_in_thread(threading.get_ident, limiter=limiter) for _ in range(200)}

    assert len(used) == 1
