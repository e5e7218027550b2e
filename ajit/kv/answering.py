"""What the service does for each kind of request of one client, and what it answers.

A request is done in one go on the loop, or waits in a task of its own: for memory, or for a chunk
that another engine stores. What such a wait is followed by goes into the line again, so that
hundreds of clients that wait for one chunk are not all answered in one turn of the loop.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from ajit.kv import line
from ajit.kv.chunk import Found, Refusal, Reserved, Space
from ajit.kv.messages import (
    MOST_SECONDS,
    Abort,
    Cancel,
    Commit,
    Discard,
    Done,
    Find,
    Open,
    Ping,
    Pong,
    Refused,
    Release,
    Reserve,
    Retired,
    Stat,
    Stats,
    pack_checksums,
    pack_slots,
    unpack_checksums,
    unpack_digests,
)
from ajit.kv.messages import Found as FoundAnswer
from ajit.kv.messages import Reserved as ReservedAnswer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ajit.kv.connection import Connection
    from ajit.kv.messages import Request
    from ajit.kv.service import Service

__all__ = ["TURNS", "Answering", "Asked", "RefusedError", "digests_in"]

MOST_WAITING = 1024
MOST_WAITING_DIGESTS = 65_536
"""Of one client's requests that wait: what is beyond is refused as busy."""
BUSY_SECONDS = 0.05

TURNS: dict[type, int] = {
    Find: line.FIND,
    Commit: line.COMMIT,
    Discard: line.COMMIT,
    Reserve: line.RESERVE,
}
"""What touches the index waits in line; all else is answered by the reader."""


class RefusedError(Exception):
    """A request is refused, and that is no error."""


@dataclass(slots=True, eq=False)
class Asked:
    """A request that is not answered yet.

    Attributes:
        id: As the client calls it; a later request may have the same.
        due: When its answer is waited for no more.
        digests: That it is about.
        until: How long a lookup waits for what is being stored right now.
        scope: Of the task that makes its answer, if one does.
    """

    id: int
    due: float
    digests: int
    until: float
    scope: anyio.CancelScope | None = None

    @classmethod
    def of(cls, request: Any) -> Asked:
        """What was asked just now."""
        now = time.monotonic()
        seconds, wait = getattr(request, "seconds", MOST_SECONDS), getattr(request, "wait", 0.0)
        return cls(request.id, now + seconds, digests_in(request), now + wait)


def digests_in(request: object) -> int:
    """How many digests or checksums a request has."""
    packed = len(getattr(request, "digests", b"")) + 2 * len(getattr(request, "checksums", b""))
    return packed // 16


