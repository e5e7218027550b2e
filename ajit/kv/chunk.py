"""One chunk in the index, and what owners hold of it. Plain data: `ajit.kv.ledger` writes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from ajit.kv.slots import State

__all__ = [
    "Chunk",
    "Counts",
    "Found",
    "Held",
    "Limits",
    "Owner",
    "Refusal",
    "Reserved",
    "Space",
    "Writing",
]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Space:
    """A namespace, as the store knows it.

    Attributes:
        digest: Of the namespace.
        chunk_bytes: Size of each chunk.
        tenant: Who its quota is counted for; empty for those without a salt.
    """

    digest: bytes
    chunk_bytes: int
    tenant: bytes = b""


@dataclass(slots=True, eq=False)
class Chunk:
    """One chunk and its slot, from the reservation until its memory is used again.

    Attributes:
        digest: Its name.
        space: What it belongs to.
        parent: The chunk before it; None for the first one of a prompt.
        slot: Number of its slot.
        state: Of its slot.
        children: Chunks that follow it.
        leases: How many leases end at it.
        writer: The owner that may write it.
        checksum: What its writer said of the bytes; 0 if nothing.
        hits: See `ajit.kv.fifo.Entry`.
        in_main: The same.
        queued: The same.
    """

    digest: bytes
    space: Space
    parent: Chunk | None
    slot: int
    state: State = State.FREE
    children: set[Chunk] = field(default_factory=set)
    leases: int = 0
    writer: int | None = None
    checksum: int = 0
    hits: int = 0
    in_main: bool = False
    queued: bool = False

    def __repr__(self) -> str:
        return f"<Chunk {self.digest.hex()[:8]} {self.state.value} slot={self.slot:#x}>"


class Found(NamedTuple):
    """What a lookup has found.

    Attributes:
        lease: Number of the lease that holds it; 0 if there is none.
        chunks: The longest part of the prompt, from its start, that is here.
        pending: Whether the next chunk is being stored right now.
    """

    lease: int
    chunks: list[Chunk]
    pending: bool


class Reserved(NamedTuple):
    """Slots to be written.

    Attributes:
        reservation: Its number.
        first: How many of the digests that were given are here already.
        chunks: The ones after that, as many as there is room for.
    """

    reservation: int
    first: int
    chunks: list[Chunk]


class Refusal(NamedTuple):
    """Why nothing is reserved.

    Attributes:
        reason: ``stored``: all of it is here. ``pending``: another engine stores it right now.
            ``parent``: what it follows is not here. ``busy``: no memory may be taken now.
            ``size``: no slab can be cut into chunks of that size.
    """

    reason: str


@dataclass(slots=True)
class Held:
    """A lease: the last chunk that it holds, and so all before it."""

    owner: int
    chunk: Chunk


@dataclass(slots=True)
class Writing:
    """A reservation.

    Attributes:
        owner: Who writes.
        chunks: Those that are not committed, in order.
        open: Whether they may be committed.
    """

    owner: int
    chunks: list[Chunk]
    open: bool = True


@dataclass(slots=True)
class Owner:
    """What one connection holds.

    Attributes:
        leases: Numbers of its leases.
        reservations: Numbers of its reservations.
        reserved_bytes: Of chunks that it has not committed.
        lost: Whether its connection has ended.
    """

    leases: set[int] = field(default_factory=set)
    reservations: set[int] = field(default_factory=set)
    reserved_bytes: int = 0
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """What one owner may hold at most.

    Attributes:
        reserved_bytes: Of chunks that are not committed.
        leases: Leases at once.
    """

    reserved_bytes: int
    leases: int


@dataclass(slots=True)
class Counts:
    """What has happened so far.

    Attributes:
        lookups: Calls of `Ledger.find`.
        chunks_wanted: Digests that they asked for.
        chunks_found: Those that were here.
        chunks_stored: Commits, each chunk counted.
        chunks_evicted: Chunks that gave way.
        chunks_discarded: Chunks that did not verify, and those after them.
        chunks_abandoned: Reserved chunks that were never committed.
        refused: Reservations that were refused as busy.
        refused_pending: For another engine stores the chunk right now.
        refused_parent: For what is before it is not here.
        refused_stored: For all of it is here.
        refused_size: Namespaces whose chunks fit into no slab.
        leases_refused: Lookups of an owner that has too many leases.
        found_bytes: Of the chunks that lookups found.
        stored_bytes: Of the chunks that were committed.
    """

    lookups: int = 0
    chunks_wanted: int = 0
    chunks_found: int = 0
    chunks_stored: int = 0
    chunks_evicted: int = 0
    chunks_discarded: int = 0
    chunks_abandoned: int = 0
    refused: int = 0
    refused_pending: int = 0
    refused_parent: int = 0
    refused_stored: int = 0
    refused_size: int = 0
    leases_refused: int = 0
    found_bytes: int = 0
    stored_bytes: int = 0
