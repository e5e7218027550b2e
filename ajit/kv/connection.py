"""One client of a service: its requests, each answered once, and what it holds.

The reader decodes what comes. It answers at once what touches no memory (`Ping`, `Open`, `Release`,
...), and puts the rest in the service's line; what has to wait for memory or for another engine
waits in a task of its own. So no request holds up another one, of this client or of others.

No client holds up others either. In one turn of the loop so many of its frames are taken and no
more; none is while it has enough in line, or while it does not read what it was answered. If it
reads nothing for `UNREAD_SECONDS` it is sent away. What is no message closes this connection, and
only this one.
"""

from __future__ import annotations

import secrets
import time
from functools import partial
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint

from ajit._system.warn import warn_only
from ajit.kv.answering import TURNS, Answering, Asked, RefusedError, digests_in
from ajit.kv.framing import FrameBuffer, framed
from ajit.kv.messages import (
    VERSION,
    Answer,
    Bye,
    Failed,
    Hello,
    ProtocolError,
    Refused,
    Request,
    Slabs,
    Welcome,
    decode_request,
    encode,
)
from ajit.kv.outbox import Outbox, UnreadError
from ajit.kv.sockets import ENDED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from ajit.kv.peer import Peer
    from ajit.kv.service import Service
    from ajit.kv.sockets import UnixStream

__all__ = ["Connection"]

RECEIVE_BYTES = 64 << 10
FRAMES_A_TURN = 16
DIGESTS_A_TURN = 4096
"""Taken of one client in one turn of the loop, and one frame in any case: about 0.3 ms."""
LAST_WORD_SECONDS = 1.0
"""How long a client that is sent away may take to read why."""
HELLO_SECONDS = 10.0
"""How long a client may take to say what it speaks."""
UNREAD_SECONDS = 30.0
"""How long a client may leave what it was answered unread, once the kernel takes no more of it."""
MOST_SLABS_AT_ONCE = 64
"""Descriptors in one message; the kernel takes 253."""