class Answering:
    """The handlers of one client's requests."""

    def __init__(self, connection: Connection, service: Service) -> None:
        self._connection, self._service = connection, service
        self._keeper, self._owner = service.keeper, connection.owner
        self._spaces: dict[int, Space | Refusal] = {}
        self._waiting = self._waiting_digests = 0
        self._handlers: dict[type, Callable[[Any, Asked], None]] = {
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

    def do(self, request: Request, asked: Asked) -> None:
        """Do a request and answer it, or start the task that does.

        Raises:
            RefusedError: It is refused.
            Exception: It failed.
        """
        self._handlers[type(request)](request, asked)

    def _later(self, asked: Asked, do: Callable[[], Awaitable[None]]) -> None:
        """Go on in a task of its own."""
        digests = self._waiting_digests + asked.digests
        if self._waiting and (self._waiting >= MOST_WAITING or digests > MOST_WAITING_DIGESTS):
            self._service.waits_refused += 1
            raise RefusedError("busy")
        self._waiting += 1
        self._waiting_digests = digests

        async def wait() -> None:
            try:
                await do()
            finally:
                self._waiting -= 1
                self._waiting_digests -= asked.digests

        self._connection.later(asked, wait)

    def _space(self, number: int) -> Space:
        space = self._spaces.get(number)
        if space is None:
            raise LookupError(f"namespace {number} was not opened")
        if isinstance(space, Refusal):
            raise RefusedError(space.reason)
        return space

    # --- one handler for each kind of request ---

    def _open(self, request: Open, asked: Asked) -> None:
        space = self._keeper.ledger.open(request.digest, request.chunk_bytes, request.tenant)
        self._spaces[request.space] = space
        if isinstance(space, Refusal):
            raise RefusedError(space.reason)
        self._connection.answer(asked, Done(request.id))

    def _find(self, request: Find, asked: Asked) -> None:
        space, digests = self._space(request.space), unpack_digests(request.digests)
        found = self._keeper.find_now(self._owner, space, digests)
        if isinstance(found, Refusal):
            self._connection.answer(asked, Refused(request.id, found.reason, BUSY_SECONDS))
        elif found.pending and time.monotonic() < asked.until:
            self._keeper.release(self._owner, found.lease)
            pending = digests[len(found.chunks)]
            self._later(asked, partial(self._find_again, request, asked, pending))
        else:
            self._found(request, asked, found)

    async def _find_again(self, request: Find, asked: Asked, pending: bytes) -> None:
        with anyio.move_on_after(asked.until - time.monotonic()):
            await self._keeper.wait_stored(pending)
        self._connection.put_in_line(request, asked)

    def _found(self, request: Find, asked: Asked, found: Found) -> None:
        slots = pack_slots([chunk.slot for chunk in found.chunks])
        sums = [chunk.checksum for chunk in found.chunks] if request.sums else []
        packed = pack_checksums(sums)
        answer = FoundAnswer(request.id, found.lease, slots, packed, found.pending)
        self._connection.answer(asked, answer)

    def _release(self, request: Release, asked: Asked) -> None:
        self._keeper.release(self._owner, request.lease)
        self._connection.answer(asked, Done(request.id))

    def _reserve(self, request: Reserve, asked: Asked) -> None:
        space, digests = self._space(request.space), unpack_digests(request.digests)
        if self._keeper.needs_slab(space, digests):
            self._later(asked, partial(self._grow_and_reserve, request, asked))
            return
        got = self._keeper.reserve_now(self._owner, space, request.parent, digests)
        if isinstance(got, Refusal):
            again = BUSY_SECONDS if got.reason == "busy" else 0.0
            self._connection.answer(asked, Refused(request.id, got.reason, again))
        else:
            self._reserved(request, asked, got)

    async def _grow_and_reserve(self, request: Reserve, asked: Asked) -> None:
        await self._keeper.wait_for_slab()
        self._connection.put_in_line(request, asked)

    def _reserved(self, request: Reserve, asked: Asked, got: Reserved) -> None:
        slots = pack_slots([chunk.slot for chunk in got.chunks])
        answer = ReservedAnswer(request.id, got.reservation, got.first, slots)
        self._connection.answer(asked, answer)

    def _commit(self, request: Commit, asked: Asked) -> None:
        sums = unpack_checksums(request.checksums)
        done = self._keeper.commit(self._owner, request.reservation, sums)
        self._connection.answer(asked, Done(request.id, int(done)))

    def _abort(self, request: Abort, asked: Asked) -> None:
        self._keeper.abort(self._owner, request.reservation)
        self._connection.answer(asked, Done(request.id))

    def _discard(self, request: Discard, asked: Asked) -> None:
        removed = self._keeper.discard(self._space(request.space), request.digest)
        self._connection.answer(asked, Done(request.id, removed))

    def _cancel(self, request: Cancel, asked: Asked) -> None:
        self._connection.cancel(request.request, asked)
        self._connection.answer(asked, Done(request.id))

    def _retired(self, request: Retired, asked: Asked) -> None:
        self._service.retired(request.token)
        self._connection.answer(asked, Done(request.id))

    def _ping(self, request: Ping, asked: Asked) -> None:
        pong = Pong(request.id, self._service.boot, self._service.lag_seconds)
        self._connection.answer(asked, pong)

    def _stat(self, request: Stat, asked: Asked) -> None:
        self._connection.answer(asked, Stats(request.id, self._service.values()))
