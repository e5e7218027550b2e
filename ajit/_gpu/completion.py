"""Tickets, and the port through which the device tells one event loop that they are done.

The host function that runs after a ticket's work pushes it on the port's list and writes the port's
eventfd. The loop reads the list and wakes every task that waits for a finished ticket, all in one
turn. asyncio and uvloop call the reader directly (``add_reader``); trio has no such callback, there
`Port.serve` waits for the descriptor in a task.

A device is often done within microseconds, sooner than a parked task can be resumed. So a task that
awaits a ticket first looks for up to `SPIN_SECONDS`, GIL held, and only if recent tickets were that
quick. Going to sleep and being woken would take longer than that, and beside a busy Python thread a
thread that lets the GIL go waits up to 5 ms to get it back. To keep the loop alive, the time spent
so without giving other tasks a turn is limited to `HOG_SECONDS`.

Owned by the loop's thread: everything but `Port.submit`, which any thread may call.
"""

from __future__ import annotations

import ctypes
import threading
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import anyio
from anyio.lowlevel import checkpoint

from ajit._bridge import LoopHandle
from ajit._gpu import wire
from ajit._gpu.results import device_error, overdue
from ajit.errors import AjitError, DeviceError, OutOfMemory, WouldBlock, WrongLoop
from ajit.settings import available_cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ajit._gpu.thread import DeviceThread

__all__ = ["Port", "Ticket"]

T = TypeVar("T")

SPIN_SECONDS = 30e-6
"""How long a task looks for its ticket before it parks: about what parking and waking costs."""
HOG_SECONDS = 200e-6
"""How long tasks may do so in a row before other tasks get a turn. Pretty arbitrary."""
FULL_SECONDS = 2e-3
"""How long a submission waits for room in a full ring: the CUDA thread frees a place within
microseconds unless the driver itself blocks."""

_PENDING, _DONE, _FAILED, _OVERDUE = 0, 1, 2, 3


class Ticket(Generic[T]):
    """A submitted piece of device work. Awaiting it waits until the device is done with it.

    Any number of tasks of the loop that opened the device may await it, once or often. Cancelling the
    await only leaves: the work goes on, and its buffers stay alive until the device is done. Awaiting
    a ticket that is done already returns at once, mostly without giving other tasks a turn.

    Attributes:
        operation: What it does, for messages.
    """

    __slots__ = (
        "__weakref__", "_code", "_detail", "_explain", "_finish", "_flags", "_keep", "_nanoseconds", "_number",
        "_port", "_state", "_value", "_waiters", "operation",
    )  # fmt: skip

    def __init__(
        self,
        port: Port,
        number: int,
        operation: str,
        keep: object,
        finish: Callable[[int], T] | None = None,
    ) -> None:
        """Made by `Port.submit`.

        Args:
            port: The way to the loop.
            number: Unique on the CUDA thread.
            operation: For messages.
            keep: Whatever must stay alive until the device is done.
            finish: Makes the result from the record's value, in the loop.
        """
        self.operation = operation
        self._port = port
        self._number = number
        self._keep = keep
        self._finish = finish
        self._state = _PENDING
        self._waiters: list[Any] | None = None
        self._explain: Callable[[int], str] | None = None

    def explained_by(self, explain: Callable[[int], str]) -> Ticket[T]:
        """Let a function say more about a failure, from the number that the executor gives."""
        self._explain = explain
        return self

    @property
    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._state != _PENDING

    @property
    def seconds(self) -> float | None:
        """From submission to the end of the work on the device; None while it is not done."""
        return self._nanoseconds / 1e9 if self._state != _PENDING else None

    def __await__(self) -> Generator[Any, Any, T]:
        """Wait for the device.

        Raises:
            LaunchError: The driver refused the launch; nothing ran on the device.
            DeadlineExceeded: The deadline passed; the device may still be at it.
            DeviceLost: The context is unusable.
            DeviceError: The driver answered with another error.
            WrongLoop: The calling task runs in another loop than the one that opened the device.
        """
        if self._state == _PENDING:
            yield from self._port.wait(self)
        if self._state == _DONE:
            return cast("T", self._value)
        raise self.error()

    def error(self) -> DeviceError:
        """Return a new exception that says what went wrong, for a ticket that failed."""
        if self._state == _OVERDUE:
            return overdue(self.operation, self._nanoseconds / 1e9)
        lost = bool(self._flags & wire.IS_LOST)
        detail = self._explain(self._detail) if self._explain is not None and not lost else ""
        return device_error(self.operation, self._code, lost=lost, detail=detail)

    def __repr__(self) -> str:
        state = ("in flight", "done", "failed", "overdue")[self._state]
        return f"<Ticket {self._number} {self.operation}: {state}>"

    # --- the loop's thread, by the port ---------------------------------------------------------

    def _settle(self, code: int, flags: int, value: int, detail: int, nanoseconds: int) -> None:
        self._nanoseconds = nanoseconds
        self._code, self._flags, self._detail = code, flags, detail
        if flags & wire.EXPIRED:
            self._state = _OVERDUE
        elif code:
            self._state = _FAILED
        else:
            self._value = self._finish(value) if self._finish is not None else None
            self._state = _DONE
        waiters, self._waiters = self._waiters, None
        if waiters is not None:
            for waiter in waiters:
                self._port.wake(waiter)


