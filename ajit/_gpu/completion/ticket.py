"""Tickets: submitted device work that a task can await."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ajit._core.factory import FactoryMade
from ajit._gpu.completion.state import DONE, PENDING

if TYPE_CHECKING:
    from collections.abc import Generator

    from ajit._gpu.completion.state import BatchSteps, TicketState

__all__ = ["Step", "Ticket", "ticket_of"]

T = TypeVar("T")

_new = object.__new__


class Ticket(Generic[T], metaclass=FactoryMade, factory="a launch, a copy or batch.submit()"):
    """A submitted piece of device work. Awaiting it waits until the device is done with it.

    Any number of tasks of the loop that opened the device may await it, once or often. Cancelling
    the await only leaves: the work goes on, and its buffers stay alive until the device is done.
    Awaiting a ticket that is done already returns at once, mostly without giving other tasks a
    turn.

    It does not have to be awaited: what is submitted later to the same stream runs after it. If it
    fails and is dropped without having been awaited, that is an `AjitWarning`.
    """

    __slots__ = ("__weakref__", "_inner")

    _inner: TicketState[T]

    @property
    def operation(self) -> str:
        """What it does, as in messages: ``launch saxpy``."""
        return self._inner.operation

    @property
    def stream(self) -> object:
        """Where it was submitted to, as it was given; None for the device's own."""
        return self._inner.stream

    @property
    def done(self) -> bool:
        """Whether the outcome is known: the device is done, or waiting for it has ended."""
        return self._inner.outcome != PENDING

    @property
    def seconds(self) -> float | None:
        """From submission to the end of the work on the device.

        None while it is not done, and for good if it ran past its timeout.
        """
        return self._inner.seconds()

    @property
    def device_seconds(self) -> float | None:
        """How long the device worked, by its own clock, from the first operation to the last.

        None while it is not done, if it was not asked for (``timed=True``, or ``time_tickets`` in
        the settings), or if the driver did not tell. Other work that the device does meanwhile, in
        other streams, takes its time as well.
        """
        return self._inner.device_seconds()

    def __await__(self) -> Generator[Any, Any, T]:
        """Wait for the device.

        Raises:
            LaunchError: The driver refused the launch; nothing ran on the device.
            TicketTimeout: The timeout passed; the device may still be working on it.
            DeviceLost: The context is unusable.
            RuntimeClosed: The device was closed before it was done.
            DeviceError: The driver answered with another error.
            WrongLoop: The calling task runs in another loop than the one that opened the device.
        """
        state = self._inner
        if state.outcome == PENDING:
            waiting = state.port.waiting
            waiting.look_for(state)
            if state.outcome == PENDING:
                if state.waiters is None:
                    state.waiters = []
                yield from waiting.park(state, state.waiters, state.is_over)
        if state.outcome == DONE:
            return cast("T", state.value)
        raise state.error()

    def at(self, index: int) -> Step:
        """Return a step of a batch, to be awaited by itself: see `Device.batch`.

        Args:
            index: Of the operation, counted from 0 in the order in which they were added.

        Raises:
            IndexError: The ticket has no such step.
        """
        state = self._inner
        if state.steps is None:
            raise IndexError(f"{self!r} has no steps; open the batch with steps=True")
        index = operator.index(index)
        if not 0 <= index < state.steps.count:
            raise IndexError(f"{self!r} has no step {index}; its steps: {state.steps.count}")
        return Step.make(state, state.steps, index)

    def __repr__(self) -> str:
        return repr(self._inner)


class Step(metaclass=FactoryMade, factory="ticket.at()"):
    """One operation of a batch, by itself. Get it with `Ticket.at`."""

    __slots__ = ("_index", "_inner", "_steps")

    def __init__(self, state: TicketState[Any], steps: BatchSteps, index: int) -> None:
        self._inner, self._steps, self._index = state, steps, index

    @property
    def done(self) -> bool:
        """Whether it, and with it every operation before it, is known to be done."""
        return self._index in self._steps.done or self._inner.outcome == DONE

    @property
    def seconds(self) -> float | None:
        """From submission to the end of it on the device; None while it is not done.

        None for good where the device told of the whole only, as after an error.
        """
        nanoseconds = self._steps.done.get(self._index)
        return None if nanoseconds is None else nanoseconds / 1e9

    def _is_over(self) -> bool:
        return self.done or self._inner.outcome != PENDING

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait until the device is done with the operation. Raises what the ticket would.

        A step is done for good, even if a later operation of the batch fails.
        """
        state = self._inner
        if not self._is_over():
            waiting = state.port.waiting
            waiting.look_for(state)
            if not self._is_over():
                waiters = self._steps.waiters.setdefault(self._index, [])
                yield from waiting.park(state, waiters, self._is_over)
        if not self.done:
            raise state.error()

    def __repr__(self) -> str:
        return f"<Step {self._index} of {self._inner!r}: {'done' if self.done else 'not done'}>"


def ticket_of(state: TicketState[T]) -> Ticket[T]:
    """Return the ticket of a submission. Without a constructor's frame: a launch is 1 µs."""
    ticket: Ticket[T] = _new(Ticket)
    ticket._inner = state  # noqa: SLF001  # this is where they are made
    return ticket
