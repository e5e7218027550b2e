"""A client of the service: the calls of a store, over a socket that may come and go.

As long as there is no service the client misses, and stores nothing; it raises nothing, and waits
for nothing. It connects again in the background, with pauses that grow to a second. Each call has a
timeout, and where the health page of the service stands still, none is even sent: an engine never
waits for a service that does not answer. Belongs to one event loop.
"""

from __future__ import annotations

import os
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from ajit._core.short_repr import short_repr
from ajit._system.own_block import open_in_own_task
from ajit.kv.connector import Connector
from ajit.kv.face import AnyStore, check_digests, digests_of
from ajit.kv.handles import Lease, Reservation
from ajit.kv.link import Link, LinkLost
from ajit.kv.messages import (
    MOST_CHUNKS,
    MOST_SECONDS,
    Discard,
    Done,
    Find,
    Found,
    Ping,
    Pong,
    Refused,
    Reserve,
    Reserved,
    Stat,
    Stats,
    pack_digests,
    unpack_checksums,
    unpack_slots,
)
from ajit.kv.place import default_socket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import Any

    from ajit.kv.health import Health
    from ajit.kv.keys import Namespace, Tokens
    from ajit.kv.messages import Answer

__all__ = ["ClientStatistics", "StoreClient", "connect", "watch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStatistics:
    """What a client has seen.

    Attributes:
        connected: Whether there is a service.
        connections: How often it has connected.
        lookups: Leases that were asked for.
        chunks_found: Chunks that they have.
        disconnected: Calls without a service, which miss or store nothing.
        timeouts: Calls whose answer did not come in time.
        silent: Calls that were not sent, for the service's health page stood still.
        failed: Calls that the service answered with an error.
        held: Leases and reservations that have not ended, those of former connections included.
        problem: Why there was no service, the last time that there was none; "" if there always was
            one.
    """

    connected: bool
    connections: int
    lookups: int
    chunks_found: int
    disconnected: int
    timeouts: int
    silent: int
    failed: int
    held: int
    problem: str

    def __repr__(self) -> str:
        return short_repr(self)


class StoreClient(AnyStore):
    """A store in a service. Get it with `connect`."""

    def __init__(self, connector: Connector, timeout: float, patience_seconds: float) -> None:
        super().__init__()
        self._connector, self.slabs = connector, connector.feed
        self._timeout, self._patience_seconds = timeout, patience_seconds
        names = "lookups", "chunks_found", "disconnected", "timeouts", "silent", "failed"
        self._counts = dict.fromkeys(names, 0)

    # --- calls ---

    async def discard(self, namespace: Namespace, digest: bytes) -> int:
        """Take a chunk whose bytes are not what they should be out of the index.

        Returns:
            How many chunks were removed; 0 without a service.
        """
        check_digests([digest], 0)
        answer = await self._ask(
            lambda link: lambda new: Discard(new, link.space(namespace), digest), self._timeout
        )
        return answer[1].count if answer and isinstance(answer[1], Done) else 0

    async def ping(self) -> float | None:
        """Ask the service's loop for an answer.

        Returns:
            How long it took, in seconds; None if there was none in time.
        """
        begun = time.monotonic()  # uvloop's own clock has steps of a millisecond
        answer = await self._ask(lambda _: Ping, self._timeout)
        is_pong = answer is not None and isinstance(answer[1], Pong)
        return time.monotonic() - begun if is_pong else None

    async def service_statistics(self) -> dict[str, int | float | str] | None:
        """What the service has counted, see `ajit.kv.ServiceStatistics`; None without one."""
        answer = await self._ask(lambda _: Stat, self._timeout)
        return answer[1].values if answer and isinstance(answer[1], Stats) else None

    def health(self) -> Health | None:
        """The health page of the service, which needs no message; None without a service."""
        return None if self._connector.link is None else self._connector.link.health.read()

    async def wait_connected(self) -> None:
        """Wait until there is a service. Cancelling only leaves."""
        self._check_usable()
        await self._connector.connected.wait()

    def statistics(self) -> ClientStatistics:
        """What this client has seen."""
        return ClientStatistics(
            connected=self._connector.link is not None,
            held=sum(len(link.live) for link in self._connector.links),
            connections=self._connector.connections,
            problem=self._connector.problem,
            **self._counts,
        )

    async def _lease(
        self,
        namespace: Namespace,
        tokens: Tokens | None,
        digests: Sequence[bytes] | None,
        wait_seconds: float,
        checksums: bool,  # noqa: FBT001  # as in `AnyStore`
    ) -> Lease:
        wanted = await digests_of(namespace, tokens, digests)
        packed = pack_digests(wanted[:MOST_CHUNKS])
        wait = min(max(0.0, wait_seconds), MOST_SECONDS / 2)
        seconds = wait + self._timeout
        self._counts["lookups"] += 1
        found = await self._ask(
            lambda link: (
                lambda new: Find(new, link.space(namespace), packed, seconds, wait, checksums)
            ),
            seconds,
        )
        if found is None or not isinstance(found[1], Found):
            return Lease(_NOTHING, 0, namespace)
        link, answer = found
        slots, sums = unpack_slots(answer.slots), unpack_checksums(answer.checksums)
        self._counts["chunks_found"] += len(slots)
        return Lease(link, answer.lease, namespace, slots, sums, pending=answer.pending)

    async def _reserve(
        self, namespace: Namespace, digests: Sequence[bytes], first: int
    ) -> Reservation:
        check_digests(digests, first)
        if not digests:
            return Reservation(_NOTHING, 0, namespace, reason="short")
        parent = digests[first - 1] if first else b""
        packed = pack_digests(digests[first : first + MOST_CHUNKS])
        got = await self._ask(
            lambda link: (
                lambda new: Reserve(new, link.space(namespace), parent, packed, self._timeout)
            ),
            self._timeout,
        )
        if got is None or not isinstance(got[1], Reserved):
            reason, again = "failed" if got else "disconnected", 0.0
            if got is not None and isinstance(got[1], Refused):
                reason, again = got[1].reason, got[1].retry_after
            return Reservation(_NOTHING, 0, namespace, reason=reason, retry_after=again)
        link, answer = got
        slots = unpack_slots(answer.slots)
        begin = first + answer.first
        return Reservation(link, answer.reservation, namespace, slots, first=begin)

    async def _ask(
        self, make: Callable[[Link], Callable[[int], Any]], timeout: float
    ) -> tuple[Link, Any] | None:
        """Ask the service, if there is one that answers; None if not."""
        self._check_usable()
        link = self._connector.link
        if link is None:
            self._counts["disconnected"] += 1
            return None
        if link.health.read().silent_seconds > self._patience_seconds:
            self._counts["silent"] += 1
            return None
        answer: Answer | None
        try:
            answer = await link.ask(make(link), timeout)
        except LinkLost:
            self._counts["disconnected"] += 1
            return None
        if answer is None:
            self._counts["timeouts"] += 1
            return None
        self._counts["failed"] += type(answer).__name__ == "Failed"
        return link, answer

    def __repr__(self) -> str:
        state = "connected" if self._connector.link is not None else "not connected"
        return f"<StoreClient of {self._connector.path}, {state}>"


class _Nothing:
    """The backend of handles without a service: they have no slot, and end as they begin."""

    def view(self, slot: int, size: int) -> memoryview:
        raise NotImplementedError

    def release(self, lease: int) -> None:
        pass

    def abort(self, reservation: int) -> None:
        pass

    async def commit(self, reservation: int, checksums: Sequence[int], *, last: bool) -> bool:  # noqa: ARG002
        return False


_NOTHING = _Nothing()


def connect(
    path: str | os.PathLike[str] | None = None,
    *,
    timeout: float = 1.0,
    patience_seconds: float = 2.0,
) -> AbstractAsyncContextManager[StoreClient]:
    """Use the service on a socket, in an ``async with`` block.

    It need not be there: without it every lookup is a miss. The block begins after the first
    attempt to connect.

    Args:
        path: Of the socket; default: that of `ajit kv serve`.
        timeout: Seconds that an answer is waited for; then it counts as a miss.
        patience_seconds: Calls are not sent when the service's health page has stood still for so
            long.

    Raises:
        KvError: Other users could put a socket there, or have. Nothing was sent.

    Leaving ends the connection. Memory of leases and reservations that are still held then is kept
    by the service until this process has ended.
    """
    place = default_socket() if path is None else Path(path)
    client = partial(_connected, Connector(place), timeout, patience_seconds)
    return open_in_own_task(client, "a client of a KV service")


def watch(path: Path, *, timeout: float) -> AbstractAsyncContextManager[StoreClient]:
    """Connect as `connect` does, only to ask how a service is: it is not counted as a client."""
    client = partial(_connected, Connector(path, watches=True), timeout, timeout)
    return open_in_own_task(client, "a watcher of a KV service")


@asynccontextmanager
async def _connected(
    connector: Connector, timeout: float, patience_seconds: float
) -> AsyncIterator[StoreClient]:
    async with anyio.create_task_group() as group:
        group.start_soon(connector.keep_connected)
        try:
            await connector.wait_tried()
            if connector.refused is None:
                client = StoreClient(connector, timeout, patience_seconds)
                try:
                    yield client
                finally:
                    client._closed = True  # noqa: SLF001  # the two are one thing
        finally:
            with anyio.CancelScope(shield=True):
                await connector.say_goodbye()
            group.cancel_scope.cancel()
    if connector.refused is not None and not connector.connections:
        raise connector.refused
