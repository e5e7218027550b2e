"""The connection of a client to a service, made again whenever it has ended.

Where there is none the client goes on without: only who asks to waits for one. Belongs to one event
loop.
"""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import anyio

from ajit._system.in_thread import run_in_thread
from ajit.errors import KvError
from ajit.kv.feed import SlabFeed
from ajit.kv.link import Link, LinkLost
from ajit.kv.messages import ProtocolError, Retired
from ajit.kv.place import check_folder
from ajit.kv.sockets import ENDED, UnixStream, connect_unix

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Connector"]

FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 1.0
"""Between two attempts to connect; each is twice the one before, and some of it by chance."""
STEADY_SECONDS = 2.0
"""A connection that ends sooner is no reason to try again at once."""
HELLO_SECONDS = 5.0
MOST_RETIRED = 64
"""Former connections that are named in one hello."""

_NO_HELLO = f"it accepts connections, but did not answer for {HELLO_SECONDS:g} s: stopped, or busy"
_NO_SERVICE = (*ENDED, LinkLost, TimeoutError, ProtocolError, KvError)
"""Why there may be no connection."""


class Connector:
    """Keeps a client connected.

    Args:
        path: The socket of the service.
        watches: Whether it only asks how the service is.

    Attributes:
        path: The socket of the service.
        link: The connection; None while there is none.
        links: That one, and former ones of which something is held.
        feed: Tells of slabs as they come and go, those of former connections included.
        connections: How often there was one.
        connected: Set while there is one.
        problem: Why there was no connection, the last time that there was none; "" if there always
            was one.
        refused: The same, if what serves there must not be used.
    """

    def __init__(self, path: Path, *, watches: bool = False) -> None:
        self.path = path
        self._watches = watches
        self.link: Link | None = None
        self.links: set[Link] = set()
        self.feed = SlabFeed()
        self.connections = 0
        self.connected = anyio.Event()
        self.problem = ""
        self.refused: KvError | None = None
        self._retired: list[bytes] = []
        self._tried = anyio.Event()

    async def keep_connected(self) -> None:
        """Connect, and again, until cancelled."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            link = await self._connect()
            self._tried.set()
            if link is not None:
                begun = time.monotonic()
                await self._use(link)
                if time.monotonic() - begun > STEADY_SECONDS:
                    pause = FIRST_PAUSE_SECONDS
            await anyio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _use(self, link: Link) -> None:
        self.link = link
        self.connections += 1
        self.links.add(link)
        self.connected.set()
        try:
            await link.run()
        finally:
            self.link, self.connected = None, anyio.Event()
            self.problem = link.problem
            link.close()

    async def _connect(self) -> Link | None:
        retired = self._retired[:MOST_RETIRED]
        stream: UnixStream | None = None
        link: Link | None = None
        try:
            await run_in_thread(check_folder, self.path, limiter=anyio.CapacityLimiter(1))
            stream = await connect_unix(self.path)
            link = Link(stream, self._link_retired, self.feed)
            with anyio.move_on_after(HELLO_SECONDS) as waited:
                await self._greet(link, retired)
            if waited.cancelled_caught:
                raise TimeoutError(_NO_HELLO)  # noqa: TRY301  # the stream is closed below
        except BaseException as exc:
            if link is not None:
                link.close()  # with what it was sent
            elif stream is not None:
                stream.close()
            if not isinstance(exc, _NO_SERVICE):
                raise
            self.problem = f"{type(exc).__name__}: {exc}"
            self.refused = exc if isinstance(exc, KvError) else None
            return None
        del self._retired[: len(retired)]
        return link

    async def _greet(self, link: Link, retired: Sequence[bytes]) -> None:
        if link.peer_uid not in (os.geteuid(), 0):
            raise KvError(path=str(self.path), reason=f"user {link.peer_uid} serves there")
        await link.greet(retired, watches=self._watches)

    def _link_retired(self, link: Link) -> None:
        """A former link holds nothing any more: the service may use its memory again."""
        self.links.discard(link)
        if self.link is not None and not self.link.lost:
            self.link.post(lambda new: Retired(new, link.token))
        else:
            self._retired.append(link.token)

    async def wait_tried(self) -> None:
        """Wait for the end of the first attempt to connect."""
        await self._tried.wait()

    async def say_goodbye(self) -> None:
        """End the connection, and tell the service first if nothing is held."""
        if self.link is not None:
            await self.link.say_goodbye()
