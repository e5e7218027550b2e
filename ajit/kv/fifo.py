"""What to evict first: S3-FIFO, over the chunks that may be evicted. With no I/O.

S3-FIFO (Yang and others, "FIFO queues are all you need for cache eviction", SOSP 2023) keeps new
entries in a small queue of a tenth of the space. Those that are not used twice on their way through
it leave the cache, and only their names are remembered, in a ghost list; who comes back from there,
and who was used, goes to the main queue, where an entry that was used since is given another round.
So prompts that come once push out each other, and not what is shared. It needs no work on a hit but
to count.

Two things differ here. A chunk may be evicted only while nothing follows it and nothing leases it
(`ajit.kv.slots`), so it stands in a queue from the time when it may be; its place there is kept
while it is leased. And a prompt is evicted from its end: when its last chunk has gone, the one
before it stands at the end of a queue. So of many prompts each first loses its tail.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Entry", "S3Fifo"]

MOST_HITS = 3
"""As the paper has it: two bits."""
HITS_TO_STAY = 2
"""Uses in the small queue that lead to the main one. As the paper's authors have it."""
SMALL_SHARE = 10
"""One part in so many of the space is the small queue's."""


class Entry(Protocol):
    """What is kept here of each chunk; only `S3Fifo` writes these.

    Attributes:
        digest: Its name.
        hits: Uses that count.
        in_main: Whether it belongs to the main queue.
        queued: Whether it stands in a queue.
    """

    digest: bytes
    hits: int
    in_main: bool
    queued: bool


class S3Fifo:
    """The queues of those that share a space.

    Args:
        may_leave: Whether an entry may be evicted now.
    """

    def __init__(self, may_leave: Callable[[Entry], bool]) -> None:
        self._may_leave = may_leave
        self._small: deque[Entry] = deque()
        self._main: deque[Entry] = deque()
        self._ghosts: OrderedDict[bytes, None] = OrderedDict()
        self._small_count = 0
        self._main_count = 0

    def __len__(self) -> int:
        return self._small_count + self._main_count

    def add(self, entry: Entry) -> None:
        """Take a new entry in. It may be one that was evicted a while ago."""
        entry.in_main = entry.digest in self._ghosts
        self._ghosts.pop(entry.digest, None)
        self._count(entry, 1)

    def remove(self, entry: Entry) -> None:
        """Forget an entry that has left by another way."""
        if entry.queued:
            entry.queued = False
            (self._main if entry.in_main else self._small).remove(entry)
        self._count(entry, -1)

    def offer(self, entry: Entry) -> None:
        """Say that an entry may be evicted now."""
        if not entry.queued:
            entry.queued = True
            (self._main if entry.in_main else self._small).append(entry)

    def evict(self) -> Entry | None:
        """Choose the entry that leaves now, and forget it but for its name.

        Returns:
            None if none may leave.
        """
        while self._small or self._main:
            entry = self._next()
            if entry is not None:
                self._remember(entry)
                return entry
        return None

    def _next(self) -> Entry | None:
        """One step: the entry that leaves, or None if it was put elsewhere."""
        full = self._small_count * SMALL_SHARE > len(self)
        queue = self._small if self._small and (full or not self._main) else self._main
        entry = queue.popleft()
        entry.queued = False
        if not self._may_leave(entry):
            return None  # it is offered again when it may
        if entry.in_main:
            if not entry.hits:
                return entry
            entry.hits -= 1
        elif entry.hits < HITS_TO_STAY:
            return entry
        else:
            self._promote(entry)
        self.offer(entry)
        return None

    def _promote(self, entry: Entry) -> None:
        self._count(entry, -1)
        entry.in_main, entry.hits = True, 0
        self._count(entry, 1)

    def _remember(self, entry: Entry) -> None:
        if not entry.in_main:
            self._ghosts[entry.digest] = None
        self._count(entry, -1)
        # As many names as there are entries: the paper has as many as the main queue has room for.
        while len(self._ghosts) > len(self) + 1:
            self._ghosts.popitem(last=False)

    def _count(self, entry: Entry, change: int) -> None:
        if entry.in_main:
            self._main_count += change
        else:
            self._small_count += change
