"""One connection of a client to a service: requests on their way, and the memory that it maps.

A link lives from a hello to the end of its connection; the client makes the next one. What was
leased or reserved over a link belongs to it: its memory stays mapped, and the service keeps it,
until its handles have ended and the client has said so (`ajit.kv.messages.Retired`), however long
the link itself has been gone. Belongs to one event loop.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import anyio

from ajit.kv.framing import FrameBuffer, framed
from ajit.kv.health import HealthReader
from ajit.kv.memory import Slab
from ajit.kv.messages import (
    VERSION,
    Abort,
    Bye,
    Cancel,
    Commit,
    Done,
    Failed,
    Found,
    Hello,
    Open,
    ProtocolError,
    Release,
    Reserved,
    Slabs,
    Welcome,
    decode_answer,
    encode,
    pack_checksums,
)
from ajit.kv.outbox import Outbox
from ajit.kv.sockets import ENDED, UnixStream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ajit.kv.feed import SlabFeed
    from ajit.kv.keys import Namespace
    from ajit.kv.messages import Answer

__all__ = ["Link", "LinkLost"]

RECEIVE_BYTES = 64 << 10
COMMIT_SECONDS = 10.0
"""How long the answer to a commit is waited for: by then the engine goes on without it."""


GOODBYE_SECONDS = 1.0
"""How long the service may take to end a connection whose client has said goodbye."""


class LinkLost(Exception):
    """The connection has ended. What was asked is not known to be done."""


class _Asked:
    """A request that is not answered yet. Without an event, no task waits for it any more."""

    __slots__ = ("answer", "event")

    def __init__(self, *, waited: bool) -> None:
        self.event = anyio.Event() if waited else None
        self.answer: Answer | None = None


class Link:
    """A connection. Get it with `Link.open`, then `run` it.

    Attributes:
        token: What the service calls it.
        boot: Of the service.
        health: The page of the service.
        lost: Whether it has ended.
        problem: Why, as far as this side knows.
        live: Leases and reservations that have not ended.
    """

    def __init__(self, stream: UnixStream, retire: Callable[[Link], None], feed: SlabFeed) -> None:
        self.token = self.boot = b""
        self.health: HealthReader
        self.lost = False
        self.problem = ""
        self.live: set[tuple[str, int]] = set()
        self._stream, self._retire, self._feed = stream, retire, feed
        self._slab_bytes = 0
        self._slabs: list[Slab] = []
        self._descriptors: deque[int] = deque()
        self._outbox = Outbox()
        self._asked: dict[int, _Asked] = {}
        self._ids = count(1)
        self._spaces: dict[bytes, int] = {}
        self._answers: deque[Answer] = deque()
        self._buffer = FrameBuffer()
        self._ended = anyio.Event()
        self._retired = False

    # --- its life ---

    @property
    def peer_uid(self) -> int:
        """The user of the service."""
        found = self._stream.raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(found[4:8], "little")

    async def greet(self, retired: Sequence[bytes], *, watches: bool) -> None:
        """Say hello, and take the answer.

        Args:
            retired: Tokens of former links whose copies have ended.
            watches: Whether this side only asks how the service is.

        Raises:
            ProtocolError: What answers is no service of this version.
            LinkLost: The connection has ended.
        """
        try:
            await self._stream.send(framed(encode(Hello(VERSION, list(retired), watches))))
            answer = await self._next_answer()
        except ENDED as exc:
            raise LinkLost from exc
        if isinstance(answer, Failed):
            raise ProtocolError(answer.message)
        if not isinstance(answer, Welcome) or not self._descriptors:
            raise ProtocolError("the service did not say welcome")
        self.token, self.boot, self._slab_bytes = answer.token, answer.boot, answer.slab_bytes
        self.health = HealthReader(self._descriptors.popleft())

    async def run(self) -> None:
        """Send and receive until the connection ends, however it does. Never raises."""
        try:
            async with anyio.create_task_group() as group:

                async def send() -> None:
                    try:
                        await self._outbox.run(self._stream)
                    except ENDED:
                        group.cancel_scope.cancel()

                group.start_soon(send)
                # What it says and is not understood ends the link: nothing after it would be.
                try:
                    while True:
                        self._settle(await self._next_answer())
                except (*ENDED, ProtocolError) as exc:
                    self.problem = f"{type(exc).__name__}: {exc}"
                group.cancel_scope.cancel()
        finally:
            self._end()

    async def say_goodbye(self) -> None:
        """Tell the service that nothing is held any more, if so, and end the connection.

        `run` has to be running.
        """
        if not self.live and not self.lost:
            self._outbox.put(framed(encode(Bye())))
            with anyio.move_on_after(GOODBYE_SECONDS):
                await self._ended.wait()
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._stream.close()
        self._drop_descriptors()

    def _end(self) -> None:
        self.lost = True
        for asked in self._asked.values():
            if asked.event is not None:
                asked.event.set()
        self._asked.clear()
        self._drop_descriptors()
        self._ended.set()
        self._end_if_free()

    def _drop_descriptors(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def _end_if_free(self) -> None:
        if self.lost and not self.live and not self._retired:
            self._retired = True
            self._feed.close(self._slabs)
            self._retire(self)

    # --- receiving ---

    async def _next_answer(self) -> Answer:
        while not self._answers:
            data, descriptors = await self._stream.receive_descriptors(RECEIVE_BYTES)
            self._descriptors.extend(descriptors)
            self._answers.extend(map(decode_answer, self._buffer.feed(data)))
        return self._answers.popleft()

    def _settle(self, answer: Answer) -> None:
        if isinstance(answer, Slabs):
            self._take_slabs(answer)
            return
        asked = self._asked.pop(getattr(answer, "id", -1), None)
        if asked is None:
            raise ProtocolError("an answer to nothing")
        if asked.event is None:
            self._give_back(answer)
            return
        # Held from now on, and not from when its task runs: it may be cancelled before that.
        self._note(answer)
        asked.answer = answer
        asked.event.set()

    def _take_slabs(self, answer: Slabs) -> None:
        if answer.first != len(self._slabs) or answer.count > len(self._descriptors):
            raise ProtocolError("slabs that do not follow those before")
        for _ in range(answer.count):
            slab = Slab.map(self._descriptors.popleft(), self._slab_bytes)
            self._slabs.append(slab)
            self._feed.add(slab)

    def _note(self, answer: Answer) -> None:
        if isinstance(answer, Found) and answer.lease:
            self.live.add(("lease", answer.lease))
        elif isinstance(answer, Reserved):
            self.live.add(("reservation", answer.reservation))

    def _give_back(self, answer: Answer) -> None:
        """What was granted when none waited for it any more."""
        self._note(answer)
        if isinstance(answer, Found) and answer.lease:
            self.release(answer.lease)
        elif isinstance(answer, Reserved):
            self.abort(answer.reservation)

    # --- asking ---

    async def ask(self, make: Callable[[int], Any], timeout: float) -> Answer | None:
        """Send a request and wait for its answer.

        Args:
            make: Makes the request of its id.
            timeout: Seconds that the answer is waited for.

        Returns:
            None if it did not come in time.

        Raises:
            LinkLost: The connection has ended.

        Cancelling leaves nothing held: what is granted later is given back.
        """
        number, asked = self._send(make, waited=True)
        assert asked.event is not None  # it is waited for
        try:
            with anyio.move_on_after(timeout):
                await asked.event.wait()
        except BaseException:
            self._leave(number, asked)
            raise
        if asked.answer is None:
            if self.lost:
                raise LinkLost
            self._leave(number, asked)
        return asked.answer

    def _leave(self, number: int, asked: _Asked) -> None:
        asked.event = None
        if asked.answer is not None:
            self._give_back(asked.answer)
        elif not self.lost:
            self.post(lambda new: Cancel(new, number))

    def post(self, make: Callable[[int], Any]) -> None:
        """Send a request whose answer is of no interest. Never waits, never raises."""
        if not self.lost:
            self._send(make, waited=False)

    def _send(self, make: Callable[[int], Any], *, waited: bool) -> tuple[int, _Asked]:
        if self.lost:
            raise LinkLost
        number, asked = next(self._ids), _Asked(waited=waited)
        self._asked[number] = asked
        self._outbox.put(framed(encode(make(number))))
        return number, asked

    def space(self, namespace: Namespace) -> int:
        """The number of a namespace on this link; it is opened on the way of the first request."""
        number = self._spaces.get(namespace.digest)
        if number is None:
            number = self._spaces[namespace.digest] = len(self._spaces)
            args = number, namespace.digest, namespace.chunk_bytes, namespace.tenant
            self.post(lambda new: Open(new, *args))
        return number

    # --- for handles ---

    def view(self, slot: int, size: int) -> memoryview:
        """The bytes of a slot."""
        slab, offset = slot >> 16, (slot & 0xFFFF) * size
        return self._slabs[slab].view[offset : offset + size]

    def release(self, lease: int) -> None:
        """End a lease."""
        self._over(("lease", lease))
        self.post(lambda new: Release(new, lease))

    def abort(self, reservation: int) -> None:
        """Give a reservation up."""
        self._over(("reservation", reservation))
        self.post(lambda new: Abort(new, reservation))

    async def commit(self, reservation: int, checksums: Sequence[int], *, last: bool) -> bool:
        """Let lookups find chunks; whether they do. If not, the memory stays until `abort`."""
        packed = pack_checksums(checksums)
        answer: Answer | None = None
        with suppress(LinkLost):
            answer = await self.ask(lambda new: Commit(new, reservation, packed), COMMIT_SECONDS)
        done = isinstance(answer, Done) and answer.count == 1
        if done and last:
            self._over(("reservation", reservation))
        return done

    def _over(self, held: tuple[str, int]) -> None:
        self.live.discard(held)
        self._end_if_free()
