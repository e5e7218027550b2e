"""Making a key, as a phase of a request that others see: in events, log and statistics.

A key is made of the compiler, the cache's reading lists and the headers that they name. Mostly that
takes a millisecond. A compiler that is slow to say its version, or thousands of headers on a cold
network disk, can take a minute, and what takes so long should not have to be guessed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ajit._core import events

if TYPE_CHECKING:
    from ajit._resolve.services import Services
    from ajit._system.batched_calls import Doing

__all__ = ["Making"]


class Making:
    """The making of one request's key. Belongs to the event loop."""

    __slots__ = ("_name", "_services")

    def __init__(self, services: Services, name: str) -> None:
        self._services, self._name = services, name

    def tell(self, doing: Doing, seconds: float) -> None:
        """It takes long: note it, and emit an event."""
        event = events.MakingKey(
            name=self._name,
            key="",
            doing="compiler" if doing == "prepare" else "files",
            waited_seconds=seconds,
        )
        self._services.making[self] = event
        if self._services.emitter.listening:
            self._services.emitter.emit(event)

    def end(self) -> None:
        """The key is made, or will not be."""
        self._services.making.pop(self, None)
