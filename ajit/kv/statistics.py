"""What a store counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ajit._core.short_repr import short_repr

if TYPE_CHECKING:
    from ajit.kv.keeper import Keeper

__all__ = ["ServiceStatistics", "StoreStatistics", "statistics_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatistics:
    """What a store holds, and what has happened since it was opened.

    Attributes:
        limit_bytes: Most memory for chunks.
        slab_bytes: Memory that is taken from the system.
        used_bytes: Memory of chunks, those that are being written included.
        huge_slabs: Slabs that have huge pages for certain.
        numa: Which NUMA node the memory comes from, or why from any.
        chunks: Chunks that are here.
        leases: Leases that are held.
        reservations: Reservations that are not over.
        owners: Clients whose memory is theirs: those that are connected, and those that are not
            and may still copy.
        lookups: Lookups so far.
        chunks_wanted: Chunks that they asked for.
        chunks_found: Chunks that were here.
        chunks_stored: Chunks that were committed.
        chunks_evicted: Chunks that gave way to others.
        chunks_discarded: Chunks that did not verify, and those after them.
        chunks_abandoned: Chunks that were reserved and never committed.
        refused: Reservations that were refused as busy.
        problem: Why the store takes no more memory though its limit allows it; "" if all is well.
    """

    limit_bytes: int
    slab_bytes: int
    used_bytes: int
    huge_slabs: int
    numa: str
    chunks: int
    leases: int
    reservations: int
    owners: int
    lookups: int
    chunks_wanted: int
    chunks_found: int
    chunks_stored: int
    chunks_evicted: int
    chunks_discarded: int
    chunks_abandoned: int
    refused: int
    problem: str

    def __repr__(self) -> str:
        return short_repr(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatistics:
    """What a service holds, and what has happened since it was started.

    Attributes:
        store: Of its store.
        clients: Connections.
        lingering: Ended connections of processes that live and may still copy.
        refused_clients: Connections of other users, or too many at once.
        protocol_errors: Connections that were closed for what they sent.
        requests: Requests that were done, or failed.
        queued: Requests that wait in line.
        lag_seconds: How much too late the loop was at its last beat.
        longest_lag_seconds: The most that it ever was.
        up_seconds: Since it was started.
    """

    store: StoreStatistics
    clients: int
    lingering: int
    refused_clients: int
    protocol_errors: int
    requests: int
    queued: int
    lag_seconds: float
    longest_lag_seconds: float
    up_seconds: float

    def __repr__(self) -> str:
        return short_repr(self)


def statistics_of(keeper: Keeper) -> StoreStatistics:
    """Return what a keeper has counted."""
    ledger = keeper.ledger
    return StoreStatistics(
        limit_bytes=keeper.options.limit_bytes,
        slab_bytes=sum(slab.size_bytes for slab in keeper.slabs),
        used_bytes=ledger.arena.used_bytes,
        huge_slabs=sum(slab.huge for slab in keeper.slabs),
        numa=keeper.numa,
        chunks=ledger.chunks,
        leases=ledger.leases,
        reservations=ledger.reservations,
        owners=ledger.owners,
        problem=keeper.problem,
        **asdict(ledger.counts),
    )
