"""What keeps a store: the books, the slabs, and the tasks that belong to them.

The service and a store in process are both made of it. Lookups, commits and releases are done at
once, on the loop; only what needs a new slab, or waits for a chunk that is being stored, takes
time. Slabs are made in a helper thread, one at a time, by a task of the keeper: a caller that is
cancelled only leaves. Belongs to one event loop.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio

from ajit._system.in_thread import run_in_thread
from ajit._system.numa import choose_node
from ajit._system.warn import warn_only
from ajit.errors import RuntimeClosed
from ajit.kv.arena import Arena
from ajit.kv.chunk import Found, Limits, Refusal, Reserved, Space
from ajit.kv.events import (
    ChunksEvicted,
    ChunksStored,
    KvEmitter,
    PrefixFound,
    ReservationLate,
    SlabAdded,
    SlabRefused,
    StoreBusy,
)
from ajit.kv.feed import SlabFeed
from ajit.kv.ledger import MOST_AT_ONCE, Ledger
from ajit.kv.memory import Slab, SlabError
from ajit.kv.shelves import Shelves

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from anyio.abc import TaskGroup

    from ajit.kv.options import StoreOptions

__all__ = ["Keeper", "open_keeper"]

AGAIN_SECONDS = 10.0
"""After which the system is asked again for memory that it has refused: others may have given
theirs back. Pretty arbitrary."""

SWEEP_SECONDS = 1.0
"""How often reservations are looked at that take too long. Pretty arbitrary: those are rare."""


class Keeper:
    """The books and the memory of one store. Get it with `open_keeper`.

    Attributes:
        ledger: The books.
        slabs: The memory, by the numbers of slabs.
        feed: Tells of slabs as they come and go.
        numa: Which NUMA node the memory comes from, or why from any.
        problem: Why no more slabs are made though the limit allows it; "" if all is well. It is
            tried again after `AGAIN_SECONDS`.
        events: Those who are told what happens.
    """

    def __init__(
        self, options: StoreOptions, group: TaskGroup, numa: tuple[int | None, str]
    ) -> None:
        self.options = options
        self._node, self.numa = numa
        self.ledger = Ledger(
            Arena(options.slab_bytes, options.most_slabs),
            Shelves(options.quotas, options.quota_bytes),
            Limits(options.credit, options.most_leases),
        )
        self.slabs: list[Slab] = []
        self.feed = SlabFeed()
        self.problem = ""
        self._again_at = 0.0
        self.closed = False
        self.events = KvEmitter(warn_only)
        self._group = group
        self._growing: anyio.Event | None = None
        self._made: list[Slab] = []
        self._storing: dict[bytes, anyio.Event] = {}
        self._due: dict[int, float] = {}

    # --- lookups ---

    async def find(
        self, owner: int, space: Space, digests: Sequence[bytes], wait_seconds: float = 0.0
    ) -> Found | Refusal:
        """Lease the longest part of a prompt that is here.

        Args:
            owner: Who gets the lease.
            space: The namespace.
            digests: Of the prompt, from its start.
            wait_seconds: How long to wait for a chunk that is being stored right now.

        Cancelling leaves no lease.
        """
        found = self.find_now(owner, space, digests)
        until = anyio.current_time() + wait_seconds
        while isinstance(found, Found) and found.pending and anyio.current_time() < until:
            self.ledger.release(owner, found.lease)
            with anyio.move_on_after(until - anyio.current_time()):
                await self.wait_stored(digests[len(found.chunks)])
            self._check_open()
            found = self.find_now(owner, space, digests)
        return found

    def find_now(self, owner: int, space: Space, digests: Sequence[bytes]) -> Found | Refusal:
        """The same, without waiting."""
        begun = time.perf_counter()
        found = self.ledger.find(owner, space, digests)
        if self.events.listening and isinstance(found, Found):
            event = PrefixFound(
                namespace=space.digest.hex(),
                wanted=len(digests),
                found=len(found.chunks),
                size_bytes=len(found.chunks) * space.chunk_bytes,
                seconds=time.perf_counter() - begun,
            )
            self.events.emit(event)
        return found

    def release(self, owner: int, lease: int) -> None:
        """End a lease. Twice is nothing."""
        self.ledger.release(owner, lease)

    # --- stores ---

    async def reserve(
        self, owner: int, space: Space, parent: bytes, digests: Sequence[bytes]
    ) -> Reserved | Refusal:
        """Reserve memory for chunks, see `Ledger.reserve`. Waits only for new slabs.

        Cancelling reserves nothing.
        """
        while self.needs_slab(space, digests):
            await self.wait_for_slab()
            self._check_open()
        return self.reserve_now(owner, space, parent, digests)

    def needs_slab(self, space: Space, digests: Sequence[bytes]) -> bool:
        """Whether to make a slab before so many chunks are reserved."""
        arena, size = self.ledger.arena, space.chunk_bytes
        wanted = min(len(digests), self.options.credit // size, MOST_AT_ONCE)
        if arena.free_slots(size) >= wanted or not arena.may_grow:
            return False
        return not self.problem or time.monotonic() >= self._again_at

    def reserve_now(
        self, owner: int, space: Space, parent: bytes, digests: Sequence[bytes]
    ) -> Reserved | Refusal:
        """The same as `reserve`, with the memory that is there."""
        evicted = self.ledger.counts.chunks_evicted
        reserved = self.ledger.reserve(owner, space, parent, digests)
        if self.events.listening:
            self._tell_reserved(space, digests, reserved, evicted)
        if isinstance(reserved, Reserved):
            self._due[reserved.reservation] = time.monotonic() + self.options.reserve_seconds
        return reserved

    def _tell_reserved(
        self,
        space: Space,
        digests: Sequence[bytes],
        reserved: Reserved | Refusal,
        evicted_before: int,
    ) -> None:
        evicted = self.ledger.counts.chunks_evicted - evicted_before
        namespace = space.digest.hex()
        if evicted:
            self.events.emit(ChunksEvicted(chunks=evicted, namespace=namespace))
        if isinstance(reserved, Refusal) and reserved.reason == "busy":
            self.events.emit(StoreBusy(namespace=namespace, wanted=len(digests)))

    def commit(self, owner: int, reservation: int, checksums: Sequence[int]) -> bool:
        """Let lookups find chunks: before this returns. See `Ledger.commit`."""
        done = self.ledger.commit(owner, reservation, checksums)
        if done and self.events.listening:
            self.events.emit(ChunksStored(chunks=len(checksums)))
        if checksums:
            self._announce()
        return done

    def abort(self, owner: int, reservation: int) -> None:
        """Give up what is not committed. Twice is nothing."""
        if self.ledger.abort(owner, reservation):
            self._announce()

    def discard(self, space: Space, digest: bytes) -> int:
        """Take a chunk that did not verify out of the index, and those after it."""
        removed = self.ledger.discard(space, digest)
        if removed:
            self._announce()
        return removed

    # --- owners ---

    def lost(self, owner: int) -> None:
        """The connection of an owner has ended; its copies may go on."""
        self.ledger.lost(owner)
        self._announce()

    def gone(self, owner: int) -> None:
        """An owner touches nothing more."""
        self.ledger.gone(owner)
        self._announce()

    # --- memory ---

    def view(self, slot: int, size: int) -> memoryview:
        """The bytes of a slot."""
        slab, offset = slot >> 16, (slot & 0xFFFF) * size
        return self.slabs[slab].view[offset : offset + size]

    async def wait_for_slab(self) -> None:
        """Wait for one slab more, or for the reason why there is none. Cancelling only leaves."""
        if self._growing is None:
            if not self.ledger.arena.may_grow:
                return  # others have got theirs meanwhile, and that was the last one
            self._growing = anyio.Event()
            self._group.start_soon(self._grow, self._growing)
        await self._growing.wait()

    async def _grow(self, done: anyio.Event) -> None:
        """Make one slab. The keeper's own task does: who wants it may leave meanwhile."""
        try:
            limiter = anyio.CapacityLimiter(1)
            begun = time.monotonic()
            # With little memory it may take for ever: who closes the store does not wait for it.
            await run_in_thread(self._make_slab, limiter=limiter, abandon=True)
            self.problem = ""
            for slab in _taken(self._made):
                self.slabs.append(slab)
                self.ledger.arena.add_slab()
                self.feed.add(slab)
                if self.events.listening:
                    self._tell_slab(slab, time.monotonic() - begun)
        except (SlabError, MemoryError, RuntimeError) as exc:  # the last: no thread can be started
            self._tell_refused(exc)
        finally:
            self._growing = None
            done.set()

    def _tell_slab(self, slab: Slab, seconds: float) -> None:
        size, count = slab.size_bytes, len(self.slabs)
        self.events.emit(SlabAdded(slabs=count, size_bytes=size, huge=slab.huge, seconds=seconds))

    def _tell_refused(self, error: Exception) -> None:
        """The system has no memory, descriptor or thread for it: the store goes on without."""
        slabs, known = len(self.slabs), bool(self.problem)
        self.problem = str(error) or type(error).__name__
        self._again_at = time.monotonic() + AGAIN_SECONDS
        if not known:
            warn_only(f"the KV store stays at {slabs} slabs: {self.problem}")
        if self.events.listening:
            size = self.options.slab_bytes
            self.events.emit(SlabRefused(slabs=slabs, size_bytes=size, problem=self.problem))

    def _make_slab(self) -> None:
        """In a helper thread, which none may wait for any more when it is done."""
        size, huge = self.options.slab_bytes, self.options.huge_pages
        slab = Slab.make(size, huge=huge, node=self._node)
        self.numa = slab.numa_problem or self.numa
        self._made.append(slab)
        if self.closed:
            _close(self._made)

    # --- waiting ---

    async def wait_stored(self, digest: bytes) -> None:
        """Wait while a chunk is being stored. Cancelling only leaves."""
        if self.ledger.is_pending(digest) and not self.closed:
            await self._storing.setdefault(digest, anyio.Event()).wait()

    def _announce(self) -> None:
        """Wake those whose chunk is not being stored any more, and look at no others."""
        for digest in list(self._storing) if self.closed else self.ledger.take_settled():
            if (event := self._storing.pop(digest, None)) is not None:
                event.set()

    def _check_open(self) -> None:
        if self.closed:
            raise RuntimeClosed("the KV store was closed during this request")

    async def sweep(self) -> None:
        """Drop reservations that take too long, as long as the keeper is open."""
        while True:
            await anyio.sleep(SWEEP_SECONDS)
            self.sweep_now(time.monotonic())

    def sweep_now(self, now: float) -> None:
        """Drop the reservations that should have been committed by now."""
        due = [number for number, at in self._due.items() if at <= now]
        for number in due:
            del self._due[number]
            self.ledger.expire(number)
        live = self.ledger.has_reservation
        late = sum(map(live, due))
        self._due = {number: at for number, at in self._due.items() if live(number)}
        if due:
            self._announce()
        if late and self.events.listening:
            self.events.emit(ReservationLate(reservations=late))

    def close(self) -> None:
        """Give all memory back; what others have mapped stays theirs."""
        self.closed = True
        self._announce()
        _close(self._made)
        self.feed.close(self.slabs)


@asynccontextmanager
async def open_keeper(options: StoreOptions) -> AsyncIterator[Keeper]:
    """Open the books and the memory of a store. Leaving gives all memory back.

    Raises:
        UsageError: There is no such NUMA node.
    """
    limiter = anyio.CapacityLimiter(1)
    numa = await run_in_thread(choose_node, options.numa_node, limiter=limiter)
    async with anyio.create_task_group() as group:
        keeper = Keeper(options, group, numa)
        group.start_soon(keeper.sweep)
        try:
            yield keeper
        finally:
            keeper.close()
            group.cancel_scope.cancel()


def _taken(slabs: list[Slab]) -> Iterator[Slab]:
    """Take slabs out of a list, each by one thread only."""
    with suppress(IndexError):
        while True:
            yield slabs.pop()


def _close(slabs: list[Slab]) -> None:
    for slab in _taken(slabs):
        slab.close()
