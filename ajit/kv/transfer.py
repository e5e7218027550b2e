"""A load or a save that was submitted: awaited as a whole, layer by layer, or by streams."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from ajit._core.factory import FactoryMade
from ajit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from ajit._gpu.completion.ticket import Step, Ticket
    from ajit._gpu.page_map import PageMap
    from ajit._gpu.stream import Event

__all__ = ["Transfer"]


class Transfer(metaclass=FactoryMade, factory="await pages.load() or pages.save()"):
    """A submitted load or save. Awaiting it waits until the device is done with it.

    Any number of tasks may await it, once or often. Cancelling an await only leaves: the copies go
    on, and the memory of both sides is kept until they are done. The engine must leave the pages
    alone until then.

    Attributes:
        ticket: Of all of it.
        nbytes: How much it copies.
        layers_per_step: How many layers become ready at a time.
    """

    __slots__ = ("__weakref__", "_events", "_layers", "_map", "layers_per_step", "nbytes", "ticket")

    def __init__(
        self,
        page_map: PageMap,
        ticket: Ticket[None],
        events: Sequence[Event],
        layers: int,
        layers_per_step: int,
        nbytes: int,
    ) -> None:
        """Made by `Pages`."""
        self._map, self.ticket, self._events = page_map, ticket, events
        self._layers, self.layers_per_step, self.nbytes = layers, layers_per_step, nbytes

    @property
    def done(self) -> bool:
        """Whether the outcome is known."""
        return self.ticket.done

    @property
    def seconds(self) -> float | None:
        """From submission to the end of the copies on the device; None while they go on."""
        return self.ticket.seconds

    @property
    def device_seconds(self) -> float | None:
        """How long the device worked, see `Ticket.device_seconds`."""
        return self.ticket.device_seconds

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait for all of it. Raises what awaiting a `Ticket` does."""
        return self.ticket.__await__()

    def layer(self, index: int) -> Step:
        """Return a layer, to be awaited: all of its planes are there then.

        A layer is there for good, even if a later one fails.

        Raises:
            IndexError: There is no such layer.
        """
        return self.ticket.at(self._step(index))

    def gate(self, stream: object, index: int) -> Ticket[None]:
        """Let a stream wait on the device for a layer; the host does not wait.

        What the stream is given from now on comes after the copies of that layer.

        Args:
            stream: Any stream: of ajit, of another library, or None for the device's own.
            index: Of the layer.

        Returns:
            The ticket of the wait itself, as `Stream.wait` has; it need not be awaited.

        Raises:
            IndexError: There is no such layer.
            UsageError: It was not submitted with ``gates=True``.
            WouldBlock: Too many submissions wait for the CUDA thread. Nothing was submitted;
                ``await device.submit(transfer.gate, stream, index)`` waits instead.
        """
        step = self._step(index)
        if not self._events:
            raise UsageError(f"{self!r} has no gates; submit it with gates=True")
        return self._map.hold(stream, self._events[step])

    def _step(self, index: int) -> int:
        index = operator.index(index)
        if not 0 <= index < self._layers:
            raise IndexError(f"{self!r} has no layer {index}; its layers: {self._layers}")
        return index // self.layers_per_step

    def __repr__(self) -> str:
        state = "done" if self.done else "in flight"
        return f"<Transfer of {self.nbytes} bytes, {self._layers} layers: {state}>"
