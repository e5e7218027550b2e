"""Waiting for tickets: a task of the loop spins for a moment, and then parks.

A device is often done within microseconds, sooner than a parked task can be resumed. So a task that
awaits the only ticket in flight first looks for up to `SPIN_SECONDS`, GIL held, if recent tickets
were that quick. Going to sleep and being woken takes about as long, and beside a busy Python thread
a thread that releases the GIL waits up to 5 ms to get it back: where parked tasks came back that
late, the next ones look for up to `HOG_SECONDS`. To keep the loop alive, no look begins once tasks
have looked for `HOG_SECONDS` without giving other tasks a turn, or five times that where a turn
costs milliseconds.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint

from ajit._gpu import wire
from ajit._gpu.completion.state import OVERDUE, PENDING
from ajit.errors import WrongLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ajit._gpu.completion.port import CompletionPort
    from ajit._gpu.completion.state import TicketState

__all__ = ["TicketWaiting", "look_limits_ns"]

SPIN_SECONDS = 100e-6
"""How long a task looks for its ticket before it parks: about what it costs to park, and to wake a
CUDA thread and a driver that went to sleep meanwhile."""
HOG_SECONDS = 200e-6
"""How long tasks may do so in a row before other tasks get a turn, and the longest look. Pretty
arbitrary."""
_FOREVER = 1 << 62
_ASK_NS = int((HOG_SECONDS - SPIN_SECONDS) * 1e9)
"""From this on the next look may use up `HOG_SECONDS`, so the loop is asked for a turn."""
GRACE_SECONDS = 0.1
"""How long after a ticket's own timeout the loop waits for the CUDA thread to say so, which looks
every 50 ms and knows more, before it takes the thread for stuck."""


def look_limits_ns() -> tuple[int, int]:
    """Return how long a look lasts here, and how long looks may last in a row."""
    spin_seconds = SPIN_SECONDS if len(os.sched_getaffinity(0)) > 1 else 0.0
    return int(spin_seconds * 1e9), int(HOG_SECONDS * 1e9)


class TicketWaiting:
    """How the tasks of one loop wait for tickets. Owned by the loop's thread."""

    def __init__(self, port: CompletionPort) -> None:
        self._port = port
        self._looking = port.memory.looking
        self._port_wait = wire.library().port_wait
        self._turn = anyio.Event()
        self._make_waiter = getattr(port.loop.native, "create_future", anyio.Event)

    def look_for(self, state: TicketState[Any]) -> None:
        """Look for a moment whether a ticket is settled. Settles what else is done."""
        port = self._port
        if threading.get_ident() != port.loop.thread_id:
            raise WrongLoop(f"{state!r} belongs to another event loop; await it there")
        if port.refusal is not None:
            port.check_fork()
        # With more in flight there are other tasks to run, and parking costs nothing.
        self._looking[0] = state.number if len(port.in_flight) == 1 else 0
        count = self._port_wait(port.handle)
        if self._looking[1] >= _ASK_NS:
            self._turn.set()
        if count:
            port.dispatch(count)
        if count == wire.RECORDS:  # there may be more, and nothing will write the eventfd for them
            port.drain()

    def look_no_more(self) -> None:
        """Let the next await park at once: a look would keep the GIL from what needs it."""
        self._looking[1] = _FOREVER

    def park(
        self, state: TicketState[Any], waiters: list[Any], is_over: Callable[[], bool]
    ) -> Generator[Any, Any, None]:
        """Wait until a ticket is settled, or a step of it, while other tasks run.

        Args:
            state: Of the ticket.
            waiters: Where to leave what wakes this task.
            is_over: Whether there is nothing to wait for any more.
        """
        self._looking[1] = 0
        self._port.drain()
        if is_over():
            yield from checkpoint().__await__()
            return
        waiter = self._make_waiter()
        waiters.append(waiter)
        try:
            if state.until is None:
                yield from _wait(waiter)
            else:
                yield from _wait_until(state, state.until, waiter)
        finally:
            if waiter in waiters:
                waiters.remove(waiter)

    def wake(self, waiter: Any) -> None:
        """Resume the task behind a waiter: a future of the loop, or an event."""
        if isinstance(waiter, anyio.Event):
            waiter.set()
        elif not waiter.done():
            waiter.set_result(None)

    async def notice_turns(self) -> None:
        """Count anew what tasks look, whenever others had a turn: this task is one of them.

        Without it a server that awaits one ticket in each request would come to `HOG_SECONDS` after
        a few requests, and park, although its loop slept between them.
        """
        while self._port.handle:
            await self._turn.wait()
            self._turn = anyio.Event()
            if self._port.handle:
                self._looking[1] = 0

    async def expire_stuck(self, seconds: float) -> None:
        """Settle tickets that the CUDA thread cannot: it looks after timeouts, unless it hangs.

        Args:
            seconds: After which a ticket is overdue, and how often to look.
        """
        in_flight = self._port.in_flight
        before: set[int] = set()
        while self._port.handle:
            for state in [in_flight[number] for number in before & in_flight.keys()]:
                if state.outcome == PENDING:
                    state.expire(OVERDUE, int(seconds * 1e9))
            before = set(in_flight)
            await anyio.sleep(seconds)


def _wait_until(state: TicketState[Any], until: float, waiter: Any) -> Generator[Any, Any, None]:
    """Wait no longer than a ticket's own timeout: the CUDA thread may hang itself."""
    left = max(0.0, until - time.monotonic()) + GRACE_SECONDS
    with anyio.move_on_after(left):  # noqa: ASYNC100  # what is awaited below is a checkpoint
        yield from _wait(waiter)
        return
    if state.outcome == PENDING:
        state.expire(OVERDUE, int(state.timeout * 1e9))


def _wait(waiter: Any) -> Generator[Any, Any, None]:
    yield from (waiter.wait() if isinstance(waiter, anyio.Event) else waiter).__await__()
