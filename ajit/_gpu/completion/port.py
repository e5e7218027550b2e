"""Completion ports: one event loop's way to the CUDA thread and back.

There: the ring of the CUDA thread is the one bound on what is on its way. A submission takes a
place in it or is refused at once; nothing waits for a place on the loop's thread. Tasks that want
to wait for one do so in order, see `CompletionPort.patiently`.

Back: the host function that runs after a ticket's work pushes it on the port's list and writes the
port's eventfd. The loop reads the list and wakes every task that waits for a finished ticket, all
in one turn. asyncio and uvloop call the reader directly (``add_reader``); trio has no such
callback, there `CompletionPort.serve` waits for the descriptor in a task.

Owned by the loop's thread: everything but `CompletionPort.submit`, which any thread may call.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from ajit._gpu import wire
from ajit._gpu.completion.port_memory import PortMemory
from ajit._gpu.completion.state import ABANDONED, PENDING, TicketState
from ajit._gpu.completion.ticket import ticket_of
from ajit._gpu.completion.waiting import TicketWaiting, look_limits_ns
from ajit._gpu.results import device_error
from ajit._system.loop import LoopHandle
from ajit.errors import AjitError, OutOfMemory, WouldBlock, WrongLoop

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._gpu.completion.thread import DeviceThread
    from ajit._gpu.completion.ticket import Ticket
    from ajit._gpu.completion.watching import TicketWatch

__all__ = ["CompletionPort"]

T = TypeVar("T")

ROOM_SECONDS = 500e-6
"""How often a task that waits for room in a full ring looks. The CUDA thread frees a place within
microseconds unless the driver itself blocks."""

_abandoned: list[object] = []
"""What abandoned tickets use: never freed, for a device that hangs may wake up and write there."""


class CompletionPort:
    """One event loop's way to the CUDA thread and back. Made in that loop.

    Attributes:
        thread: The CUDA thread.
        loop: The loop.
        memory: What is shared with the executor.
        handle: The address of that; 0 once the port is closed.
        waiting: How tasks of the loop wait.
        in_flight: Tickets that the device may still touch memory for, by number.
        refusal: What makes the error that every submission raises; None while the port is open.
        loss_told: Whether a ticket carries the warning that the device is lost.
        watches: Those who are told of every ticket.
    """

    def __init__(self, thread: DeviceThread) -> None:
        self.thread = thread
        self.loop = LoopHandle.current()
        self.memory = PortMemory(thread.handle, *look_limits_ns())
        self.handle = self.memory.handle
        self.in_flight: dict[int, TicketState[Any]] = {}
        self.refusal: Callable[[], AjitError] | None = None
        self.loss_told = False
        self.watches: tuple[TicketWatch, ...] = ()
        self.waiting = TicketWaiting(self)
        self._submit = wire.library().submit
        self._room = anyio.Lock()  # tasks that wait for room, in order
        self._idle: anyio.Event | None = None
        loop: Any = self.loop.native
        self._calls_readers = hasattr(loop, "add_reader")
        if self._calls_readers:
            loop.add_reader(self.memory.event_fd, self.drain)

    # --- submitting: any thread -----------------------------------------------------------------

    def submit(self, submission: bytes, state: TicketState[T]) -> Ticket[T]:
        """Hand a submission to the CUDA thread. Never calls the driver, and never waits.

        Args:
            submission: Packed header and operations; the header names this port and the number.
            state: Of the submission, with a number from `DeviceThread.numbers`.

        Raises:
            WouldBlock: The ring is full.
            DeviceLost: The context is unusable.
            RuntimeClosed: The device is closed.
            ForkedRuntime: This process is a fork of the one that opened the device.
        """
        state.port = self
        for watch in self.watches:
            watch.begin(state)
        # Before the push, for the device may be done before that returns; and before the look
        # at `refusal`, so that a thread which closes the port waits for this ticket.
        self.in_flight[state.number] = state
        if self.refusal is not None:
            del self.in_flight[state.number]
            raise self.refusal()
        answer = self._submit(submission)
        if answer:
            del self.in_flight[state.number]
            raise self._refused(state.operation, answer)
        return ticket_of(state)

    def new_state(
        self, operation: str, keep: object, finish: Callable[[int], T] | None = None
    ) -> TicketState[T]:
        """Return the state of a submission to come; see there."""
        return TicketState(next(self.thread.numbers), operation, keep, finish)

    def submit_operations(
        self,
        operations: bytes,
        state: TicketState[T],
        *,
        count: int = 1,
        target: tuple[int, int] = (0, 0),
        timeout: float | None = None,
        timed: bool = False,
    ) -> Ticket[T]:
        """Submit packed operations. Raises what `submit` does.

        Args:
            operations: The operations.
            state: From `new_state`.
            count: How many operations there are.
            target: From `stream_target`.
            timeout: Time after which the ticket is overdue; None: as the settings say.
            timed: Whether the device tells how long it worked.

        Raises:
            ArgumentError: The timeout is no number above 0.
        """
        self.check_open()
        deadline_ns = state.due_in(timeout)
        submission = wire.submission(
            self.handle, state.number, operations, count=count, target=target,
            deadline_ns=deadline_ns, timed=timed,
        )  # fmt: skip
        return self.submit(submission, state)

    async def patiently(self, submit: Callable[[], Ticket[T]]) -> Ticket[T]:
        """Call a function that submits, again until the ring has room. Tasks go in order.

        Cancelling submits nothing.

        Raises:
            WrongLoop: The calling task runs in another loop. Nothing was submitted.
        """
        self.check_fork()
        if threading.get_ident() != self.loop.thread_id:
            raise WrongLoop(
                "the device was opened in another event loop; open a runtime in each loop"
            )
        if not self._room.statistics().tasks_waiting:
            try:
                return submit()
            except WouldBlock:
                pass
        async with self._room:
            while True:
                try:
                    return submit()
                except WouldBlock:
                    await anyio.sleep(ROOM_SECONDS)

    def submit_last(self, submission: bytes, number: int) -> Ticket[None]:
        """Like `submit`, for the one submission that comes after the port was closed."""
        refusal, self.refusal = self.refusal, None
        try:
            return self.submit(submission, TicketState(number, "close the device", None))
        finally:
            self.refusal = refusal

    def _refused(self, operation: str, answer: int) -> AjitError:
        if answer == wire.LOST:
            return device_error(operation, self.thread.lost_code, lost=True)
        if answer == wire.FULL:
            return WouldBlock(
                f"{operation}: {self.thread.settings.ring_capacity} submissions wait for the CUDA "
                f"thread; use device.submit, await earlier tickets, or raise ring_capacity"
            )
        if answer == wire.NO_MEMORY:
            return OutOfMemory(operation=operation, detail="no host memory for a submission")
        return self.thread.ended_error()

    # --- refusing -------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether submissions are refused."""
        return self.refusal is not None

    def closed_error(self) -> AjitError:
        """What a submission would raise now; only if `closed`."""
        return self.refusal() if self.refusal is not None else self.thread.ended_error()

    def check_open(self) -> None:
        """Raise what a submission would raise, if the port is closed."""
        if self.refusal is not None:
            raise self.refusal()

    def check_fork(self) -> None:
        """Raise if this process is a fork of the one that opened the device.

        Raises:
            ForkedRuntime: It is.
        """
        if self.thread.forked:
            self.check_open()

    # --- draining: the loop's thread ------------------------------------------------------------

    async def serve(self) -> None:
        """Watch the tickets until cancelled, and read the port where the loop does not (trio)."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.waiting.expire_stuck, self.thread.settings.ticket_timeout_seconds)
            tasks.start_soon(self.waiting.notice_turns)
            while self.handle and not self._calls_readers:
                await anyio.wait_readable(self.memory.event_fd)
                self.drain()

    def drain(self) -> None:
        """Settle every ticket that is done, and wake the tasks that wait for it."""
        count = wire.RECORDS
        while count == wire.RECORDS:
            count = self.memory.drain()
            self.dispatch(count)

    def dispatch(self, count: int) -> None:
        """Settle the tickets of so many records, and wake the tasks that wait for them."""
        in_flight, records = self.in_flight, self.memory.records
        size, unpack = wire.RECORD.size, wire.RECORD.unpack_from
        for offset in range(0, count * size, size):
            number, code, flags, value, detail, nanoseconds = unpack(records, offset)
            retired = flags & wire.RETIRED
            state = in_flight.pop(number, None) if retired else in_flight.get(number)
            if state is None:
                continue
            if flags & wire.STEPPED:
                state.step_done(detail, nanoseconds)
                continue
            if flags & wire.SETTLED and state.outcome == PENDING:
                state.settle(code, flags, value, detail, nanoseconds)
            elif value:
                self.thread.post(value)  # made after the ticket was given up
            if retired:
                state.keep = None
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
        if not self.handle:
            return
        for state in self.in_flight.values():
            if state.outcome == PENDING:
                state.expire(ABANDONED, 0)
        _abandoned.extend(state.keep for state in self.in_flight.values())
        loop: Any = self.loop.native
        if self._calls_readers:
            loop.remove_reader(self.memory.event_fd)
        self.handle = 0
        self.memory.release()
