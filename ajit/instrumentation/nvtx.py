"""NVTX ranges and marks of what a runtime does, for NVIDIA's profilers.

Compiles, waits for other processes and stalls of the device are ranges; what is known only at its
end (kernels that are ready, entries that were read, modules that were loaded) is a mark. Kernels
and copies are shown by the profiler itself, by its own clock.

NVTX keeps each text for as long as the process lives, so texts are names of kernels and no keys.
Without a profiler nothing is kept, and a call is a function that returns.

Source: NVTX 3, ``nvToolsExt.h``; the library is NVIDIA's ``nvtx`` (the extra ``nvtx``).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import nvtx  # type: ignore[import-untyped]  # it has no types

from ajit import events

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit import Runtime

__all__ = ["annotate"]

DOMAIN = "ajit"

MOST_OPEN = 1000
"""Ranges that are kept until their end; beyond it the oldest is ended."""

MOST_CHARACTERS = 200
"""Of a text."""

_BEGINS: dict[type[events.Event], str] = {
    events.CompileStarted: "compile",
    events.Waiting: "wait",
    events.DeviceStalled: "stall",
}
_ENDS: dict[type[events.Event], str] = {
    events.CompileFinished: "compile",
    events.CompileFailed: "compile",
    events.CompileCancelled: "compile",
    events.WaitEnded: "wait",
    events.DeviceResumed: "stall",
    events.DeviceLost: "stall",
}
_MARKS: dict[type[events.Event], str] = {
    events.BundleReady: "ready",
    events.CacheUnresponsive: "cache does not answer",
    events.CompileCancelled: "compile cancelled",
    events.CompileFailed: "compile failed",
    events.DeviceLost: "device lost",
    events.EntryRead: "read",
    events.EntryRejected: "rejected",
    events.FallbackUsed: "fallback",
    events.KernelReady: "ready",
    events.ModuleLoaded: "loaded",
}


@contextmanager
def annotate(rt: Runtime) -> Iterator[None]:
    """Tell a profiler what a runtime does while the block runs, in the domain ``ajit``.

    Args:
        rt: The runtime; of this event loop.
    """
    ranges = _Ranges(nvtx.get_domain(DOMAIN))
    stop = rt.subscribe(ranges)
    try:
        yield
    finally:
        stop()
        ranges.close()


class _Ranges:
    """Makes ranges and marks of events. Belongs to the runtime's loop."""

    def __init__(self, domain: Any) -> None:
        self._domain = domain
        self._open: dict[tuple[str, str], Any] = {}

    def __call__(self, event: events.Event) -> None:
        """Begin or end a range, or set a mark."""
        kind = type(event)
        if (begun := _BEGINS.get(kind)) is not None:
            self._begin(begun, event)
        if (ended := _ENDS.get(kind)) is not None:
            self._end(ended, event.key)
        if (mark := _MARKS.get(kind)) is not None:
            self._domain.mark(self._attributes(mark, event))

    def close(self) -> None:
        """End what goes on."""
        for number in self._open.values():
            self._domain.end_range(number)
        self._open.clear()

    def _begin(self, what: str, event: events.Event) -> None:
        if (what, event.key) in self._open:  # a wait tells of itself each second
            return
        if len(self._open) >= MOST_OPEN:
            self._end(*next(iter(self._open)))
        number = self._domain.start_range(self._attributes(what, event))
        self._open[what, event.key] = number

    def _end(self, what: str, key: str) -> None:
        number = self._open.pop((what, key), None)
        if number is not None:
            self._domain.end_range(number)

    def _attributes(self, what: str, event: events.Event) -> Any:
        text = f"{what} {event.name[:MOST_CHARACTERS]}".strip()
        return self._domain.get_event_attributes(message=text, category=what)
