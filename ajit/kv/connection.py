"""One client of a service: its requests, each answered once, and what it holds.

The reader decodes what comes. It answers at once what touches no memory (`Ping`, `Open`, `Release`,
...), and puts the rest in the service's line; what has to wait for memory or for another engine
waits in a task of its own. So no request holds up another one, of this client or of others. What is
no message closes this connection, and only this one.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from ajit._system.warn import warn_only
from ajit.kv import line
from ajit.kv.chunk import Found, Refusal, Reserved, Space
from ajit.kv.framing import FrameBuffer, framed
from ajit.kv.messages import (
    MOST_SECONDS,
    VERSION,
    Abort,
    Bye,
    Cancel,
    Commit,
    Discard,
    Done,
    Failed,
    Find,
    Hello,
    Open,
    Ping,
    Pong,
    ProtocolError,
    Refused,
    Release,
    Reserve,
    Retired,
    Slabs,
    Stat,
    Stats,
    Welcome,
    decode_request,
    encode,
    pack_checksums,
    pack_slots,
    unpack_checksums,
    unpack_digests,
)
from ajit.kv.messages import Found as FoundAnswer
from ajit.kv.messages import Reserved as ReservedAnswer
from ajit.kv.outbox import Outbox
from ajit.kv.sockets import ENDED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from ajit.kv.messages import Answer, Request
    from ajit.kv.peer import Peer
    from ajit.kv.service import Service
    from ajit.kv.sockets import UnixStream

__all__ = ["Connection"]

RECEIVE_BYTES = 64 << 10
LAST_WORD_SECONDS = 1.0
"""How long a client that is sent away may take to read why."""
HELLO_SECONDS = 10.0
"""How long a client may take to say what it speaks."""
MOST_IN_FLIGHT = 1024
"""Requests of one client that are not answered. Clients have a few at a time."""
MOST_SLABS_AT_ONCE = 64
"""Descriptors in one message; the kernel takes 253."""
BUSY_SECONDS = 0.05


class Connection:
    """One client, from its first message on.

    Attributes:
        peer: The process at the other end.
        token: What the client calls this connection by after it has ended.
        owner: Its number in the books.
        polite: Whether it has said that it holds nothing any more.
        problem: Why it was closed, if by what it sent; else "".
    """

    def __init__(self, service: Service, stream: UnixStream, peer: Peer) -> None:
        self.peer, self.token = peer, secrets.token_bytes(16)
        self.owner = service.keeper.ledger.join()
        self.polite = False
        self.problem = ""
        self._service, self._keeper, self._stream = service, service.keeper, stream
        self._outbox = Outbox()
        self._spaces: dict[int, Space | Refusal] = {}
        self._in_flight: dict[int, _Asked] = {}
        self._sent = anyio.Event()
        self._slabs_sent = 0
        self._group: TaskGroup
        self._handlers: dict[type, Callable[[Any, _Asked], None]] = {
            Open: self._open,
            Find: self._find,
            Release: self._release,
            Reserve: self._reserve,
            Commit: self._commit,
            Abort: self._abort,
            Discard: self._discard,
            Cancel: self._cancel,
            Retired: self._retired,
            Ping: self._ping,
            Stat: self._stat,
        }

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
                            await self._take(request)
        except (ProtocolError, TimeoutError) as exc:
            self.problem = str(exc) or "it never said hello"
        except ENDED:
            return

    async def _send(self) -> None:
        try:
            await self._outbox.run(self._stream)
            self._sent.set()
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

    async def _take(self, request: Request) -> None:
        await self._outbox.wait_for_room()
        if isinstance(request, Hello):
            raise ProtocolError("a second hello")
        if isinstance(request, Bye):
            self.polite = True
            return
        if request.id in self._in_flight or len(self._in_flight) >= MOST_IN_FLIGHT:
            raise ProtocolError(f"request {request.id} is in flight, or too many are")
        asked = _Asked(request.id, time.monotonic() + getattr(request, "seconds", MOST_SECONDS))
        self._in_flight[request.id] = asked
        turn = _TURNS.get(type(request))
        if turn is None:
            self._do(request, asked)
        else:
            self._service.line.put(turn, partial(self._do, request, asked))

    def _do(self, request: Request, asked: _Asked) -> None:
        """Answer a request, or start the task that does. Whatever fails is an answer."""
        if not self._waits(asked):
            return  # it was cancelled, or the client has gone
        if asked.due <= time.monotonic():
            self._fail(asked, "deadline", "it was in line for too long")
            return
        try:
            self._service.meet(request)
            self._handlers[type(request)](request, asked)
        except _RefusedError as exc:
            self._answer(asked, Refused(asked.id, str(exc)))
        except Exception as exc:  # noqa: BLE001  # an error is an answer, and no reason to end
            self._broke(asked, exc)

    def _waits(self, asked: _Asked) -> bool:
        """Whether a request is not answered yet. A later one may have the same id."""
        return self._in_flight.get(asked.id) is asked

    def _answer(self, asked: _Asked, answer: Answer) -> None:
        """Answer a request, unless it was answered."""
        if self._waits(asked):
            del self._in_flight[asked.id]
            self._send_slabs()
            self._put(answer)

    def _fail(self, asked: _Asked, code: str, message: str) -> None:
        self._answer(asked, Failed(asked.id, code, message))

    def _broke(self, asked: _Asked, error: Exception) -> None:
        name = f"{type(error).__name__}: {error}"
        unknown = isinstance(error, LookupError)
        if not unknown:
            warn_only(f"the KV service could not do a request: {name}")
        self._fail(asked, "unknown" if unknown else "internal", name[:200])

    def _later(self, asked: _Asked, do: Callable[[], Awaitable[None]]) -> None:
        """Answer in a task of its own, which has to be done in time."""
        left = asked.due - time.monotonic()
        asked.scope = anyio.CancelScope(deadline=anyio.current_time() + left)
        self._group.start_soon(self._run_later, asked, asked.scope, do)

    async def _run_later(
        self, asked: _Asked, scope: anyio.CancelScope, do: Callable[[], Awaitable[None]]
    ) -> None:
        try:
            with scope:
                await do()
        except Exception as exc:  # noqa: BLE001  # as in `_do`
            self._broke(asked, exc)
        self._fail(asked, "deadline", "it was not done in time")  # unless it is answered

    def _space(self, number: int) -> Space:
        space = self._spaces.get(number)
        if space is None:
            raise LookupError(f"namespace {number} was not opened")
        if isinstance(space, Refusal):
            raise _RefusedError(space.reason)
        return space

    # --- one handler for each kind of request ---

    def _open(self, request: Open, asked: _Asked) -> None:
        space = self._keeper.ledger.open(request.digest, request.chunk_bytes, request.tenant)
        self._spaces[request.space] = space
        if isinstance(space, Refusal):
            raise _RefusedError(space.reason)
        self._answer(asked, Done(request.id))

    def _find(self, request: Find, asked: _Asked) -> None:
        space, digests = self._space(request.space), unpack_digests(request.digests)
        if not request.wait:
            self._found(request, asked, self._keeper.find_now(self.owner, space, digests))
            return

        async def wait() -> None:
            found = await self._keeper.find(self.owner, space, digests, request.wait)
            self._found(request, asked, found)

        self._later(asked, wait)

    def _found(self, request: Find, asked: _Asked, found: Found | Refusal) -> None:
        if isinstance(found, Refusal):
            self._answer(asked, Refused(request.id, found.reason, BUSY_SECONDS))
        elif not self._waits(asked):
            self._keeper.release(self.owner, found.lease)
        else:
            slots = pack_slots([chunk.slot for chunk in found.chunks])
            sums = [chunk.checksum for chunk in found.chunks] if request.sums else []
            packed = pack_checksums(sums)
            answer = FoundAnswer(request.id, found.lease, slots, packed, found.pending)
            self._answer(asked, answer)

    def _release(self, request: Release, asked: _Asked) -> None:
        self._keeper.release(self.owner, request.lease)
        self._answer(asked, Done(request.id))

    def _reserve(self, request: Reserve, asked: _Asked) -> None:
        space, digests = self._space(request.space), unpack_digests(request.digests)
        if not self._keeper.needs_slab(space, digests):
            got = self._keeper.reserve_now(self.owner, space, request.parent, digests)
            self._reserved(request, asked, got)
            return

        async def grow() -> None:
            got = await self._keeper.reserve(self.owner, space, request.parent, digests)
            self._reserved(request, asked, got)

        self._later(asked, grow)

    def _reserved(self, request: Reserve, asked: _Asked, got: Reserved | Refusal) -> None:
        if isinstance(got, Refusal):
            again = BUSY_SECONDS if got.reason == "busy" else 0.0
            self._answer(asked, Refused(request.id, got.reason, again))
        elif not self._waits(asked):
            self._keeper.abort(self.owner, got.reservation)
        else:
            slots = pack_slots([chunk.slot for chunk in got.chunks])
            answer = ReservedAnswer(request.id, got.reservation, got.first, slots)
            self._answer(asked, answer)

    def _commit(self, request: Commit, asked: _Asked) -> None:
        sums = unpack_checksums(request.checksums)
        done = self._keeper.commit(self.owner, request.reservation, sums)
        self._answer(asked, Done(request.id, int(done)))

    def _abort(self, request: Abort, asked: _Asked) -> None:
        self._keeper.abort(self.owner, request.reservation)
        self._answer(asked, Done(request.id))

    def _discard(self, request: Discard, asked: _Asked) -> None:
        removed = self._keeper.discard(self._space(request.space), request.digest)
        self._answer(asked, Done(request.id, removed))

    def _cancel(self, request: Cancel, asked: _Asked) -> None:
        other = self._in_flight.get(request.request)
        if other is not None and other is not asked:
            self._fail(other, "cancelled", "the client has cancelled it")
            if other.scope is not None:
                other.scope.cancel()
        self._answer(asked, Done(request.id))

    def _retired(self, request: Retired, asked: _Asked) -> None:
        self._service.retired(request.token)
        self._answer(asked, Done(request.id))

    def _ping(self, request: Ping, asked: _Asked) -> None:
        self._answer(asked, Pong(request.id, self._service.boot, self._service.lag_seconds))

    def _stat(self, request: Stat, asked: _Asked) -> None:
        self._answer(asked, Stats(request.id, self._service.values()))


class _RefusedError(Exception):
    """The namespace of a request was refused when it was opened."""


@dataclass(slots=True, eq=False)
class _Asked:
    """A request that is not answered yet.

    Attributes:
        id: As the client calls it; a later request may have the same.
        due: When its answer is waited for no more.
        scope: Of the task that makes its answer, if one does.
    """

    id: int
    due: float
    scope: anyio.CancelScope | None = None


_TURNS: dict[type, int] = {
    Find: line.FIND,
    Commit: line.COMMIT,
    Discard: line.COMMIT,
    Reserve: line.RESERVE,
}
"""What touches the index waits in line; all else is answered by the reader."""
