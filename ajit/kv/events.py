"""What a store and its service say they do, one frozen dataclass for each step.

::

    KvEvent
    ├── PrefixFound      a lookup, how much of it was here, and how long it took
    ├── ChunksStored     chunks were committed
    ├── ChunksEvicted    chunks gave way while memory was reserved
    ├── StoreBusy        a reservation was refused: no memory could be taken
    ├── SlabAdded        memory was taken from the system
    ├── SlabRefused      the system had none: the store goes on with what it has
    ├── ReservationLate  a reservation was dropped, for it took too long
    ├── ClientJoined     a client has connected
    ├── ClientLost       a connection has ended, with what is still held for its process
    ├── ClientGone       all that a client held was given back
    └── ClientRejected   a connection was closed for what it sent

Subscribe with `Store.subscribe` or `Service.subscribe`. With no subscriber none is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ajit._core.short_repr import short_repr

__all__ = [
    "ChunksEvicted",
    "ChunksStored",
    "ClientGone",
    "ClientJoined",
    "ClientLost",
    "ClientRejected",
    "KvEmitter",
    "KvEvent",
    "KvSubscriber",
    "PrefixFound",
    "ReservationLate",
    "SlabAdded",
    "SlabRefused",
    "StoreBusy",
]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class KvEvent:
    """Base of all events of a store."""

    def __repr__(self) -> str:
        return short_repr(self)


KvSubscriber: TypeAlias = Callable[[KvEvent], None]
"""Called in the store's event loop, between two requests: it must not block."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PrefixFound(KvEvent):
    """A lookup was answered.

    Attributes:
        namespace: Hex digest.
        wanted: Chunks of the prompt.
        found: Chunks that were here.
        size_bytes: Of those.
        seconds: That the books took.
    """

    namespace: str
    wanted: int
    found: int
    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ChunksStored(KvEvent):
    """Chunks were committed: lookups find them."""

    chunks: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ChunksEvicted(KvEvent):
    """Chunks gave way while memory was reserved.

    Attributes:
        chunks: How many.
        namespace: Hex digest of the namespace that needed the memory.
    """

    chunks: int
    namespace: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class StoreBusy(KvEvent):
    """A reservation was refused: all memory is leased, reserved, or beyond a quota or credit.

    Attributes:
        namespace: Hex digest.
        wanted: Chunks that were asked for.
    """

    namespace: str
    wanted: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SlabAdded(KvEvent):
    """Memory was taken from the system.

    Attributes:
        slabs: How many there are now.
        size_bytes: Of the new one.
        huge: Whether it has huge pages for certain.
        seconds: That the system took.
    """

    slabs: int
    size_bytes: int
    huge: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SlabRefused(KvEvent):
    """The system had no memory, descriptor or thread for a slab. It is asked again later.

    Attributes:
        slabs: How many there are.
        size_bytes: Of the one that was wanted.
        problem: What the system said.
    """

    slabs: int
    size_bytes: int
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ReservationLate(KvEvent):
    """Reservations took longer than `StoreOptions.reserve_seconds`: others may store their chunks.

    Attributes:
        reservations: How many.
    """

    reservations: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ClientJoined(KvEvent):
    """A client has connected.

    Attributes:
        pid: Its process; 0 if that is in another pid namespace.
        clients: How many there are now.
    """

    pid: int
    clients: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ClientLost(KvEvent):
    """A connection has ended while something was held. It is kept while its process may copy."""

    pid: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ClientGone(KvEvent):
    """All that a client held was given back.

    Attributes:
        pid: Its process.
        kept_seconds: For how long it was kept after the connection had ended.
    """

    pid: int
    kept_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ClientRejected(KvEvent):
    """A connection was closed for what it sent.

    Attributes:
        pid: Its process.
        reason: What was wrong with it.
    """

    pid: int
    reason: str


class KvEmitter:
    """The subscribers of one store. It belongs to the store's event loop.

    Callers check `listening` first, so that no event is built without a subscriber.
    """

    __slots__ = ("_on_error", "_subscribers")

    def __init__(self, on_error: Callable[[str], None]) -> None:
        self._subscribers: dict[object, KvSubscriber] = {}
        self._on_error = on_error

    @property
    def listening(self) -> bool:
        """Whether there is a subscriber."""
        return bool(self._subscribers)

    def subscribe(self, subscriber: KvSubscriber) -> Callable[[], None]:
        """Add a subscriber; the returned function removes it."""
        subscription = object()  # one function may subscribe twice, and leave once
        self._subscribers[subscription] = subscriber

        def unsubscribe() -> None:
            self._subscribers.pop(subscription, None)

        return unsubscribe

    def emit(self, event: KvEvent) -> None:
        """Hand an event to every subscriber. One that raises is reported, and disturbs nothing."""
        for subscriber in tuple(self._subscribers.values()):
            try:
                subscriber(event)
            except Exception as exc:  # noqa: BLE001  # a broken metric must not fail a request
                self._on_error(f"a subscriber of a KV store failed: {type(exc).__name__}: {exc}")
