# a ticket and its port are two halves of one thing
"""Submissions: how work reaches the CUDA thread, and what happens when there is no room.

The ring of the CUDA thread is the one bound on what is on its way there. A submission takes a place
or is refused at once: nothing here waits for a place on the loop's thread. Whoever awaits waits in
order, and tries again; see `Submissions.patiently`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from ajit._gpu import wire
from ajit._gpu.results import device_error
from ajit._gpu.ticket import Ticket
from ajit.errors import AjitError, ArgumentError, OutOfMemory, WouldBlock

if TYPE_CHECKING:
    from ajit._gpu.thread import DeviceThread

__all__ = ["Submissions", "timeout_ns"]

T = TypeVar("T")

ROOM_SECONDS = 500e-6
"""How often whoever waits for room in a full ring looks. The CUDA thread frees a place within
microseconds unless the driver itself blocks."""

_make_ticket: Callable[..., Ticket[Any]] = partial(type.__call__, Ticket)
"""`Ticket.make` without its frame of Python: a launch is a matter of a microsecond."""


class Submissions:
    """The submitting half of a `Port`. Any thread may submit; only the loop's may await.

    Attributes:
        thread: The CUDA thread.
        handle: Address of the executor's port; None once it is closed.
        in_flight: Tickets that the device may still touch memory for, by number.
    """

    handle: Any

    def __init__(self, thread: DeviceThread) -> None:
        self.thread = thread
        self.in_flight: dict[int, Ticket[Any]] = {}
        self._refusal: Callable[[], AjitError] | None = None
        self._library = wire.library()
        self._room = anyio.Lock()  # whoever waits for room, in order

    def submit(
        self,
        submission: bytes,
        number: int,
        operation: str,
        keep: object,
        finish: Callable[[int], T] | None = None,
        *,
        steps: int = 0,
    ) -> Ticket[T]:
        """Hand a submission to the CUDA thread. Never calls the driver, and never waits.

        Args:
            submission: Packed header and operations; the header names this port and the number.
            number: From `DeviceThread.numbers`.
            operation: For messages.
            keep: Whatever must stay alive until the device is done.
            finish: Makes the ticket's result from the record's value.
            steps: How many of its operations can be awaited.

        Raises:
            WouldBlock: The ring is full.
            DeviceLost: The context is unusable.
            RuntimeClosed: The device is closed.
            ForkedRuntime: This process is a fork of the one that opened the device.
        """
        ticket: Ticket[T] = _make_ticket(self, number, operation, keep, finish, steps)
        # Before the push, for the device may be done before that returns; and before the look
        # at `_refusal`, so that whoever closes the port in another thread waits for this ticket.
        self.in_flight[number] = ticket
        if self._refusal is not None:
            del self.in_flight[number]
            raise self._refusal()
        answer = self._library.submit(submission)
        if answer:
            del self.in_flight[number]
            raise self._refused(operation, answer)
        return ticket

    def submit_operations(
        self,
        operations: bytes,
        operation: str,
        keep: object,
        finish: Callable[[int], T] | None,
        *,
        count: int = 1,
        stream: tuple[int, int] = (0, 0),
        timeout: float | None = None,
        timed: bool = False,
    ) -> Ticket[T]:
        """Submit packed operations. Takes and raises what `submit` does.

        Args:
            operations: The operations.
            operation: For messages.
            keep: Whatever must stay alive until the device is done.
            finish: Makes the ticket's result from the record's value.
            count: How many operations there are.
            stream: From `stream_target`.
            timeout: Time after which the ticket is overdue; None: as the settings say.
            timed: Whether the device tells how long it worked.
        """
        if self._refusal is not None:
            raise self._refusal()
        number = next(self.thread.numbers)
        submission = wire.submission(
            self.handle, number, operations, count=count, target=stream,
            deadline_ns=timeout_ns(timeout), timed=timed,
        )  # fmt: skip
        ticket = self.submit(submission, number, operation, keep, finish)
        return ticket.due_in(timeout)

    async def patiently(self, submit: Callable[[], Ticket[T]]) -> Ticket[T]:
        """Call a function that submits, again until the ring has room. Waiters go in order.

        Cancelling submits nothing.
        """
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
        refusal, self._refusal = self._refusal, None
        try:
            return self.submit(submission, number, "close the device", None)
        finally:
            self._refusal = refusal

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


def timeout_ns(seconds: float | None) -> int:
    """Return a timeout as the executor wants it; 0 means what the settings say.

    Raises:
        ArgumentError: It is no number above 0, or more than 500 years.
    """
    if seconds is None:
        return 0
    try:
        nanoseconds = max(1, int(seconds * 1e9)) if seconds > 0 else 0
    except (TypeError, ValueError, OverflowError):
        nanoseconds = 0
    if not 0 < nanoseconds < 1 << 64:
        raise ArgumentError(
            operation="submit", detail=f"a timeout of {seconds!r} s, must be above 0"
        )
    return nanoseconds
