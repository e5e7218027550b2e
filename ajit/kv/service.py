"""The service: a store behind a unix socket, for the engines of one user on one machine.

It keeps memory and index; engines map the memory and copy themselves. So it needs no driver, and
what it does for a request takes microseconds. What a client holds is given back when its process is
gone, or when the client says that its copies have ended: see `ajit.kv.peer` for why the end of a
connection is not enough. Belongs to one event loop.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from ajit._system.in_thread import run_in_thread
from ajit._system.own_block import open_in_own_task
from ajit._system.warn import warn_only
from ajit.kv.connection import Connection
from ajit.kv.events import ClientGone, ClientJoined, ClientLost, ClientRejected
from ajit.kv.health import BEAT_SECONDS, HealthPage
from ajit.kv.keeper import Keeper, open_keeper
from ajit.kv.line import Line
from ajit.kv.metrics import metrics_text
from ajit.kv.peer import Peer, peer_of
from ajit.kv.place import claim, default_socket
from ajit.kv.sockets import UnixStream, accept
from ajit.kv.statistics import ServiceStatistics, statistics_of

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import TaskGroup

    from ajit.kv.events import KvEvent, KvSubscriber
    from ajit.kv.messages import Request
    from ajit.kv.options import StoreOptions

__all__ = ["Service", "open_service", "serve"]

MOST_CLIENTS = 512
"""Pretty arbitrary: engines of one machine, with some processes each."""


class Service:
    """A store that is being served. Get it with `open_service`.

    Attributes:
        path: Its socket.
        boot: 16 bytes, other ones after each start.
        keeper: The store.
        line: Requests that touch its books.
        page: Its health, for clients to map.
        lag_seconds: How much too late the loop was at the last beat.
        waits_refused: Requests that were refused, for too many of their client wait already.
        joined_clients: Clients so far.
    """

    def __init__(self, path: Path, keeper: Keeper, group: TaskGroup) -> None:
        self.path, self.keeper = path, keeper
        self.boot = secrets.token_bytes(16)
        self.line = Line()
        self.page = HealthPage(self.boot)
        self.lag_seconds = 0.0
        self._group = group
        self._connections: set[Connection] = set()
        self._lingering: dict[bytes, anyio.Event] = {}
        self._longest_lag = 0.0
        self._requests = self._refused_clients = self._violations = self._unread_clients = 0
        self._lost = self.joined_clients = self.waits_refused = 0
        self._since = time.monotonic()

    # --- clients ---

    async def serve(self, listener: socket.socket) -> None:
        """Take clients, until cancelled."""
        while True:
            try:
                stream = await accept(listener)
            except OSError as exc:
                # No descriptors are left, say. Clients wait in the kernel's queue meanwhile.
                warn_only(f"the KV service could not take a client: {exc}")
                await anyio.sleep(BEAT_SECONDS)
                continue
            self._group.start_soon(self._welcome, stream)

    async def _welcome(self, stream: UnixStream) -> None:
        try:
            await self._check_and_serve(stream)
        except OSError:
            self._refused_clients += 1
        except Exception as exc:  # noqa: BLE001  # a defect ends this client's connection only
            warn_only(f"the KV service lost a client by {type(exc).__name__}: {exc}")
        finally:
            stream.close()

    async def _check_and_serve(self, stream: UnixStream) -> None:
        peer = peer_of(stream.raw)
        try:
            if self._may_come(peer):
                await self._serve_client(stream, peer)
            else:
                self._refused_clients += 1
        finally:
            peer.close()

    def _may_come(self, peer: Peer) -> bool:
        return peer.uid in (os.geteuid(), 0) and len(self._connections) < MOST_CLIENTS

    async def _serve_client(self, stream: UnixStream, peer: Peer) -> None:
        connection = Connection(self, stream, peer)
        self._connections.add(connection)
        ended = time.monotonic()
        self._tell(lambda: ClientJoined(pid=peer.pid, clients=len(self._connections)))
        try:
            await connection.run()
            ended = time.monotonic()
            self._connections.discard(connection)
            stream.close()  # a client that sent garbage sees it now
            if connection.problem:
                self._unread_clients += connection.unread
                self._violations += not connection.unread
                self._tell(lambda: ClientRejected(pid=peer.pid, reason=connection.problem))
            if not connection.polite and not self.keeper.ledger.holds_nothing(connection.owner):
                self._lost += 1
                self._tell(lambda: ClientLost(pid=peer.pid))
                await self._linger(connection)
        finally:
            self._connections.discard(connection)
            self.keeper.gone(connection.owner)
            kept = time.monotonic() - ended
            self._tell(lambda: ClientGone(pid=peer.pid, kept_seconds=kept))

    def subscribe(self, subscriber: KvSubscriber) -> Callable[[], None]:
        """Be told of every event (`ajit.kv.events`); the returned function ends that."""
        return self.keeper.events.subscribe(subscriber)

    def _tell(self, make: Callable[[], KvEvent]) -> None:
        if self.keeper.events.listening:
            self.keeper.events.emit(make())

    async def _linger(self, connection: Connection) -> None:
        """Keep what a client held until its process is gone, or it says that it copies no more."""
        self.keeper.lost(connection.owner)
        retired = self._lingering[connection.token] = anyio.Event()
        try:
            async with anyio.create_task_group() as group:

                async def wait_gone() -> None:
                    await connection.peer.wait_gone()
                    group.cancel_scope.cancel()

                group.start_soon(wait_gone)
                await retired.wait()
                group.cancel_scope.cancel()
        finally:
            del self._lingering[connection.token]

    def retired(self, token: bytes) -> None:
        """A client says that the copies of a former connection have ended."""
        event = self._lingering.get(token)
        if event is not None:
            event.set()
        for connection in self._connections:
            if connection.token == token:  # the client has seen its end before this loop has
                connection.polite = True
                connection.close()

    @property
    def clients(self) -> int:
        """How many clients are connected, those that only watch left out."""
        return sum(each.counts for each in self._connections)

    def meet(self, request: Request) -> None:  # noqa: ARG002  # tests put a fault here
        """Count a request that is done now."""
        self._requests += 1

    # --- health ---

    async def beat(self) -> None:
        """Write the health page as long as the service runs."""
        while True:
            due = anyio.current_time() + BEAT_SECONDS
            self._write_beat()
            await anyio.sleep_until(due)
            self.lag_seconds = max(0.0, anyio.current_time() - due)
            self._longest_lag = max(self._longest_lag, self.lag_seconds)

    def _write_beat(self) -> None:
        ledger = self.keeper.ledger
        self.page.beat(
            self.lag_seconds,
            ledger.arena.used_bytes,
            self.keeper.options.limit_bytes,
            self.clients,
            ledger.leases,
            ledger.reservations,
        )

    def statistics(self) -> ServiceStatistics:
        """What the service holds, and what has happened since it was started."""
        return ServiceStatistics(
            store=statistics_of(self.keeper),
            clients=self.clients,
            joined_clients=self.joined_clients,
            lost_clients=self._lost,
            lingering=len(self._lingering),
            refused_clients=self._refused_clients,
            protocol_errors=self._violations,
            unread_clients=self._unread_clients,
            waits_refused=self.waits_refused,
            requests=self._requests,
            queued=len(self.line),
            lag_seconds=self.lag_seconds,
            longest_lag_seconds=self._longest_lag,
            up_seconds=time.monotonic() - self._since,
        )

    def metrics(self) -> str:
        """The same as text for Prometheus, to be served by any server in this process."""
        return metrics_text(self.values())

    def values(self) -> dict[str, int | float | str]:
        """The same, flat, for a message."""
        values = asdict(self.statistics())
        flat: dict[str, int | float | str] = values.pop("store")
        return flat | values | {"pid": os.getpid(), "boot": self.boot.hex()}


def open_service(
    options: StoreOptions, path: str | os.PathLike[str] | None = None
) -> AbstractAsyncContextManager[Service]:
    """Serve a store on a unix socket, in an ``async with`` block.

    Args:
        options: What the store may use.
        path: Of the socket; default: `default_socket`.

    Raises:
        KvError: Another service listens there, or other users could put a socket there. Nothing
            was started.

    Leaving ends all connections. Clients miss from then on, and connect to the next service that
    listens there; memory that they have mapped stays theirs until they let it go.
    """
    place = default_socket() if path is None else Path(path)
    return open_in_own_task(partial(_serving, options, place), "a KV service")


async def serve(
    options: StoreOptions,
    path: str | os.PathLike[str] | None,
    main: Callable[[Service], Awaitable[None]],
) -> None:
    """Serve a store on a unix socket, in this task, until cancelled or `main` returns.

    Args:
        options: What the store may use.
        path: Of the socket; default: `default_socket`.
        main: Called when it listens. It ends with the service, however that ends.

    Raises:
        KvError: As `open_service`.
    """
    place = default_socket() if path is None else Path(path)
    async with _serving(options, place) as service:
        await main(service)


@asynccontextmanager
async def _serving(options: StoreOptions, path: Path) -> AsyncIterator[Service]:
    claimed = await run_in_thread(claim, path, limiter=anyio.CapacityLimiter(1))
    try:
        async with (
            open_keeper(options) as keeper,
            _running(path, keeper, claimed.listener) as service,
        ):
            yield service
    finally:
        with anyio.CancelScope(shield=True):
            await run_in_thread(claimed.give_up, limiter=anyio.CapacityLimiter(1))


@asynccontextmanager
async def _running(path: Path, keeper: Keeper, listener: socket.socket) -> AsyncIterator[Service]:
    page: HealthPage | None = None
    try:
        async with anyio.create_task_group() as group:
            service = Service(path, keeper, group)
            page = service.page
            for task in (service.line.run, service.beat):
                group.start_soon(task)
            group.start_soon(service.serve, listener)
            try:
                yield service
            finally:
                group.cancel_scope.cancel()
    finally:
        if page is not None:
            page.close()
