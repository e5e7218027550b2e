"""What is known of a submission: the state behind a `Ticket`.

Made by the submitter, settled by the port, read by the tasks that wait. Owned by the thread of
the loop that opened the device, but for its making.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ajit._gpu import wire
from ajit._gpu.completion.unheard import UnheardFailure
from ajit._gpu.results import device_error, overdue
from ajit.errors import ArgumentError, RuntimeClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._gpu.completion.port import CompletionPort
    from ajit.errors import AjitError

__all__ = ["ABANDONED", "DONE", "FAILED", "OVERDUE", "PENDING", "BatchSteps", "TicketState"]

T = TypeVar("T")

PENDING, DONE, FAILED, OVERDUE, ABANDONED = range(5)
"""Outcomes of a submission."""


class TicketState(Generic[T]):
    """One submission, from its making to its outcome.

    Attributes:
        number: Unique on the CUDA thread.
        operation: What it does, for messages.
        keep: What must stay alive until the device is done.
        finish: Makes the result from the record's value, in the loop.
        explain: Says more about a failure, from the number that the executor gives.
        stream: Where it was submitted to, as it was given; None for the device's own.
        steps: Which operations of a batch are done, if it was opened with ``steps=True``.
        until: When it is overdue by the loop's clock, if that is not the device's default.
        port: The way to the loop. Set by `CompletionPort.submit`.
        outcome: `PENDING`, `DONE`, ...
        value: What was made, once it is `DONE`.
        nanoseconds: From submission to the end of the work, or of the wait for it.
        waiters: What wakes the tasks that wait for all of it; None: no task waits.
        watched: What those who watch tickets have noted at its submission; None: nothing.
    """

    __slots__ = (
        "code", "detail", "explain", "finish", "flags", "keep", "nanoseconds", "number",
        "operation", "outcome", "port", "steps", "stream", "timeout", "unheard", "until", "value",
        "waiters", "watched",
    )  # fmt: skip

    port: CompletionPort
    timeout: float
    value: T | None

    def __init__(
        self,
        number: int,
        operation: str,
        keep: object,
        finish: Callable[[int], T] | None = None,
    ) -> None:
        self.number, self.operation, self.keep, self.finish = number, operation, keep, finish
        self.outcome = PENDING
        self.waiters: list[Any] | None = None
        self.explain: Callable[[int], str] | None = None
        self.steps: BatchSteps | None = None
        self.stream: object = None
        self.until: float | None = None
        self.watched: dict[object, object] | None = None

    def due_in(self, seconds: float | None) -> int:
        """Let waiting end after a timeout; returns it as the executor wants it.

        Args:
            seconds: From now on; None: as the settings say.

        Raises:
            ArgumentError: It is no number above 0, or too large.
        """
        if seconds is None:
            return 0
        nanoseconds = _timeout_ns(seconds)
        self.timeout = seconds
        self.until = time.monotonic() + seconds
        return nanoseconds

    # --- read by tickets ------------------------------------------------------------------------

    def is_over(self) -> bool:
        """Whether the outcome is known."""
        return self.outcome != PENDING

    def seconds(self) -> float | None:
        """See `Ticket.seconds`."""
        return self.nanoseconds / 1e9 if self.outcome in (DONE, FAILED) else None

    def device_seconds(self) -> float | None:
        """See `Ticket.device_seconds`."""
        if self.outcome != DONE or not self.flags & wire.TIMED:
            return None
        return float(self.detail / 1e9)

    def error(self) -> AjitError:
        """Return a new exception that says what went wrong, for one that failed.

        It is then taken for heard.
        """
        if self.outcome == ABANDONED:
            return RuntimeClosed(f"{self.operation}: the device was closed before it finished")
        if self.unheard is not None:
            self.unheard.hear()
        if self.outcome == OVERDUE:
            return overdue(self.operation, self.nanoseconds / 1e9)
        return self._failure()

    def _failure(self) -> AjitError:
        lost = bool(self.flags & wire.IS_LOST)
        detail = self.explain(self.detail) if self.explain is not None and not lost else ""
        return device_error(self.operation, self.code, lost=lost, detail=detail)

    @property
    def outcome_name(self) -> str:
        """The outcome as a word."""
        return ("in flight", "done", "failed", "overdue", "abandoned")[self.outcome]

    # --- by the port ----------------------------------------------------------------------------

    def settle(self, code: int, flags: int, value: int, detail: int, nanoseconds: int) -> None:
        """Take the device's answer, and wake every task that waits."""
        self.nanoseconds = nanoseconds
        self.code, self.flags, self.detail = code, flags, detail
        if flags & wire.EXPIRED:
            self._end_overdue()
        elif code:
            self.outcome = FAILED
            # Of the tickets that a lost device takes along, one is enough to tell of it.
            told = bool(flags & wire.IS_LOST) and self.port.loss_told
            self.port.loss_told |= bool(flags & wire.IS_LOST)
            self.unheard = None if told else UnheardFailure(str(self._failure()))
        else:
            # What was made, or, for a question, its answer.
            self.value = self.finish(value or detail) if self.finish is not None else None
            self.outcome = DONE
        self._wake_all()
        self._tell_watches()

    def expire(self, outcome: int, nanoseconds: int) -> None:
        """Settle it without an answer of the device."""
        self.outcome, self.nanoseconds = outcome, nanoseconds
        if outcome == OVERDUE:
            self._end_overdue()
        self._wake_all()
        self._tell_watches()

    def _end_overdue(self) -> None:
        self.outcome = OVERDUE
        self.unheard = UnheardFailure(f"{self.operation}: ran past its timeout")

    def step_done(self, index: int, nanoseconds: int) -> None:
        """Note that the device is done with an operation of the batch, and wake its waiters."""
        if self.steps is not None:
            self.steps.done[index] = nanoseconds
            self._wake(self.steps.waiters.pop(index, ()))

    def _wake_all(self) -> None:
        waiters, self.waiters = self.waiters, None
        if waiters is not None:
            self._wake(waiters)
        if self.steps is not None:
            for index in list(self.steps.waiters):
                self._wake(self.steps.waiters.pop(index))

    def _tell_watches(self) -> None:
        for watch in self.port.watches:
            watch.end(self)

    def _wake(self, waiters: Any) -> None:
        for waiter in waiters:
            self.port.waiting.wake(waiter)

    def __repr__(self) -> str:
        return f"<Ticket {self.number} {self.operation}: {self.outcome_name}>"


class BatchSteps:
    """Which operations of a batch are done, and what waits for which.

    Attributes:
        count: How many operations there are.
        done: By their index, when those that are done were, in nanoseconds after the submission.
        waiters: What wakes the tasks that wait for an operation, by its index.
    """

    __slots__ = ("count", "done", "waiters")

    def __init__(self, count: int) -> None:
        self.count = count
        self.done: dict[int, int] = {}
        self.waiters: dict[int, list[Any]] = {}


def _timeout_ns(seconds: float) -> int:
    """Return a timeout as the executor wants it; above 0, and less than 500 years."""
    try:
        nanoseconds = max(1, int(seconds * 1e9)) if seconds > 0 else 0
    except (TypeError, ValueError, OverflowError):
        nanoseconds = 0
    if not 0 < nanoseconds < 1 << 64:
        raise ArgumentError(
            operation="submit", detail=f"a timeout of {seconds!r} s, must be above 0"
        )
    return nanoseconds
