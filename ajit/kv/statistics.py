"""What a store counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ajit._core.short_repr import long_text, short_repr

if TYPE_CHECKING:
    from ajit.kv.keeper import Keeper

__all__ = ["ServiceStatistics", "StoreStatistics", "statistics_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatistics:
    """What a store holds, and what has happened since it was opened. `print` shows all of it.

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
        refused_pending: Those that another engine stores right now.
        refused_parent: Those that follow what is not here.
        refused_stored: Those of which all is here.
        refused_size: Namespaces whose chunks fit into no slab.
        leases_refused: Lookups of clients that have too many leases.
        found_bytes: Of the chunks that lookups found.
        stored_bytes: Of the chunks that were committed.
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
    refused_pending: int
    refused_parent: int
    refused_stored: int
    refused_size: int
    leases_refused: int
    found_bytes: int
    stored_bytes: int
    problem: str

    def __str__(self) -> str:
        return long_text(self, "store")

    def __repr__(self) -> str:
        return short_repr(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatistics:
    """What a service holds, and what has happened since it was started. `print` shows all of it.

    Attributes:
        store: Of its store.
        clients: Those that are connected; who only asks for these figures is none.
        joined_clients: Clients so far.
        lost_clients: Those that ended while something was held.
        lingering: Ended connections of processes that live and may still copy.
        refused_clients: Connections of other users, or too many at once.
        protocol_errors: Connections that were closed for what they sent.
        unread_clients: Connections that were closed, for their client did not read its answers.
        waits_refused: Requests that were refused, for too many of their client wait already.
        requests: Requests that were done, or failed.
        queued: Requests that wait in line.
        lag_seconds: How much too late the loop was at its last beat.
        longest_lag_seconds: The most that it ever was.
        up_seconds: Since it was started.
    """

    store: StoreStatistics
    clients: int
    joined_clients: int
    lost_clients: int
    lingering: int
    refused_clients: int
    protocol_errors: int
    unread_clients: int
    waits_refused: int
    requests: int
    queued: int
    lag_seconds: float
    longest_lag_seconds: float
    up_seconds: float

    def __str__(self) -> str:
        return "\n".join([str(self.store), long_text(self, "service", {"store"})])

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
