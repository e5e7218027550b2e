# ruff: noqa: SLF001  # a ticket and its port are two halves of one thing
"""Ports: how the device tells one event loop that tickets are done.

The host function that runs after a ticket's work pushes it on the port's list and writes the port's
eventfd. The loop reads the list and wakes every task that waits for a finished ticket, all in one
turn. asyncio and uvloop call the reader directly (``add_reader``); trio has no such callback, there
`Port.serve` waits for the descriptor in a task.

A device is often done within microseconds, sooner than a parked task can be resumed. So a task that
awaits the only ticket in flight first looks for up to `SPIN_SECONDS`, GIL held, if recent tickets
were that quick. Going to sleep and being woken takes about as long, and beside a busy Python thread
a thread that lets the GIL go waits up to 5 ms to get it back: where parked tasks came back that
late, the next ones look for up to `HOG_SECONDS`. To keep the loop alive, no look begins once tasks
have looked for `HOG_SECONDS` without giving other tasks a turn, or five times that where a turn
costs milliseconds.

Owned by the loop's thread: everything but `Port.submit`, which any thread may call.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from ajit._gpu import wire
from ajit._gpu.submission import Submissions
from ajit._gpu.ticket import ABANDONED, OVERDUE, PENDING, Ticket
from ajit._system.loop import LoopHandle
from ajit.errors import WrongLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ajit._gpu.thread import DeviceThread

__all__ = ["Port", "Ticket"]

_abandoned: list[object] = []
"""What abandoned tickets use: never freed, for a device that hangs may wake up and write there."""

T = TypeVar("T")

SPIN_SECONDS = 100e-6
"""How long a task looks for its ticket before it parks: about what it costs to park, and to wake a
CUDA thread and a driver that went to sleep meanwhile."""
HOG_SECONDS = 200e-6
"""How long tasks may do so in a row before other tasks get a turn, and the longest look. Pretty
arbitrary."""
_FOREVER = 1 << 62
_ASK_NS = int((HOG_SECONDS - SPIN_SECONDS) * 1e9)
"""From this on the next look may use up `HOG_SECONDS`, so the port asks to be told of a turn."""
GRACE_SECONDS = 0.1
"""How long after a ticket's own deadline the loop waits for the CUDA thread to say so, which looks
every 50 ms and knows more, before it takes the thread for stuck."""


class Port(Submissions):
    """One event loop's way to the CUDA thread and back. Made in that loop.

    Attributes:
        loop: The loop.
    """

    def __init__(self, thread: DeviceThread) -> None:
        super().__init__(thread)
        self.loop = LoopHandle.current()
        spin_seconds = SPIN_SECONDS if len(os.sched_getaffinity(0)) > 1 else 0.0
        self.handle = self._library.port_create(
            thread.handle, int(spin_seconds * 1e9), int(HOG_SECONDS * 1e9)
        )
        if not self.handle:
            raise OSError("no memory or no file descriptor is left for an event loop's eventfd")
        self._idle: anyio.Event | None = None
        self._turn = anyio.Event()
        self._map_memory()
        loop: Any = self.loop.native
        self._make_waiter = getattr(loop, "create_future", anyio.Event)
        self._calls_readers = hasattr(loop, "add_reader")
        if self._calls_readers:
            loop.add_reader(self._event_fd, self.drain)

    def _map_memory(self) -> None:
        layout = self._library.layout
        size = layout["port_records"] + wire.RECORDS * wire.RECORD.size
        memory = memoryview((ctypes.c_ubyte * size).from_address(self.handle)).cast("B")
        self._event_fd = int.from_bytes(memory[layout["port_event_fd"] :][:4], "little")
        # Two words: the ticket that is looked for, and for how long tasks have been looking.
        self._looking = memory[layout["port_wanted"] :][:16].cast("Q")
        self._records = memory[layout["port_records"] :]

    # --- waiting: the loop's tasks --------------------------------------------------------------

    def look_for(self, ticket: Ticket[Any]) -> None:
        """Look for a moment whether a ticket is settled. For `Ticket.__await__`."""
        if threading.get_ident() != self.loop.thread_id:
            raise WrongLoop(f"{ticket!r} belongs to another event loop; await it there")
        if self._refusal is not None:
            self._check_fork()
        # With more in flight there are other tasks to run, and parking costs nothing.
        self._looking[0] = ticket._number if len(self.in_flight) == 1 else 0
        count = self._library.port_wait(self.handle)
        if self._looking[1] >= _ASK_NS:
            self._turn.set()
        if count:
            self._dispatch(count)
        if count == wire.RECORDS:  # there may be more, and nobody will write the eventfd for them
            self.drain()

    def look_no_more(self) -> None:
        """Let the next await park at once: a look would keep the GIL from what needs it."""
        self._looking[1] = _FOREVER

    def park(
        self, ticket: Ticket[Any], waiters: list[Any], is_over: Callable[[], bool]
    ) -> Generator[Any, Any, None]:
        """Wait until a ticket is settled, or a step of it, while other tasks run.

        Args:
            ticket: The ticket.
            waiters: Where to leave what wakes this task.
            is_over: Whether there is nothing to wait for any more.
        """
        self._looking[1] = 0
        self.drain()
        if is_over():
            yield from checkpoint().__await__()
            return
        waiter = self._make_waiter()
        waiters.append(waiter)
        try:
            if ticket._until is None:
                yield from _wait(waiter)
            else:
                yield from self._wait_until(ticket, waiter)
        finally:
            if waiter in waiters:
                waiters.remove(waiter)

    def _wait_until(self, ticket: Ticket[Any], waiter: Any) -> Generator[Any, Any, None]:
        """Wait no longer than a ticket's own deadline: the CUDA thread may hang itself."""
        assert ticket._until is not None
        left = max(0.0, ticket._until - time.monotonic()) + GRACE_SECONDS
        with anyio.move_on_after(left):  # noqa: ASYNC100  # what is awaited below is a checkpoint
            yield from _wait(waiter)
            return
        if ticket._state == PENDING:
            ticket._expire(OVERDUE, int(ticket.limit_seconds * 1e9))

    def _check_fork(self) -> None:
        refusal = self._refusal
        if self.thread.forked and refusal is not None:
            raise refusal()

    def wake(self, waiter: Any) -> None:
        """Resume the task behind a waiter: a future of the loop, or an event."""
        if isinstance(waiter, anyio.Event):
            waiter.set()
        elif not waiter.done():
            waiter.set_result(None)

    # --- draining: the loop's thread ------------------------------------------------------------

    async def serve(self) -> None:
        """Watch the tickets until cancelled, and read the port where the loop does not (trio)."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            tasks.start_soon(self._notice_turns)
            while self.handle and not self._calls_readers:
                await anyio.wait_readable(self._event_fd)
                self.drain()

    async def _watch(self) -> None:
        """Settle tickets that the CUDA thread cannot: it looks after deadlines, unless it hangs."""
        seconds = self.thread.settings.ticket_timeout_seconds
        before: set[int] = set()
        while self.handle:
            stuck = [self.in_flight[number] for number in before & self.in_flight.keys()]
            for ticket in stuck:
                if ticket._state == PENDING:
                    ticket._expire(OVERDUE, int(seconds * 1e9))
            before = set(self.in_flight)
            await anyio.sleep(seconds)

    async def _notice_turns(self) -> None:
        """Count anew what tasks look, whenever others had a turn: this task is one of them.

        Without it a server that awaits one ticket in each request would come to `HOG_SECONDS` after
        a few requests, and park, although its loop slept between them.
        """
        while self.handle:
            await self._turn.wait()
            self._turn = anyio.Event()
            if self.handle:
                self._looking[1] = 0

    def drain(self) -> None:
        """Settle every ticket that is done, and wake who waits for it."""
        count = wire.RECORDS
        while count == wire.RECORDS:
            count = self._library.port_drain(self.handle)
            self._dispatch(count)

    def _dispatch(self, count: int) -> None:
        in_flight = self.in_flight
        size, unpack = wire.RECORD.size, wire.RECORD.unpack_from
        for at in range(0, count * size, size):
            number, code, flags, value, detail, nanoseconds = unpack(self._records, at)
            retired = flags & wire.RETIRED
            ticket = in_flight.pop(number, None) if retired else in_flight.get(number)
            if ticket is None:
                continue
            if flags & wire.STEPPED:
                ticket._step_done(detail)
                continue
            if flags & wire.SETTLED and ticket._state == PENDING:
                ticket._settle(code, flags, value, detail, nanoseconds)
            elif value:
                self.thread.post(value)  # made after the ticket was given up
            if retired:
                ticket._keep = None
        if self._idle is not None and not in_flight:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until the device is done with every ticket of this loop."""
        self.drain()
        while self.in_flight:
            self._idle = anyio.Event()
            await self._idle.wait()

    def close(self) -> None:
        """Stop reading. Tickets that are still in flight are abandoned, and raise RuntimeClosed."""
        if self.handle:
            for ticket in self.in_flight.values():
                if ticket._state == PENDING:
                    ticket._expire(ABANDONED, 0)
            _abandoned.extend(ticket._keep for ticket in self.in_flight.values())
            loop: Any = self.loop.native
            if self._calls_readers:
                loop.remove_reader(self._event_fd)
            self._looking.release()
            self._records.release()
            handle, self.handle = self.handle, None
            self._library.port_release(handle)


def _wait(waiter: Any) -> Generator[Any, Any, None]:
    yield from (waiter.wait() if isinstance(waiter, anyio.Event) else waiter).__await__()
