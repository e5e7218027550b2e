"""Which slots of which slabs are free, with no I/O.

Memory comes in slabs of one size. A slab is cut into slots of one chunk size as long as one of
them is used, and may be cut anew when none is. So nothing fragments: a chunk that was evicted
leaves a hole for exactly one chunk of its size. Namespaces of one chunk size share slabs; with
slabs of their own, each adapter and each salt would hold a whole slab for its first chunk.

A slot has a number of 32 bits: the slab in the upper half, the place in it in the lower half.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["MOST_SLABS", "MOST_SLOTS", "Arena", "Place", "place_of"]

SLOT_BITS = 16
MOST_SLOTS = 1 << SLOT_BITS
"""In one slab."""
MOST_SLABS = 1 << 16


class Place(NamedTuple):
    """Where a slot is.

    Attributes:
        slab: Number of its slab.
        offset: In bytes.
    """

    slab: int
    offset: int


def place_of(slot: int, chunk_bytes: int) -> Place:
    """Return where a slot of a chunk size is."""
    return Place(slot >> SLOT_BITS, (slot & (MOST_SLOTS - 1)) * chunk_bytes)


@dataclass(slots=True)
class _Slab:
    """One slab.

    Attributes:
        number: Of all slabs.
        chunk_bytes: What it is cut into; 0 while no slot of it is used.
        used: Slots that are taken.
        free: Numbers of the others, the next one last.
    """

    number: int
    chunk_bytes: int = 0
    used: int = 0
    free: list[int] = field(default_factory=list)


class Arena:
    """The slots of all slabs.

    Args:
        slab_bytes: Size of each slab.
        most_slabs: How many there may be.
    """

    def __init__(self, slab_bytes: int, most_slabs: int) -> None:
        self.slab_bytes, self.most_slabs = slab_bytes, most_slabs
        self.used_bytes = 0
        self._slabs: list[_Slab] = []
        self._whole: list[_Slab] = []
        self._open: dict[int, list[_Slab]] = {}

    @property
    def slabs(self) -> int:
        """How many slabs there are."""
        return len(self._slabs)

    @property
    def may_grow(self) -> bool:
        """Whether there may be one more."""
        return len(self._slabs) < self.most_slabs

    def fits(self, chunk_bytes: int) -> bool:
        """Whether a chunk of that size can be stored at all."""
        return 0 < chunk_bytes <= self.slab_bytes <= chunk_bytes * MOST_SLOTS

    def add_slab(self) -> int:
        """Add a slab and return its number: they are counted from 0."""
        slab = _Slab(len(self._slabs))
        self._slabs.append(slab)
        self._whole.append(slab)
        return slab.number

    def free_slots(self, chunk_bytes: int) -> int:
        """How many chunks of that size can be taken as it is."""
        whole = len(self._whole) * (self.slab_bytes // chunk_bytes)
        return whole + sum(len(slab.free) for slab in self._open.get(chunk_bytes, ()))

    def take(self, chunk_bytes: int) -> int | None:
        """Take a free slot of that size and return its number; None if there is none.

        Neighbours are taken one after another where they are free, so that runs of chunks lie in a
        row.
        """
        slabs = self._open.setdefault(chunk_bytes, [])
        if not slabs:
            if not self._whole:
                return None
            slabs.append(self._cut(self._whole.pop(0), chunk_bytes))
        slab = slabs[-1]
        slot = slab.free.pop()
        slab.used += 1
        self.used_bytes += chunk_bytes
        if not slab.free:
            slabs.pop()
        return slot

    def give_back(self, slot: int) -> None:
        """Give a taken slot back."""
        slab = self._slabs[slot >> SLOT_BITS]
        slabs = self._open[slab.chunk_bytes]
        if not slab.free:
            slabs.append(slab)
        slab.free.append(slot)
        slab.used -= 1
        self.used_bytes -= slab.chunk_bytes
        if not slab.used:
            slabs.remove(slab)
            slab.free, slab.chunk_bytes = [], 0
            self._whole.append(slab)

    def _cut(self, slab: _Slab, chunk_bytes: int) -> _Slab:
        base, count = slab.number << SLOT_BITS, self.slab_bytes // chunk_bytes
        slab.chunk_bytes = chunk_bytes
        slab.free = list(range(base + count - 1, base - 1, -1))
        return slab
