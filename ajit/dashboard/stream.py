"""Server-sent events: snapshots to a bounded number of clients, none of which can hold up another.

A client's task sends what is the latest, when it is new: who is slow gets fewer, and nothing is
kept for it. Who takes nothing for `SEND_SECONDS` is dropped. A stream ends when its server is about
to, and after `STREAM_SECONDS` anyhow; the page connects again.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from ajit.dashboard.background import Seen
    from ajit.dashboard.feed import Feed

__all__ = ["MOST_CLIENTS", "Clients", "EventStream"]

MOST_CLIENTS = 32
"""Streams at once."""

LOOK_SECONDS = 0.25
"""How often a client's task looks whether there is a new snapshot."""

SEND_SECONDS = 10.0
"""How long a client may take nothing."""

STREAM_SECONDS = 120.0
"""How long a stream lasts. Its end costs the page a quarter of a second, and some servers wait for
all connections before they end."""

RETRY_MILLISECONDS = 250
"""What the page waits before it connects again."""

PING_SECONDS = 5.0
"""After so long without a snapshot, a comment is sent: so a proxy does not end the connection."""

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),  # nginx would keep events until it has some KiB
]


class Clients:
    """Counts streams."""

    def __init__(self, most: int = MOST_CLIENTS) -> None:
        self._most = most
        self.number = 0

    @property
    def full(self) -> bool:
        """Whether there is no place for another one."""
        return self.number >= self._most

    def __enter__(self) -> None:
        self.number += 1

    def __exit__(self, *_: object) -> None:
        self.number -= 1


class EventStream:
    """An ASGI response that sends snapshots until the client leaves.

    Args:
        feed: Where they come from.
        clients: Of which this is one.
        headers: Sent besides its own.
    """

    def __init__(self, feed: Feed, clients: Clients, headers: list[tuple[bytes, bytes]]) -> None:
        self._feed = feed
        self._clients = clients
        self._headers = [*HEADERS, *headers]

    async def __call__(
        self,
        _scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Serve one client."""
        with self._clients:
            start = {"type": "http.response.start", "status": 200, "headers": self._headers}
            await send(start)
            async with anyio.create_task_group() as group:
                group.start_soon(_until_gone, receive, group.cancel_scope)
                await self._send_on(send)
                group.cancel_scope.cancel()

    async def _send_on(self, send: Callable[[MutableMapping[str, Any]], Awaitable[None]]) -> None:
        body = f"retry: {RETRY_MILLISECONDS}\n\n".encode()
        sent, last = 0, anyio.current_time()
        end = last + STREAM_SECONDS
        while anyio.current_time() < end and not _server_is_ending():
            seen = self._feed.latest()
            if seen.number != sent:
                body += _message(seen)
                sent = seen.number
            if not body and anyio.current_time() - last > PING_SECONDS:
                body = b": the server lives\n\n"
            if body:
                with anyio.move_on_after(SEND_SECONDS) as sending:
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                if sending.cancelled_caught:
                    return  # it is dropped: what it was sent last, it does not take either
                body, last = b"", anyio.current_time()
            await anyio.sleep(LOOK_SECONDS)
        with anyio.move_on_after(SEND_SECONDS):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _message(seen: Seen[bytes]) -> bytes:
    if seen.problem or seen.value is None:
        return b"event: problem\ndata: " + msgspec.json.encode(seen.problem) + b"\n\n"
    return b"event: snapshot\ndata: " + seen.value + b"\n\n"


async def _until_gone(
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]], scope: anyio.CancelScope
) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _server_is_ending() -> bool:
    """Whether a uvicorn server in this thread has been told to end.

    It waits for all connections before it tells its application, and a stream would go on. Its
    handler of SIGTERM is a method of the server, which knows.
    """
    handler = signal.getsignal(signal.SIGTERM)
    return getattr(getattr(handler, "__self__", None), "should_exit", False) is True
