"""A store in this process: the same calls as a client of the service, and no service.

Belongs to one event loop, and to any number of its tasks.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from ajit._system.own_block import open_in_own_task
from ajit.kv.chunk import Refusal, Space
from ajit.kv.face import AnyStore, check_digests, digests_of
from ajit.kv.handles import Lease, Reservation
from ajit.kv.keeper import Keeper, open_keeper
from ajit.kv.options import StoreOptions
from ajit.kv.statistics import StoreStatistics, statistics_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from ajit.kv.events import KvSubscriber
    from ajit.kv.keys import Namespace, Tokens

__all__ = ["Store", "open_store"]

BUSY_SECONDS = 0.05
"""When a busy store is worth another try. Pretty arbitrary: about the time of a copy."""


class Store(AnyStore):
    """Chunks of a paged KV cache in host memory. Get it with `open_store`."""

    def __init__(self, keeper: Keeper) -> None:
        super().__init__()
        self._keeper, self.slabs = keeper, keeper.feed
        self._owner = keeper.ledger.join()
        self._backend = _InProcess(keeper, self._owner)

    async def discard(self, namespace: Namespace, digest: bytes) -> int:
        """Take a chunk whose bytes are not what they should be out of the index.

        Returns:
            How many chunks were removed: those after it are of no use without it.
        """
        self._check_usable()
        space = self._space(namespace)
        return 0 if isinstance(space, Refusal) else self._keeper.discard(space, digest)

    def statistics(self) -> StoreStatistics:
        """What the store holds, and what has happened so far."""
        return statistics_of(self._keeper)

    def subscribe(self, subscriber: KvSubscriber) -> Callable[[], None]:
        """Be told of every event (`ajit.kv.events`); the returned function ends that."""
        return self._keeper.events.subscribe(subscriber)

    async def _lease(
        self,
        namespace: Namespace,
        tokens: Tokens | None,
        digests: Sequence[bytes] | None,
        wait_seconds: float,
        checksums: bool,  # noqa: FBT001  # as in `AnyStore`
    ) -> Lease:
        self._check_usable()
        wanted = await digests_of(namespace, tokens, digests)
        space = self._space(namespace)
        if isinstance(space, Refusal):
            return Lease(self._backend, 0, namespace)
        found = await self._keeper.find(self._owner, space, wanted, wait_seconds)
        if isinstance(found, Refusal):
            return Lease(self._backend, 0, namespace)
        slots = [chunk.slot for chunk in found.chunks]
        sums = [chunk.checksum for chunk in found.chunks] if checksums else []
        return Lease(self._backend, found.lease, namespace, slots, sums, pending=found.pending)

    async def _reserve(
        self, namespace: Namespace, digests: Sequence[bytes], first: int
    ) -> Reservation:
        self._check_usable()
        check_digests(digests, first)
        if not digests:
            return Reservation(self._backend, 0, namespace, reason="short")
        space = self._space(namespace)
        if isinstance(space, Refusal):
            return Reservation(self._backend, 0, namespace, reason=space.reason)
        parent = digests[first - 1] if first else b""
        got = await self._keeper.reserve(self._owner, space, parent, digests[first:])
        if isinstance(got, Refusal):
            again = BUSY_SECONDS if got.reason == "busy" else 0.0
            return Reservation(self._backend, 0, namespace, reason=got.reason, retry_after=again)
        slots = [chunk.slot for chunk in got.chunks]
        return Reservation(
            self._backend, got.reservation, namespace, slots, first=first + got.first
        )

    def _space(self, namespace: Namespace) -> Space | Refusal:
        ledger = self._keeper.ledger
        return ledger.open(namespace.digest, namespace.chunk_bytes, namespace.tenant)

    def __repr__(self) -> str:
        ledger = self._keeper.ledger
        return f"<Store of {ledger.chunks} chunks, {ledger.arena.used_bytes} bytes>"


class _InProcess:
    """What handles need of a store in this process."""

    def __init__(self, keeper: Keeper, owner: int) -> None:
        self._keeper, self._owner = keeper, owner

    def view(self, slot: int, size: int) -> memoryview:
        return self._keeper.view(slot, size)

    def release(self, lease: int) -> None:
        self._keeper.release(self._owner, lease)

    def abort(self, reservation: int) -> None:
        self._keeper.abort(self._owner, reservation)

    async def commit(self, reservation: int, checksums: Sequence[int], *, last: bool) -> bool:  # noqa: ARG002  # a service has to know
        return self._keeper.commit(self._owner, reservation, checksums)


def open_store(options: StoreOptions) -> AbstractAsyncContextManager[Store]:
    """Open a store in this process, for an ``async with`` block.

    Leaving gives its memory back. Views of chunks that are still referred to keep theirs.
    """
    return open_in_own_task(partial(_opened, options), "a KV store")


@asynccontextmanager
async def _opened(options: StoreOptions) -> AsyncIterator[Store]:
    async with open_keeper(options) as keeper:
        store = Store(keeper)
        try:
            yield store
        finally:
            store._closed = True  # noqa: SLF001  # the two are one thing
