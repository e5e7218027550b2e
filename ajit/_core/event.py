"""An event, its stamp, and who gets it: the base of `ajit._core.events`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from ajit._core.short_repr import short_repr

__all__ = ["Emitter", "Event", "Holder", "Stamp", "Subscriber"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The holder of a key's lease.

    Attributes:
        host: Host name.
        pid: Process id on that host.
        phase: ``queued``, ``compiling`` or ``publishing``.
        compiler: Compiler and version.
        age_seconds: Since it took the lease; only to its last beat if it is on another host.
        cpu_seconds: CPU time that its compiler had used at the last beat: while that grows, the
            compile makes progress.
    """

    host: str
    pid: int
    phase: str
    compiler: str
    age_seconds: float
    cpu_seconds: float = 0.0

    def __str__(self) -> str:
        """One line: ``pid 7 on node3, compiling with nvcc 13.0 for 2.0 s (1.9 s CPU)``."""
        used = f" ({self.cpu_seconds:.1f} s CPU)" if self.cpu_seconds else ""
        return (
            f"pid {self.pid} on {self.host}, {self.phase} with {self.compiler} "
            f"for {self.age_seconds:.1f} s{used}"
        )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Event:
    """Base: which spec and key an event is about.

    Two events are equal if they say the same, whenever and wherever that was.

    Attributes:
        name: The spec's label.
        key: Hex base key: of everything but what the compile reads. All events of a kernel have it.
        entry: The kernel's entry points, with commas; "" for a build, and where it is about none.
        unix_seconds: When it was emitted, by the wall clock; 0.0 before that, like the next.
        monotonic_seconds: The same by this machine's monotonic clock, for differences.
        pid: The process that emitted it.
        host: And its host.
    """

    name: str
    key: str
    entry: str = field(default="", compare=False)
    unix_seconds: float = field(default=0.0, compare=False)
    monotonic_seconds: float = field(default=0.0, compare=False)
    pid: int = field(default=0, compare=False)
    host: str = field(default="", compare=False)

    def __repr__(self) -> str:
        return short_repr(self, without=_ORIGIN)


_ORIGIN = ("entry", "unix_seconds", "monotonic_seconds", "pid", "host")


@dataclass(frozen=True, slots=True)
class Stamp:
    """When and where an event was emitted: `Event` says what each is."""

    unix_seconds: float
    monotonic_seconds: float
    pid: int
    host: str


Subscriber: TypeAlias = Callable[[Event], None]
"""Called in the runtime's event loop, between two steps of a resolution: it must not block."""


class Emitter:
    """The subscribers of one runtime. It belongs to the runtime's event loop.

    Callers check `listening` first, so that no event is built without a subscriber.

    Args:
        on_error: Called with a subscriber that raised, and with what it raised.
        stamp: Tells when and where an event is emitted.

    Attributes:
        failed: How often a subscriber has raised: that event was lost for it.
    """

    __slots__ = ("_on_error", "_stamp", "_subscribers", "failed")

    def __init__(
        self, on_error: Callable[[Subscriber, Exception], None], stamp: Callable[[], Stamp]
    ) -> None:
        self._subscribers: dict[object, Subscriber] = {}
        self._on_error = on_error
        self._stamp = stamp
        self.failed = 0

    @property
    def listening(self) -> bool:
        """Whether there is a subscriber."""
        return bool(self._subscribers)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Add a subscriber; the returned function removes it."""
        subscription = object()  # one function may subscribe twice, and leave once
        self._subscribers[subscription] = subscriber

        def unsubscribe() -> None:
            self._subscribers.pop(subscription, None)

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Hand an event to every subscriber, in order of subscription.

        A subscriber that raises is reported and does not disturb what it watches.
        """
        stamp = self._stamp()
        for name in Stamp.__slots__:
            object.__setattr__(event, name, getattr(stamp, name))
        for subscriber in tuple(self._subscribers.values()):  # they may leave meanwhile
            try:
                subscriber(event)
            except Exception as exc:  # noqa: BLE001  # a broken log line must not fail a kernel
                self.failed += 1
                self._on_error(subscriber, exc)
