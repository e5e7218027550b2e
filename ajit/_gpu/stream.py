"""Streams and events: several orders of work on one device, and what binds them together.

Work in one stream runs in the order of its submission; work in different streams runs in any order,
unless one waits for the other. Everything still goes through the one CUDA thread.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from ajit._core.factory import FactoryMade
from ajit._gpu import wire
from ajit._gpu.completion.ticket import Ticket
from ajit._gpu.inner import inner
from ajit._gpu.owned import Handled
from ajit.errors import ArgumentError

if TYPE_CHECKING:
    from ajit._gpu.completion.port import CompletionPort
    from ajit._gpu.completion.state import TicketState

__all__ = ["Event", "Stream", "stream_target", "wait_operation"]

LEGACY_STREAM = 1
"""``CU_STREAM_LEGACY`` of the driver."""


class Stream(Handled, metaclass=FactoryMade, factory="device.create_stream()"):
    """A stream of its own, which no default stream waits for. Get it with `Device.create_stream`.

    Attributes:
        priority: What it was asked for: lower numbers go first, as the driver has it.
    """

    __slots__ = ("_lane", "priority")

    _called = "stream"

    def __init__(self, port: CompletionPort, resource: int, priority: int) -> None:
        """Made by `Device.create_stream`."""
        self._lane = int(wire.Resource.from_address(resource).size)
        super().__init__(port, resource, 1 << self._lane)
        self.priority = priority

    def __cuda_stream__(self) -> tuple[int, int]:
        """The stream, for other libraries: version of the protocol, and handle."""
        return 0, self.handle

    def wait(self, what: Ticket[object] | Event | Stream) -> Ticket[None]:
        """Let what is submitted to this stream from now on wait for something in another one.

        Args:
            what: An event that was recorded; a ticket: then for everything that its stream has been
                given up to now, which is that ticket and may be more; or a stream, in the same way.

        Returns:
            The ticket of the wait itself; it need not be awaited.

        Raises:
            ArgumentError: It was freed, or is of another device.
            WouldBlock: Too many submissions wait for the CUDA thread. Nothing was submitted.
        """
        operation, keep = wait_operation(what, self._thread)
        return self._submit(operation, f"wait for {what!r}", keep)

    def mark(self) -> Ticket[None]:
        """Submit nothing: the ticket is done when everything submitted to the stream before is."""
        return self._submit(wire.simple(wire.MARK), f"wait for {self!r}", None)

    async def synchronize(self) -> None:
        """Wait until everything submitted to the stream before is done."""
        await (await self._port.patiently(self.mark))

    def _submit(self, operation: bytes, name: str, keep: object) -> Ticket[None]:
        target = stream_target(self, self._thread)
        return self._port.submit_operations(
            operation, self._port.new_state(name, (self, keep)), target=target
        )

    def __repr__(self) -> str:
        where = "freed" if self.freed else f"{self._pointer:#x}"
        return f"<Stream {where} priority={self.priority}>"


class Event(Handled, metaclass=FactoryMade, factory="device.create_event()"):
    """A point in a stream's work. Get it with `Device.create_event`.

    Attributes:
        timing: Whether it tells times, see `seconds_until`.
    """

    __slots__ = ("timing",)

    _called = "event"

    def __init__(self, port: CompletionPort, resource: int, timing: bool) -> None:  # noqa: FBT001  # private
        """Made by `Device.create_event`."""
        super().__init__(port, resource, wire.ALL_LANES)
        self.timing = timing

    def record(self, stream: object = None) -> Ticket[None]:
        """Submit the recording: the event happens when the stream gets there.

        Args:
            stream: Any stream, see `Kernel.launch`; None takes the device's own.

        Returns:
            The ticket; done when the event has happened.

        Raises:
            ArgumentError: It was freed, or the stream is none.
            WouldBlock: Too many submissions wait for the CUDA thread. Nothing was submitted.
        """
        operation = wire.simple(wire.RECORD_EVENT, self.handle)
        target = stream_target(stream, self._thread)
        state: TicketState[None] = self._port.new_state("record an event", (self, stream))
        return self._port.submit_operations(operation, state, target=target)

    async def seconds_until(self, later: Event) -> float:
        """Return how long the device took from this event to a later one; both have happened.

        Raises:
            ArgumentError: One was made without timing, or was freed.
            DeviceError: One was not recorded, or has not happened yet.
        """
        for event in (self, later):
            if not event.timing:
                raise ArgumentError(operation="time", detail=f"{event!r} was made without timing")
        pack, size = wire.ELAPSED_LAYOUT.pack, wire.ELAPSED_LAYOUT.size
        operation = pack(wire.ELAPSED, size, self.handle, later.handle, 0)

        def submit() -> Ticket[float]:
            name = "ask for the time between events"
            state = self._port.new_state(name, (self, later), _seconds)
            state.explain = _not_both
            return self._port.submit_operations(operation, state)

        return await (await self._port.patiently(submit))

    def __repr__(self) -> str:
        where = "freed" if self.freed else f"{self._pointer:#x}"
        return f"<Event {where}{' timing' if self.timing else ''}>"


def wait_operation(what: Any, thread: object) -> tuple[bytes, object]:
    """Return what lets a stream wait for something in another one, and what that uses.

    Args:
        what: An event, a ticket, or any stream, see `stream_target`.
        thread: The device.

    Raises:
        ArgumentError: It is none of these, was freed, or is of another device.
    """
    if isinstance(what, Ticket | Event):
        owner = inner(what).port.thread if isinstance(what, Ticket) else what._thread  # noqa: SLF001  # one module
        if owner is not thread:
            raise ArgumentError(operation="wait", detail=f"{what!r} is of another device")
    if isinstance(what, Event):
        return wire.simple(wire.WAIT, what.handle), what
    stream = what.stream if isinstance(what, Ticket) else what
    handle, _ = stream_target(stream, thread)
    return wire.simple(wire.JOIN, handle), stream


def stream_target(stream: object, thread: object) -> tuple[int, int]:
    """Return the driver's handle of a stream, and its lane on the CUDA thread.

    Args:
        stream: None for the device's own, a `Stream`, a handle, or an object of another library
            that has ``__cuda_stream__``.
        thread: The device that one of ajit's own must belong to.

    Raises:
        ArgumentError: It is none of these, was freed, or is of another device.
    """
    if stream is None:
        return 0, 0
    if isinstance(stream, Stream):
        if stream._thread is not thread:  # noqa: SLF001  # one module
            raise ArgumentError(operation="launch", detail=f"{stream!r} is of another device")
        return stream.handle, stream._lane  # noqa: SLF001  # the same
    return _foreign_handle(stream), wire.SHARED_LANE


def _foreign_handle(stream: Any) -> int:
    if not isinstance(stream, int) and not hasattr(stream, "__cuda_stream__"):
        detail = f"expected a stream, got {type(stream).__name__} (no __cuda_stream__)"
        raise ArgumentError(operation="launch", detail=detail)
    try:
        given = stream if isinstance(stream, int) else stream.__cuda_stream__()[1]
        handle = operator.index(given)
    except (TypeError, LookupError) as error:
        detail = f"__cuda_stream__ of a {type(stream).__name__} tells no handle: {error}"
        raise ArgumentError(operation="launch", detail=detail) from error
    if isinstance(stream, bool) or not 0 <= handle < 1 << 64:
        raise ArgumentError(operation="launch", detail=f"{stream!r} is no stream's handle")
    # 0 is how others name the legacy default stream; ajit's own default is None.
    return handle or LEGACY_STREAM


def _not_both(_: int) -> str:
    return (
        "both events have to be recorded, by event.record(), and to have happened: await the "
        "ticket of the later one first"
    )


def _seconds(nanoseconds: int) -> float:
    return nanoseconds / 1e9
