"""What gives way to what, over tenants and chunk sizes. With no I/O.

Chunks of one tenant and one size stand on one *shelf*, in the order of `ajit.kv.fifo`. Who needs
memory of a size gets it from the tenant that uses most of it, so that no tenant can push out the
others; a tenant with a quota never has more than that, and gives way to itself.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from ajit.kv.fifo import Entry, S3Fifo
from ajit.kv.slots import may_evict

if TYPE_CHECKING:
    from ajit.kv.chunk import Chunk, Space

__all__ = ["Shelves"]

Shelf = tuple[bytes, int]
"""A tenant and a chunk size."""


SPARE_ENTRIES = 1024
"""Entries of a heap that count no more, before they are cleared away. Pretty arbitrary."""


class Shelves:
    """The chunks that may give way, and who uses how much.

    Args:
        quotas: Most bytes of a tenant; tenants that are not named have `quota_bytes`.
        quota_bytes: Most bytes of every other tenant with a salt; 0: no limit.
    """

    def __init__(self, quotas: Mapping[bytes, int] | None = None, quota_bytes: int = 0) -> None:
        self._quotas, self._quota_bytes = dict(quotas or {}), quota_bytes
        self._shelves: dict[Shelf, S3Fifo] = {}
        self._used: dict[Shelf, int] = {}
        self._tenants: dict[bytes, int] = {}
        self._heaps: dict[int, list[tuple[int, bytes]]] = {}

    def use(self, space: Space, chunks: int) -> None:
        """Count slots that a tenant takes, or gives back."""
        shelf, size = (space.tenant, space.chunk_bytes), chunks * space.chunk_bytes
        used = _add(self._used, shelf, size)
        if not used:
            self._shelves.pop(shelf, None)
        _add(self._tenants, space.tenant, size)
        self._note(shelf, used)

    def used_bytes(self, tenant: bytes) -> int:
        """What a tenant uses, of every size."""
        return self._tenants.get(tenant, 0)

    def tenants(self) -> dict[bytes, int]:
        """What each tenant uses."""
        return dict(self._tenants)

    def is_over_quota(self, space: Space) -> bool:
        """Whether one more chunk would be too much for its tenant."""
        quota = self._quotas.get(space.tenant, self._quota_bytes if space.tenant else 0)
        return bool(quota) and self.used_bytes(space.tenant) + space.chunk_bytes > quota

    def add(self, chunk: Chunk) -> None:
        """A chunk is ready."""
        self._shelf(chunk.space).add(chunk)

    def remove(self, chunk: Chunk) -> None:
        """A ready chunk leaves the index, and was not chosen here."""
        self._shelf(chunk.space).remove(chunk)

    def offer(self, chunk: Chunk) -> None:
        """A chunk may give way from now on."""
        self._shelf(chunk.space).offer(chunk)

    def victim_of(self, space: Space) -> Chunk | None:
        """Choose a chunk of a tenant, for one of its own. It is on no shelf any more.

        One of the same size first.
        """
        own = self._evict((space.tenant, space.chunk_bytes))
        others = (size for tenant, size in list(self._used) if tenant == space.tenant)
        return own or next(filter(None, (self._evict((space.tenant, n)) for n in others)), None)

    def victim(self, chunk_bytes: int) -> Chunk | None:
        """Choose a chunk whose memory a chunk of that size may need.

        Those of the same size first. Without one, others have to make a slab free, one by one.
        """
        same = self._fullest(chunk_bytes)
        others = (size for size in list(self._heaps) if size != chunk_bytes)
        return same or next(filter(None, map(self._fullest, others)), None)

    def _fullest(self, chunk_bytes: int) -> Chunk | None:
        """A chunk of the fullest shelf of a size that has one that may leave."""
        heap, aside = self._heaps.get(chunk_bytes, []), []
        chosen: Chunk | None = None
        while heap and chosen is None:
            entry = heapq.heappop(heap)
            shelf = entry[1], chunk_bytes
            if self._used.get(shelf) == -entry[0]:  # else a later entry says what it has now
                aside.append(entry)
                chosen = self._evict(shelf)
        for entry in aside:
            heapq.heappush(heap, entry)
        return chosen

    def _note(self, shelf: Shelf, used: int) -> None:
        """Put a shelf into its heap as it is now; former entries of it count no more."""
        tenant, size = shelf
        heap = self._heaps.setdefault(size, [])
        heapq.heappush(heap, (-used, tenant))
        if len(heap) > SPARE_ENTRIES + 4 * len(self._used):
            heap[:] = [(-n, tenant) for (tenant, each), n in self._used.items() if each == size]
            heapq.heapify(heap)
            if not heap:
                del self._heaps[size]

    def _evict(self, shelf: Shelf) -> Chunk | None:
        fifo = self._shelves.get(shelf)
        return None if fifo is None else cast("Chunk | None", fifo.evict())

    def _shelf(self, space: Space) -> S3Fifo:
        shelf = space.tenant, space.chunk_bytes
        fifo = self._shelves.get(shelf)
        if fifo is None:
            fifo = self._shelves[shelf] = S3Fifo(_may_leave)
        return fifo


def _add(counts: dict[Any, int], key: object, change: int) -> int:
    """Add to a count, which is forgotten when it is 0; return what it is."""
    count = counts.get(key, 0) + change
    if count:
        counts[key] = count
    else:
        del counts[key]
    return count


def _may_leave(entry: Entry) -> bool:
    chunk = cast("Chunk", entry)
    return may_evict(chunk.state, chunk.leases, len(chunk.children))