class Port:
    """One event loop's way to the CUDA thread and back. Made in that loop.

    Attributes:
        loop: The loop.
        in_flight: Tickets that the device may still touch memory for, by number.
    """

    def __init__(self, thread: DeviceThread) -> None:
        self.loop = LoopHandle.current()
        self.thread = thread
        self.in_flight: dict[int, Ticket[Any]] = {}
        self._refusal: Callable[[], AjitError] | None = None
        self._library = wire.library()
        spin_seconds = SPIN_SECONDS if available_cpus() > 1 else 0.0
        self.handle = self._library.port_create(thread.handle, int(spin_seconds * 1e9))
        if not self.handle:
            raise OSError("no memory or no file descriptor is left for an event loop's eventfd")
        self._hogged_seconds = 0.0
        self._idle: anyio.Event | None = None
        self._map_memory()
        loop: Any = self.loop.native
        self._make_waiter = getattr(loop, "create_future", anyio.Event)
        self._calls_readers = hasattr(loop, "add_reader")
        if self._calls_readers:
            loop.add_reader(self._event_fd, self.drain)

    def _map_memory(self) -> None:
        layout = self._library.layout
        size = layout["port_records"] + wire.RECORDS * wire.RECORD_WORDS * 8
        whole = memoryview((ctypes.c_ubyte * size).from_address(self.handle)).cast("B")
        self._event_fd = int.from_bytes(whole[layout["port_event_fd"] :][:4], "little")
        self._wanted = whole[layout["port_wanted"] :][:8].cast("Q")
        self._records = whole[layout["port_records"] :].cast("Q")

    # --- submitting: any thread -----------------------------------------------------------------

    def submit(
        self,
        submission: bytes,
        number: int,
        operation: str,
        keep: object,
        finish: Callable[[int], T] | None = None,
    ) -> Ticket[T]:
        """Hand a submission to the CUDA thread. Never calls the driver.

        Args:
            submission: Packed header and operations; the header names this port and the number.
            number: From `DeviceThread.numbers`.
            operation: For messages.
            keep: Whatever must stay alive until the device is done.
            finish: Makes the ticket's result from the record's value.

        Raises:
            WouldBlock: The ring is full and stays full.
            DeviceLost: The context is unusable.
            RuntimeClosed: The device is closed.
            ForkedRuntime: This process is a fork of the one that opened the device.
        """
        if self._refusal is not None:
            raise self._refusal()
        ticket = Ticket(self, number, operation, keep, finish)
        # Before the push: the device may be done before the push returns.
        self.in_flight[number] = ticket
        answer = self._library.submit(submission)
        if answer:
            self._submit_again(submission, ticket, answer)
        return ticket

    def submit_last(self, submission: bytes, number: int) -> Ticket[None]:
        """Like `submit`, for the one submission that comes after the port was closed."""
        refusal, self._refusal = self._refusal, None
        try:
            return self.submit(submission, number, "close the device", None)
        finally:
            self._refusal = refusal

    def _submit_again(self, submission: bytes, ticket: Ticket[Any], answer: int) -> None:
        until = time.monotonic() + FULL_SECONDS
        while answer == wire.FULL and time.monotonic() < until:
            answer = self._library.submit(submission)
        if answer == wire.ACCEPTED:
            return
        del self.in_flight[ticket._number]
        raise self._refused(ticket.operation, answer)

    def _refused(self, operation: str, answer: int) -> AjitError:
        if answer == wire.LOST:
            return device_error(operation, self.thread.lost_code, lost=True)
        if answer == wire.FULL:
            return WouldBlock(
                f"{operation}: {self.thread.settings.ring_capacity} submissions wait for the CUDA "
                f"thread; await earlier tickets first, or raise ring_capacity"
            )
        if answer == wire.NO_MEMORY:
            return OutOfMemory(operation=operation, detail="no host memory for a submission")
        return self.thread.ended_error()

    def refusal(self) -> AjitError:
        """What a submission would raise now; only if `closed`."""
        return self._refusal() if self._refusal is not None else self.thread.ended_error()

    def refuse(self, refusal: Callable[[], AjitError]) -> None:
        """Raise this from every submission from now on."""
        self._refusal = refusal

    @property
    def closed(self) -> bool:
        """Whether submissions are refused."""
        return self._refusal is not None

    # --- waiting: the loop's tasks --------------------------------------------------------------

    def wait(self, ticket: Ticket[Any]) -> Generator[Any, Any, None]:
        """Wait until a ticket is settled. For `Ticket.__await__`."""
        if threading.get_ident() != self.loop.thread_id:
            raise WrongLoop(f"{ticket!r} belongs to another event loop; await it there")
        if self._refusal is not None:
            self._check_fork()
        if self._hogged_seconds < HOG_SECONDS:
            self._spin(ticket)
            if ticket._state != _PENDING:
                return
        self._hogged_seconds = 0.0
        yield from self._park(ticket)

    def _spin(self, ticket: Ticket[Any]) -> None:
        self._wanted[0] = ticket._number
        began = time.perf_counter()
        self._dispatch(self._library.port_wait(self.handle))
        self._hogged_seconds += time.perf_counter() - began

    def _park(self, ticket: Ticket[Any]) -> Generator[Any, Any, None]:
        self.drain()
        if ticket._state != _PENDING:
            yield from checkpoint().__await__()
            return
        waiter = self._make_waiter()
        if ticket._waiters is None:
            ticket._waiters = [waiter]
        else:
            ticket._waiters.append(waiter)
        try:
            yield from (waiter.wait() if isinstance(waiter, anyio.Event) else waiter).__await__()
        finally:
            if ticket._waiters is not None:
                ticket._waiters.remove(waiter)

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
        """Read the port until cancelled or closed. Needed where the loop calls no readers (trio)."""
        if self._calls_readers:
            await anyio.sleep_forever()
        while self.handle:  # a task may be started after the port was closed
            await anyio.wait_readable(self._event_fd)
            self.drain()

    def drain(self) -> None:
        """Settle every ticket that is done, and wake who waits for it."""
        count = wire.RECORDS
        while count == wire.RECORDS:
            count = self._library.port_drain(self.handle)
            self._dispatch(count)

    def _dispatch(self, count: int) -> None:
        words = self._records
        # A copy: `_finish` may run Python that comes back here.
        for at in range(0, count * wire.RECORD_WORDS, wire.RECORD_WORDS):
            number, meta, value, detail, nanoseconds = words[at : at + wire.RECORD_WORDS]
            flags = meta >> 32
            ticket = self.in_flight.get(number)
            if flags & wire.RETIRED:
                self.in_flight.pop(number, None)
            if ticket is None:
                continue
            if flags & wire.SETTLED:
                ticket._settle(_signed(meta), flags, value, detail, nanoseconds)
            elif value:
                self.thread.post(value)  # made after the ticket was given up
            if flags & wire.RETIRED:
                ticket._keep = None
        if self._idle is not None and not self.in_flight:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until the device is done with every ticket of this loop."""
        self.drain()
        while self.in_flight:
            self._idle = anyio.Event()
            await self._idle.wait()

    def close(self) -> None:
        """Stop reading. Tickets that are still in flight are never settled."""
        if self.handle:
            loop: Any = self.loop.native
            if self._calls_readers:
                loop.remove_reader(self._event_fd)
            self._wanted.release()
            self._records.release()
            handle, self.handle = self.handle, None
            self._library.port_release(handle)


def _signed(meta: int) -> int:
    code = meta & 0xFFFFFFFF
    return code - (1 << 32) if code & 0x80000000 else code