class Connection:
    """One client, from its first message on.

    Attributes:
        peer: The process at the other end.
        token: What the client calls this connection by after it has ended.
        owner: Its number in the books.
        polite: Whether it has said that it holds nothing any more.
        problem: Why it was closed, if by what it sent or did not read; else "".
        counts: Whether it is a client: it has said hello, and does more than watch.
        unread: Whether it was closed for what it did not read.
    """

    def __init__(self, service: Service, stream: UnixStream, peer: Peer) -> None:
        self.peer, self.token = peer, secrets.token_bytes(16)
        self.owner = service.keeper.ledger.join()
        self.polite = self.unread = self.counts = False
        self.problem = ""
        self._service, self._keeper, self._stream = service, service.keeper, stream
        self._outbox = Outbox()
        self._in_flight: dict[int, Asked] = {}
        self._sent = anyio.Event()
        self._slabs_sent = 0
        self._frames = self._digests = 0
        self._group: TaskGroup
        self._answering = Answering(self, service)

    async def run(self) -> None:
        """Serve the client until its connection ends, or what it sends is no message."""
        try:
            async with anyio.create_task_group() as self._group:
                self._group.start_soon(self._send)
                self._group.start_soon(self._watch_process)
                await self._read()
                self._outbox.end()
                if self.problem:
                    with anyio.move_on_after(LAST_WORD_SECONDS):
                        await self._sent.wait()
                self._group.cancel_scope.cancel()
        finally:
            self._in_flight.clear()  # what is still in line is answered no more
            self._service.line.forget(self.owner)

    def close(self) -> None:
        """End it from the service's side."""
        self._group.cancel_scope.cancel()

    # --- reading and sending ---

    async def _read(self) -> None:
        buffer, begun = FrameBuffer(), False
        try:
            with anyio.fail_after(HELLO_SECONDS) as hello:
                while not self.polite:
                    data = await self._stream.receive(RECEIVE_BYTES)
                    for payload in buffer.feed(data):
                        request = decode_request(payload)
                        if not begun:
                            begun = self._greet(request)
                            hello.deadline = float("inf")
                        else:
                            await self._wait_for_turn(request)
                            self._take(request)
        except (ProtocolError, TimeoutError) as exc:
            self.problem = str(exc) or "it never said hello"
        except ENDED:
            return

    async def _wait_for_turn(self, request: Request) -> None:
        """Wait until this client may have one more request: others have their turn meanwhile."""
        self._frames += 1
        self._digests += digests_in(request)
        if self._frames > FRAMES_A_TURN or self._digests > DIGESTS_A_TURN:
            self._frames, self._digests = 1, digests_in(request)
            await checkpoint()
        await self._outbox.wait_for_room()
        await self._service.line.wait_for_room(self.owner)

    async def _send(self) -> None:
        try:
            await self._outbox.run(self._stream, UNREAD_SECONDS)
            self._sent.set()
        except UnreadError as exc:
            self.problem, self.unread = str(exc), True
            self._group.cancel_scope.cancel()
        except ENDED:
            self._group.cancel_scope.cancel()

    async def _watch_process(self) -> None:
        """A child of a killed client may keep the socket open: the process counts."""
        await self.peer.wait_gone()
        self._group.cancel_scope.cancel()

    def _put(self, answer: Answer) -> None:
        self._outbox.put(framed(encode(answer)))

    def _greet(self, request: Request) -> bool:
        if not isinstance(request, Hello):
            raise ProtocolError("the first message is no hello")
        if request.version != VERSION:
            self._put(Failed(0, "version", f"this service speaks version {VERSION}"))
            raise ProtocolError(f"a client of version {request.version}")
        self.counts = not request.watches
        self._service.joined_clients += self.counts
        for token in request.retired:
            self._service.retired(token)
        boot, slab_bytes = self._service.boot, self._keeper.options.slab_bytes
        welcome = Welcome(VERSION, boot, self.token, slab_bytes)
        self._outbox.put(framed(encode(welcome)), [self._service.page.descriptor])
        self._send_slabs()
        return True

    def _send_slabs(self) -> None:
        """Send the slabs that this client does not have yet, before what names them."""
        slabs = self._keeper.slabs
        while self._slabs_sent < len(slabs):
            more = slabs[self._slabs_sent : self._slabs_sent + MOST_SLABS_AT_ONCE]
            frame = framed(encode(Slabs(self._slabs_sent, len(more))))
            self._outbox.put(frame, [slab.descriptor for slab in more])
            self._slabs_sent += len(more)

    # --- requests ---

    def _take(self, request: Request) -> None:
        if isinstance(request, Hello):
            raise ProtocolError("a second hello")
        if isinstance(request, Bye):
            self.polite = True
            return
        if request.id in self._in_flight:
            raise ProtocolError(f"request {request.id} is in flight")
        asked = self._in_flight[request.id] = Asked.of(request)
        if type(request) in TURNS:
            self.put_in_line(request, asked)
        else:
            self._do(request, asked)

    def put_in_line(self, request: Request, asked: Asked) -> None:
        """Do a request that touches the books when its turn comes."""
        do = partial(self._do, request, asked)
        self._service.line.put(TURNS[type(request)], self.owner, asked.digests, do)

    def _do(self, request: Request, asked: Asked) -> None:
        """Answer a request, or start the task that does. Whatever fails is an answer."""
        if not self._waits(asked):
            return  # it was cancelled, or the client has gone
        if asked.due <= time.monotonic():
            self._fail(asked, "deadline", "it was not done in time")
            return
        try:
            if asked.scope is None:  # else it has waited, and is counted already
                self._service.meet(request)
            self._answering.do(request, asked)
        except RefusedError as exc:
            self.answer(asked, Refused(asked.id, str(exc)))
        except Exception as exc:  # noqa: BLE001  # an error is an answer, and no reason to end
            self._broke(asked, exc)

    def _waits(self, asked: Asked) -> bool:
        """Whether a request is not answered yet. A later one may have the same id."""
        return self._in_flight.get(asked.id) is asked

    def answer(self, asked: Asked, answer: Answer) -> None:
        """Answer a request, unless it was answered."""
        if self._waits(asked):
            del self._in_flight[asked.id]
            self._send_slabs()
            self._put(answer)

    def _fail(self, asked: Asked, code: str, message: str) -> None:
        self.answer(asked, Failed(asked.id, code, message))

    def _broke(self, asked: Asked, error: Exception) -> None:
        name = f"{type(error).__name__}: {error}"
        unknown = isinstance(error, LookupError)
        if not unknown:
            warn_only(f"the KV service could not do a request: {name}")
        self._fail(asked, "unknown" if unknown else "internal", name[:200])

    def later(self, asked: Asked, do: Callable[[], Awaitable[None]]) -> None:
        """Go on with a request in a task of its own, which has to be done in time."""
        left = asked.due - time.monotonic()
        asked.scope = anyio.CancelScope(deadline=anyio.current_time() + left)
        self._group.start_soon(self._run_later, asked, asked.scope, do)

    async def _run_later(
        self, asked: Asked, scope: anyio.CancelScope, do: Callable[[], Awaitable[None]]
    ) -> None:
        try:
            with scope:
                await do()
                return
        except Exception as exc:  # noqa: BLE001  # as in `_do`
            self._broke(asked, exc)
        self._fail(asked, "deadline", "it was not done in time")  # unless it is answered

    def cancel(self, number: int, by: Asked) -> None:
        """Answer a request now, if it is not answered, and is not the one that asks for it."""
        other = self._in_flight.get(number)
        if other is not None and other is not by:
            self._fail(other, "cancelled", "the client has cancelled it")
            if other.scope is not None:
                other.scope.cancel()
