"""What is to be sent on one connection: in order, by one task, with descriptors.

Requests never wait for a peer that does not read. What is queued is bounded by the reader, which
takes no more requests while too much waits here (`Outbox.wait_for_room`), and in time.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit.kv.sockets import UnixStream

__all__ = ["Outbox", "UnreadError"]

MOST_QUEUED_BYTES = 1 << 20
"""Pretty arbitrary: some hundred answers to lookups of long prompts."""
MOST_SEND_BYTES = 64 << 10
"""Sent at once, as long as there are no descriptors in between."""


class UnreadError(Exception):
    """A peer does not read what is sent to it."""


class Outbox:
    """The frames that wait to be sent. Belongs to one event loop."""

    def __init__(self) -> None:
        self._frames: deque[tuple[bytes, Sequence[int]]] = deque()
        self._bytes = 0
        self._more, self._less = anyio.Event(), anyio.Event()
        self._closing = False

    def put(self, frame: bytes, descriptors: Sequence[int] = ()) -> None:
        """Queue a frame. Never waits."""
        self._frames.append((frame, descriptors))
        self._bytes += len(frame)
        self._more.set()

    def end(self) -> None:
        """Let `run` return when all is sent."""
        self._closing = True
        self._more.set()

    async def wait_for_room(self) -> None:
        """Wait until not too much is queued."""
        while self._bytes > MOST_QUEUED_BYTES:
            self._less = anyio.Event()
            await self._less.wait()

    async def run(self, stream: UnixStream, patience_seconds: float = math.inf) -> None:
        """Send what is queued, as it comes.

        Args:
            stream: The connection.
            patience_seconds: How long one piece, of 128 KiB at most, may take.

        Raises:
            UnreadError: It took longer: the peer does not read.
            OSError: The connection has ended; or `anyio.ClosedResourceError`.
        """
        while True:
            if not self._frames:
                if self._closing:
                    return
                self._more = anyio.Event()
                await self._more.wait()
                continue
            data, descriptors = self._next()
            with anyio.move_on_after(patience_seconds) as patience:
                await stream.send(data, descriptors)
            if patience.cancelled_caught:
                raise UnreadError(f"it does not read what it is sent (for {patience_seconds:g} s)")
            self._bytes -= len(data)
            self._less.set()

    def _next(self) -> tuple[bytes, Sequence[int]]:
        data, descriptors = self._frames.popleft()
        if descriptors:
            return data, descriptors
        parts, size = [data], len(data)
        while self._frames and not self._frames[0][1] and size < MOST_SEND_BYTES:
            more, _ = self._frames.popleft()
            parts.append(more)
            size += len(more)
        return b"".join(parts), ()
