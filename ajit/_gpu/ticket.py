# ruff: noqa: SLF001  # a ticket and its steps are parts of one thing
"""Tickets: submitted device work that a task can await.

A ticket and its `Port` are two halves of one thing: the port settles the ticket and wakes who waits
for it. Everything here belongs to the thread of the loop that opened the device.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ajit._core.factory import FactoryMade
from ajit._gpu import wire
from ajit._gpu.results import device_error, overdue
from ajit.errors import RuntimeClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ajit._gpu.completion import Port
    from ajit.errors import AjitError

__all__ = ["PENDING", "Step", "Ticket"]

T = TypeVar("T")

PENDING, DONE, FAILED, OVERDUE, ABANDONED = range(5)
"""States of a ticket."""


class Ticket(Generic[T], metaclass=FactoryMade, factory="a launch, a copy or batch.submit()"):
    """A submitted piece of device work. Awaiting it waits until the device is done with it.

    Any number of tasks of the loop that opened the device may await it, once or often. Cancelling
    the await only leaves: the work goes on, and its buffers stay alive until the device is done.
    Awaiting a ticket that is done already returns at once, mostly without giving other tasks a
    turn.

    Attributes:
        operation: What it does, for messages.
        stream: Where it was submitted to, as it was given; None for the device's own.
        limit_seconds: Its own deadline, counted from its submission; 0.0: as the settings say.
    """

    __slots__ = (
        "__weakref__", "_code", "_detail", "_explain", "_finish", "_flags", "_keep", "_nanoseconds",
        "_number", "_port", "_state", "_steps", "_until", "_value", "_waiters",
        "limit_seconds", "operation", "stream",
    )  # fmt: skip

    def __init__(
        self,
        port: Port,
        number: int,
        operation: str,
        keep: object,
        finish: Callable[[int], T] | None = None,
        steps: int = 0,
    ) -> None:
        """Made by `Port.submit`.

        Args:
            port: The way to the loop.
            number: Unique on the CUDA thread.
            operation: For messages.
            keep: Whatever must stay alive until the device is done.
            finish: Makes the result from the record's value, in the loop.
            steps: How many operations say by themselves when they are done.
        """
        self.operation = operation
        self._port = port
        self._number = number
        self._keep = keep
        self._finish = finish
        self._state = PENDING
        self._waiters: list[Any] | None = None
        self._explain: Callable[[int], str] | None = None
        self._steps = _Steps(steps) if steps else None
        self._until: float | None = None  # when it is overdue, if that is not the device's default
        self.limit_seconds = 0.0
        self.stream: object = None

    def due_in(self, seconds: float | None) -> Ticket[T]:
        """Let waiting end at a deadline of its own; None: as the settings say."""
        if seconds is not None:
            self.limit_seconds = seconds
            self._until = time.monotonic() + seconds
        return self

    def explained_by(self, explain: Callable[[int], str]) -> Ticket[T]:
        """Let a function say more about a failure, from the number that the executor gives."""
        self._explain = explain
        return self

    @property
    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._state != PENDING

    @property
    def seconds(self) -> float | None:
        """From submission to the end of the work on the device; None while it is not done."""
        return self._nanoseconds / 1e9 if self._state != PENDING else None

    @property
    def device_seconds(self) -> float | None:
        """How long the device worked, by its own clock, from the first operation to the last.

        None while it is not done, if nobody asked for it (``timed=True``, or ``time_tickets`` in
        the settings), or if the driver did not tell. Other work that the device does meanwhile, in
        other streams, takes its time as well.
        """
        if self._state != DONE or not self._flags & wire.TIMED:
            return None
        return self._detail / 1e9

    def __await__(self) -> Generator[Any, Any, T]:
        """Wait for the device.

        Raises:
            LaunchError: The driver refused the launch; nothing ran on the device.
            TicketTimeout: The deadline passed; the device may still be at it.
            DeviceLost: The context is unusable.
            RuntimeClosed: The device was closed before it was done.
            DeviceError: The driver answered with another error.
            WrongLoop: The calling task runs in another loop than the one that opened the device.
        """
        if self._state == PENDING:
            self._port.look_for(self)
            if self._state == PENDING:
                if self._waiters is None:
                    self._waiters = []
                yield from self._port.park(self, self._waiters, self._is_settled)
        if self._state == DONE:
            return cast("T", self._value)
        raise self.error()

    def at(self, index: int) -> Step:
        """Return a step of a batch, to be awaited by itself: see `Device.batch`.

        Args:
            index: Of the operation, counted from 0 in the order in which they were added.

        Raises:
            IndexError: The ticket has no such step.
        """
        if self._steps is None or not 0 <= index < self._steps.count:
            raise IndexError(f"{self!r} has no step {index}; open the batch with steps=True")
        return Step.make(self, self._steps, index)

    def _is_settled(self) -> bool:
        return self._state != PENDING

    def error(self) -> AjitError:
        """Return a new exception that says what went wrong, for a ticket that failed."""
        if self._state == ABANDONED:
            return RuntimeClosed(f"{self.operation}: the device was closed before it finished")
        if self._state == OVERDUE:
            return overdue(self.operation, self._nanoseconds / 1e9)
        lost = bool(self._flags & wire.IS_LOST)
        detail = self._explain(self._detail) if self._explain is not None and not lost else ""
        return device_error(self.operation, self._code, lost=lost, detail=detail)

    def __repr__(self) -> str:
        state = ("in flight", "done", "failed", "overdue", "abandoned")[self._state]
        return f"<Ticket {self._number} {self.operation}: {state}>"

    # --- the loop's thread, by the port ---------------------------------------------------------

    def _settle(self, code: int, flags: int, value: int, detail: int, nanoseconds: int) -> None:
        self._nanoseconds = nanoseconds
        self._code, self._flags, self._detail = code, flags, detail
        if flags & wire.EXPIRED:
            self._state = OVERDUE
        elif code:
            self._state = FAILED
        else:
            # What was made, or, for a question, its answer.
            self._value = self._finish(value or detail) if self._finish is not None else None
            self._state = DONE
        self._wake()

    def _expire(self, state: int, nanoseconds: int) -> None:
        """Settle it without a word from the device."""
        self._state, self._nanoseconds = state, nanoseconds
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        if waiters is not None:
            for waiter in waiters:
                self._port.wake(waiter)
        if self._steps is not None:
            self._steps.wake_all(self._port)

    def _step_done(self, index: int) -> None:
        if self._steps is not None:
            self._steps.step_done(self._port, index)


class Step(metaclass=FactoryMade, factory="ticket.at()"):
    """One operation of a batch, by itself. Get it with `Ticket.at`."""

    __slots__ = ("_index", "_steps", "_ticket")

    def __init__(self, ticket: Ticket[Any], steps: _Steps, index: int) -> None:
        self._ticket, self._steps, self._index = ticket, steps, index

    @property
    def done(self) -> bool:
        """Whether it, and with it every operation before it, is known to be done."""
        return self._index in self._steps.done or self._ticket._state == DONE

    def _over(self) -> bool:
        return self.done or self._ticket._state != PENDING

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait until the device is done with the operation. Raises what the ticket would.

        A step is done for good, even if a later operation of the batch fails.
        """
        ticket = self._ticket
        if not self._over():
            ticket._port.look_for(ticket)
            if not self._over():
                waiters = self._steps.waiters.setdefault(self._index, [])
                yield from ticket._port.park(ticket, waiters, self._over)
        if not self.done:
            raise ticket.error()

    def __repr__(self) -> str:
        return f"<Step {self._index} of {self._ticket!r}: {'done' if self.done else 'not done'}>"


class _Steps:
    """Which operations of a batch are done, and who waits for which."""

    __slots__ = ("count", "done", "waiters")

    def __init__(self, count: int) -> None:
        self.count = count
        self.done: set[int] = set()
        self.waiters: dict[int, list[Any]] = {}

    def step_done(self, port: Port, index: int) -> None:
        self.done.add(index)
        for waiter in self.waiters.pop(index, ()):
            port.wake(waiter)

    def wake_all(self, port: Port) -> None:
        for index in list(self.waiters):
            for waiter in self.waiters.pop(index):
                port.wake(waiter)
