"""The books of a store: which chunk is where, who holds it, and what gives way. With no I/O.

Events come in by its methods, and what they return says what to do: read these slots, write those.
No clock, no loop and no memory is touched here, so that every order of events can be tried
(``tests/kv/test_store_enumeration.py``). The rules of `ajit.kv.slots` decide; this module counts.

The chunks are a forest: each one's parent is the chunk before it in the prompt, and is in the index
for as long as it is. So a lookup is a walk that ends at the first chunk that is not here, a lease
is a mark at the last one, and no tail outlives its head. Belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from weakref import WeakValueDictionary

from ajit.kv import slots
from ajit.kv.arena import Arena
from ajit.kv.chunk import (
    Chunk,
    Counts,
    Found,
    Held,
    Limits,
    Owner,
    Refusal,
    Reserved,
    Space,
    Writing,
)
from ajit.kv.shelves import Shelves
from ajit.kv.slots import Action, Happening, State

__all__ = ["Ledger"]


MOST_AT_ONCE = 1024
"""Chunks of one reservation: each may need another one evicted, in 6 µs, and none may keep the loop
for longer than some milliseconds."""


class Ledger:
    """The index, the leases and the reservations of one store.

    Args:
        arena: The slots.
        shelves: What gives way, and who has how much.
        limits: Of each owner.
    """

    def __init__(self, arena: Arena, shelves: Shelves, limits: Limits) -> None:
        self.arena, self.shelves, self.limits = arena, shelves, limits
        self.counts = Counts()
        self._chunks: dict[bytes, Chunk] = {}
        self._owners: dict[int, Owner] = {}
        self._leases: dict[int, Held] = {}
        self._writings: dict[int, Writing] = {}
        self._numbers = count(1)
        self._spaces: WeakValueDictionary[bytes, Space] = WeakValueDictionary()
        self._settled: list[bytes] = []

    @property
    def leases(self) -> int:
        """How many leases there are."""
        return len(self._leases)

    @property
    def reservations(self) -> int:
        """How many reservations there are."""
        return len(self._writings)

    @property
    def chunks(self) -> int:
        """How many chunks are in the index, those that are being written included."""
        return len(self._chunks)

    @property
    def owners(self) -> int:
        """How many owners there are, those whose connection has ended included."""
        return len(self._owners)

    def has_reservation(self, reservation: int) -> bool:
        """Whether a reservation is not over."""
        return reservation in self._writings

    def is_pending(self, digest: bytes) -> bool:
        """Whether a chunk is being stored right now."""
        chunk = self._chunks.get(digest)
        return chunk is not None and not slots.is_found(chunk.state)

    def take_settled(self) -> list[bytes]:
        """Return which chunks are being stored no more, since this was asked last."""
        settled, self._settled = self._settled, []
        return settled

    def open(self, digest: bytes, chunk_bytes: int, tenant: bytes) -> Space | Refusal:
        """Return what stands for a namespace; refused if no slab can be cut into such chunks."""
        space = self._spaces.get(digest)
        if space is None:
            if not self.arena.fits(chunk_bytes):
                self.counts.refused_size += 1
                return Refusal("size")
            space = self._spaces[digest] = Space(digest, chunk_bytes, tenant)
        if space.chunk_bytes == chunk_bytes and space.tenant == tenant:
            return space
        self.counts.refused_size += 1
        return Refusal("size")

    # --- owners ---

    def join(self) -> int:
        """Return the number of a new owner."""
        number = next(self._numbers)
        self._owners[number] = Owner()
        return number

    def holds_nothing(self, owner: int) -> bool:
        """Whether an owner has no lease and no reservation, and so can touch nothing."""
        held = self._owners[owner]
        return not held.leases and not held.reservations

    def lost(self, owner: int) -> None:
        """The connection of an owner has ended: it commits nothing more. It may still copy."""
        held = self._owners[owner]
        held.lost = True
        for number in tuple(held.reservations):
            self.expire(number)

    def gone(self, owner: int) -> None:
        """An owner can touch nothing more: all that it has held is given back. Twice is nothing."""
        held = self._owners.pop(owner, None)
        if held is None:
            return
        for number in held.reservations:
            self._end_writing(self._writings.pop(number))
        for number in held.leases:
            self._end_lease(self._leases.pop(number))

    # --- lookups ---

    def find(self, owner: int, space: Space, digests: Sequence[bytes]) -> Found | Refusal:
        """Lease the longest part of a prompt, from its start, that is here.

        Args:
            owner: Who gets the lease.
            space: What the chunks belong to.
            digests: Of all chunks of the prompt, from the first one.
        """
        held = self._owners[owner]
        if len(held.leases) >= self.limits.leases:
            self.counts.leases_refused += 1
            return Refusal("busy")
        found, pending = self._walk(space, digests)
        self.counts.lookups += 1
        self.counts.chunks_wanted += len(digests)
        self.counts.chunks_found += len(found)
        self.counts.found_bytes += len(found) * space.chunk_bytes
        if not found:
            return Found(0, found, pending)
        for chunk in found:
            if chunk.hits < 3:  # as many as `ajit.kv.fifo` counts
                chunk.hits += 1
        found[-1].leases += 1
        number = next(self._numbers)
        self._leases[number] = Held(owner, found[-1])
        held.leases.add(number)
        return Found(number, found, pending)

    def release(self, owner: int, lease: int) -> bool:
        """End a lease. False if that owner has none of that number: releasing twice is nothing."""
        held = self._owners.get(owner)
        if held is None or lease not in held.leases:
            return False
        held.leases.discard(lease)
        self._end_lease(self._leases.pop(lease))
        return True

    def _walk(self, space: Space, digests: Sequence[bytes]) -> tuple[list[Chunk], bool]:
        chunks, found = self._chunks, list[Chunk]()
        parent: Chunk | None = None
        for digest in digests:
            chunk = chunks.get(digest)
            if chunk is None or chunk.parent is not parent or chunk.space is not space:
                return found, False
            if not slots.is_found(chunk.state):
                return found, True
            found.append(chunk)
            parent = chunk
        return found, False

    def _end_lease(self, held: Held) -> None:
        held.chunk.leases -= 1
        self._let_go(held.chunk)

    # --- stores ---

    def reserve(
        self, owner: int, space: Space, parent: bytes, digests: Sequence[bytes]
    ) -> Reserved | Refusal:
        """Reserve memory for chunks that follow one another.

        Args:
            owner: Who writes them.
            space: What they belong to.
            parent: Digest of the chunk before them; empty if they begin a prompt.
            digests: In order. Those that are here already are skipped, and what has no room left
                out, from the end. At most `MOST_AT_ONCE` are reserved.
        """
        before = self._chunks.get(parent) if parent else None
        if parent and (
            before is None or before.space is not space or not slots.is_found(before.state)
        ):
            self.counts.refused_parent += 1
            return Refusal("parent")
        first = 0
        for digest in digests:
            chunk = self._chunks.get(digest)
            if chunk is None:
                return self._reserve(owner, space, before, digests, first)
            if chunk.parent is not before or chunk.space is not space:
                self.counts.refused_parent += 1
                return Refusal("parent")
            if not slots.is_found(chunk.state):
                self.counts.refused_pending += 1
                return Refusal("pending")
            before, first = chunk, first + 1
        self.counts.refused_stored += 1
        return Refusal("stored")

    def commit(self, owner: int, reservation: int, checksums: Sequence[int]) -> bool:
        """Let lookups find the first chunks of a reservation that are not committed.

        Args:
            owner: Who has it.
            reservation: Its number.
            checksums: One for each chunk.

        Returns:
            False if it is over: nothing is found. Its memory stays its owner's until `abort`, for
            copies into it may be on their way.
        """
        writing = self._writing_of(owner, reservation)
        if writing is None:
            return False
        if not writing.open or len(checksums) > len(writing.chunks):
            self.expire(reservation)
            return False
        for checksum in checksums:
            chunk = writing.chunks.pop(0)
            chunk.checksum = checksum
            self._happens(chunk, Happening.COMMITTED)
            self.counts.stored_bytes += chunk.space.chunk_bytes
            self._stop_writing(chunk)
        self.counts.chunks_stored += len(checksums)
        if not writing.chunks:
            self._forget_writing(owner, reservation)
        return True

    def abort(self, owner: int, reservation: int) -> bool:
        """Give up what is not committed: its owner writes no more. Twice is nothing."""
        writing = self._writing_of(owner, reservation)
        if writing is None:
            return False
        self._forget_writing(owner, reservation)
        self._end_writing(writing)
        return True

    def expire(self, reservation: int) -> None:
        """Let others store what is reserved. The memory stays its writer's until it lets go."""
        writing = self._writings.get(reservation)
        if writing is None or not writing.open:
            return
        writing.open = False
        for chunk in reversed(writing.chunks):
            self._drop(chunk)
        self.counts.chunks_abandoned += len(writing.chunks)

    def _reserve(
        self,
        owner: int,
        space: Space,
        before: Chunk | None,
        digests: Sequence[bytes],
        first: int,
    ) -> Reserved | Refusal:
        held, chunks = self._owners[owner], list[Chunk]()
        if before is not None:
            before.leases += 1  # it must not give way to what follows it
        for digest in digests[first : first + MOST_AT_ONCE]:
            after = self._reserve_one(held, space, before if not chunks else chunks[-1], digest)
            if after is None:
                break
            after.writer = owner
            chunks.append(after)
        if before is not None:
            before.leases -= 1
            self._let_go(before)
        if not chunks:
            self.counts.refused += 1
            return Refusal("busy")
        number = next(self._numbers)
        self._writings[number] = Writing(owner, chunks)
        held.reservations.add(number)
        return Reserved(number, first, list(chunks))

    def _reserve_one(
        self, held: Owner, space: Space, parent: Chunk | None, digest: bytes
    ) -> Chunk | None:
        size = space.chunk_bytes
        if digest in self._chunks or held.reserved_bytes + size > self.limits.reserved_bytes:
            return None
        slot = self._take(space)
        if slot is None:
            return None
        chunk = Chunk(digest, space, parent, slot)
        self._happens(chunk, Happening.RESERVED)
        if parent is not None:
            parent.children.add(chunk)
        held.reserved_bytes += size
        return chunk

    def _take(self, space: Space) -> int | None:
        """Memory for one chunk: what is free, else of one that gives way."""
        while self.shelves.is_over_quota(space):
            if not self._evict(self.shelves.victim_of(space)):
                return None
        slot = self.arena.take(space.chunk_bytes)
        while slot is None and self._evict(self.shelves.victim(space.chunk_bytes)):
            slot = self.arena.take(space.chunk_bytes)
        if slot is not None:
            self.shelves.use(space, 1)
        return slot

    def _evict(self, chunk: Chunk | None) -> bool:
        if chunk is None:
            return False
        self.counts.chunks_evicted += 1
        self._drop(chunk, known=False)
        return True

    # --- what did not verify ---

    def discard(self, space: Space, digest: bytes) -> int:
        """Take a chunk that did not verify out of the index, and all that follow it.

        Returns:
            How many those were. Leases on them stay; their memory is used again after that.
        """
        chunk = self._chunks.get(digest)
        if chunk is None or not self._is_here(chunk, space):
            return 0
        family = [chunk]
        for each in family:
            family += each.children
        for each in family:
            if each.state is State.RESERVED:
                self._close_writing_of(each)
        ready = [each for each in family if each.state is State.READY]
        for each in ready:
            self._drop(each, cut=each is chunk)
        self.counts.chunks_discarded += len(ready)
        return len(ready)

    def _close_writing_of(self, chunk: Chunk) -> None:
        for number in self._owners[chunk.writer].reservations if chunk.writer is not None else ():
            if chunk in self._writings[number].chunks:
                self.expire(number)
                return

    # --- one chunk ---

    def _is_here(self, chunk: Chunk, space: Space) -> bool:
        return chunk.space is space and slots.is_found(chunk.state)

    def _happens(self, chunk: Chunk, happening: Happening) -> None:
        if chunk.state is State.RESERVED:
            self._settled.append(chunk.digest)
        chunk.state, actions = slots.step(chunk.state, happening)
        for action in actions:
            if action is Action.LIST:
                self._chunks[chunk.digest] = chunk
            elif action is Action.KEEP:
                self.shelves.add(chunk)
            elif action is Action.UNLIST:
                del self._chunks[chunk.digest]
            elif action is Action.REUSE:
                self.arena.give_back(chunk.slot)
                self.shelves.use(chunk.space, -1)

    def _drop(self, chunk: Chunk, *, known: bool = True, cut: bool = True) -> None:
        """Take a chunk out of the index.

        Args:
            chunk: Which one.
            known: Whether the policy of eviction still knows it.
            cut: Whether its parent is not of those that are dropped with it.
        """
        if known and chunk.state is State.READY:
            self.shelves.remove(chunk)
        self._happens(chunk, Happening.DROPPED)
        if cut:
            self._cut_off(chunk)
        self._let_go(chunk)

    def _cut_off(self, chunk: Chunk) -> None:
        parent, chunk.parent = chunk.parent, None
        if parent is not None:
            parent.children.discard(chunk)
            self._let_go(parent)

    def _let_go(self, chunk: Chunk) -> None:
        """One of those who hold a chunk holds it no more."""
        leases, children = chunk.leases, len(chunk.children)
        if slots.may_evict(chunk.state, leases, children):
            self.shelves.offer(chunk)
        elif chunk.state is State.RETIRED and slots.is_untouched(
            leases, children, has_writer=chunk.writer is not None
        ):
            self._happens(chunk, Happening.UNTOUCHED)
            self._cut_off(chunk)

    # --- one reservation ---

    def _writing_of(self, owner: int, reservation: int) -> Writing | None:
        held = self._owners.get(owner)
        if held is None or reservation not in held.reservations:
            return None
        return self._writings[reservation]

    def _forget_writing(self, owner: int, reservation: int) -> None:
        self._owners[owner].reservations.discard(reservation)
        del self._writings[reservation]

    def _end_writing(self, writing: Writing) -> None:
        """Its writer has let go."""
        if writing.open:
            writing.open = False
            self.counts.chunks_abandoned += len(writing.chunks)
            for chunk in reversed(writing.chunks):
                self._drop(chunk)
        for chunk in reversed(writing.chunks):
            self._stop_writing(chunk)
        writing.chunks = []

    def _stop_writing(self, chunk: Chunk) -> None:
        held = self._owners.get(chunk.writer) if chunk.writer is not None else None
        if held is not None:
            held.reserved_bytes -= chunk.space.chunk_bytes
        chunk.writer = None
        self._let_go(chunk)
