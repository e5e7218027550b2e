"""Clients that flood the service, or do not read what it answers, and those beside them.

Work is counted in turns of the service's loop, which runs in the test's: what each turn costs
depends on the machine, how much it may take in one does not.
"""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from ajit.kv import answering, chunk_digests, connect, open_service
from ajit.kv import connection as connection_module
from ajit.kv.connection import DIGESTS_A_TURN, FRAMES_A_TURN
from ajit.kv.framing import framed
from ajit.kv.line import MOST_CALLS, MOST_DIGESTS
from ajit.kv.messages import (
    Cancel,
    Done,
    Failed,
    Find,
    Found,
    Ping,
    Refused,
    Reserve,
    Retired,
    encode,
)
from ajit.kv.outbox import MOST_QUEUED_BYTES
from tests.kv.raw import raw_client
from tests.kv.store_support import content, options, prompt, store_prompt
from tests.kv.test_service import LONG_SECONDS, until

pytestmark = pytest.mark.anyio

MINE = 10**6
"""Ids from here on are of the client beside a flood."""


def frames(*requests) -> bytes:
    """Requests as they go over the wire."""
    return b"".join(framed(encode(request)) for request in requests)


@asynccontextmanager
async def counting(service, monkeypatch):
    """Which requests were done, in order, and in which turn of the loop."""
    done, turn = [], 0

    def meet(request):
        done.append((turn, request.id))

    async def count():
        nonlocal turn
        while True:
            await checkpoint()
            turn += 1

    monkeypatch.setattr(service, "meet", meet)
    async with anyio.create_task_group() as group:
        group.start_soon(count)
        yield done
        group.cancel_scope.cancel()


async def fill(raw, data: bytes) -> int:
    """Send the same again and again, and read nothing, until no more is taken; bytes sent."""
    sent = refused = 0
    while refused < 3:
        try:
            sent += raw.stream.raw.send(data[sent % len(data) :])
            refused = 0
        except BlockingIOError:
            refused += 1
            await anyio.wait_all_tasks_blocked()
    return sent


async def test_of_one_client_a_bounded_number_of_frames_is_taken_in_a_turn(
    path, space, monkeypatch
):
    """A thousand and more come in one piece, and the ping of another client is among the first."""
    flood = [Ping(i) for i in range(1500)]
    async with (
        open_service(options(), path) as service,
        raw_client(path) as raw,
        raw_client(path) as other,
        counting(service, monkeypatch) as done,
    ):
        raw.stream.raw.send(frames(*flood))
        other.stream.raw.send(frames(Ping(MINE)))
        for _ in flood:
            await raw.hear()
        await other.hear()

    in_a_turn = Counter(turn for turn, number in done if number < MINE)
    assert len(done) == len(flood) + 1
    # The one that counts runs once in a turn, not always at the same place in it.
    assert max(in_a_turn.values()) <= 2 * FRAMES_A_TURN
    assert [number for _, number in done].index(MINE) <= 4 * FRAMES_A_TURN


async def test_of_one_client_a_bounded_number_of_digests_is_taken_in_a_turn(
    path, space, monkeypatch
):
    """Few frames may be much work."""
    digests = b"".join(chunk_digests(space, prompt(1, DIGESTS_A_TURN // 2)))
    async with open_service(options(), path) as service, raw_client(path) as raw:
        await raw.opens(space)
        (connection,) = service._connections
        turns = []
        monkeypatch.setattr(connection_module, "checkpoint", _counted(turns))
        data = frames(*[Find(i, 0, digests, 60.0) for i in range(8)])
        async with anyio.create_task_group() as group:
            group.start_soon(raw.stream.send, data)
            for _ in range(8):
                assert isinstance(await raw.hear(), Found)

        assert len(turns) >= 3
        assert connection._digests <= DIGESTS_A_TURN


def _counted(turns):
    async def counted():
        turns.append(None)
        await checkpoint()

    return counted


async def test_a_flood_of_lookups_lets_others_look_up_and_store(path, space, monkeypatch):
    """Clients take turns, and lookups do not go before stores for ever."""
    digest = chunk_digests(space, prompt(1, 1))[0]
    async with (
        open_service(options(), path) as service,
        raw_client(path) as raw,
        connect(path, timeout=60) as store,
    ):
        await raw.opens(space)
        await store_prompt(store, space, [digest])
        over = threading.Event()

        async def flood():
            number = 1
            while not over.is_set():
                finds = [Find(number + i, 0, b"d" * 16, 60.0) for i in range(32)]
                await raw.say(*finds)
                for _ in finds:
                    await raw.hear()
                number += 32

        async with anyio.create_task_group() as group:
            group.start_soon(flood)
            group.start_soon(flood_beside, path, space, over)
            for name in range(2, 6):
                assert await store_prompt(store, space, chunk_digests(space, prompt(name, 1))) == 1
            over.set()

        assert service.statistics().store.chunks_stored == 5


async def flood_beside(path, space, over):
    """The same from another client, which has more in flight than may be in line."""
    async with raw_client(path) as raw:
        await raw.opens(space)
        number = 1
        while not over.is_set():
            finds = [Find(number + i, 0, b"d" * 16, 60.0) for i in range(3 * MOST_CALLS)]
            await raw.say(*finds)
            for _ in finds:
                await raw.hear()
            number += len(finds)


async def test_a_client_that_never_reads_costs_bounded_memory_and_nobodys_ping(path, space):
    """No more of its requests is taken than can be answered; once it reads, each is answered."""
    digests = chunk_digests(space, prompt(1, 8))
    async with (
        open_service(options(), path) as service,
        connect(path, timeout=60) as store,
        raw_client(path) as raw,
    ):
        await store_prompt(store, space, digests)
        await raw.opens(space)
        (connection,) = [each for each in service._connections if each.token == raw.token]
        request = frames(*[Ping(i) for i in range(1000)])
        sent = await fill(raw, request)
        queued = connection._outbox._bytes
        pings = [await store.ping() for _ in range(5)]
        in_flight = len(connection._in_flight)

        assert None not in pings
        assert MOST_QUEUED_BYTES < queued < MOST_QUEUED_BYTES + (64 << 10)
        assert in_flight <= 1
        count = -(-sent // len(request)) * 1000
        async with anyio.create_task_group() as group:
            group.start_soon(raw.stream.send, request[sent % len(request) or len(request) :])
            answers = [(await raw.hear()).id for _ in range(count)]
        assert answers == [i % 1000 for i in range(count)]


async def test_what_a_flood_has_in_line_is_bounded(path, space):
    """By calls and by digests; what is not taken stays in the kernel, and its sender waits."""
    digests = chunk_digests(space, prompt(1, 1024))
    async with open_service(options(), path) as service, raw_client(path) as raw:
        await raw.opens(space)
        most = most_digests = 0
        put = service.line.put

        def counted(turn, client, size, call):
            nonlocal most, most_digests
            put(turn, client, size, call)
            has = service.line._clients[client]
            most, most_digests = max(most, has.calls), max(most_digests, has.digests)

        service.line.put = counted
        for number, size in enumerate((1, 1024)):
            packed = b"".join(digests[:size])
            finds = [Find(1000 * number + i, 0, packed, 60.0) for i in range(3 * MOST_CALLS)]
            async with anyio.create_task_group() as group:
                group.start_soon(raw.stream.send, frames(*finds))
                for _ in finds:
                    assert isinstance(await raw.hear(), Found)

        assert MOST_CALLS // 4 < most <= MOST_CALLS
        assert 1024 < most_digests <= MOST_DIGESTS + 1024


async def test_a_client_that_reads_nothing_for_long_is_sent_away(path, space, monkeypatch):
    """What it holds is kept: its process lives. It may come again."""
    monkeypatch.setattr(connection_module, "UNREAD_SECONDS", 0.05)
    events = []
    digests = chunk_digests(space, prompt(1, 2))
    async with open_service(options(), path) as service, raw_client(path) as raw:
        service.subscribe(events.append)
        await raw.opens(space)
        await raw.say(Reserve(1, 0, b"", b"".join(digests), 60.0))
        await raw.hear()
        data = frames(*[Ping(i) for i in range(1000)])
        with anyio.fail_after(LONG_SECONDS), pytest.raises(OSError, match=r"(?i)pipe|reset"):
            await raw.stream.send(data * 1000)
        await until(lambda: service.statistics().unread_clients == 1)
        await until(lambda: service.statistics().lingering == 1)
        async with raw_client(path) as again:
            await again.say(Retired(1, raw.token))
            await again.hear()
            await until(lambda: service.statistics().lingering == 0)

        statistics = service.statistics()
        rejected = [event.reason for event in events if type(event).__name__ == "ClientRejected"]
        assert (statistics.unread_clients, statistics.protocol_errors) == (1, 0)
        assert statistics.store.used_bytes == 0
        assert rejected == ["it does not read what it is sent (for 0.05 s)"]


async def test_a_client_that_does_not_read_and_goes_is_gone_at_once(path, space):
    """Though nothing is read from it any more, and much is to be sent to it."""
    async with open_service(options(), path) as service:
        async with raw_client(path) as raw:
            await fill(raw, frames(*[Ping(i) for i in range(1000)]))
            (connection,) = service._connections
            queued = connection._outbox._bytes
        await until(lambda: service.keeper.ledger.owners == 0)

        assert queued > MOST_QUEUED_BYTES
        assert service.statistics().clients == 0


async def test_requests_that_wait_are_bounded_and_a_cancel_is_answered_beside_them(
    path, space, monkeypatch
):
    """What is beyond is busy: it may be asked again."""
    monkeypatch.setattr(answering, "MOST_WAITING", 100)
    digests = chunk_digests(space, prompt(1, 2))
    async with (
        open_service(options(), path) as service,
        raw_client(path) as raw,
        connect(path, timeout=60) as store,
    ):
        slots = await store.reserve(space, digests)
        await raw.opens(space)
        packed = b"".join(digests)
        await raw.say(*[Find(i, 0, packed, 60.0, wait=60.0) for i in range(101)])
        refused = await raw.hear()
        await raw.say(Cancel(MINE, 7))
        cancelled = [await raw.hear() for _ in range(2)]
        for view, digest in zip(slots.views(), digests, strict=True):
            view[:] = content(digest)
        await slots.commit()
        found = [await raw.hear() for _ in range(99)]

        assert isinstance(refused, Refused)
        assert (refused.reason, refused.id) == ("busy", 100)
        assert [type(answer) for answer in cancelled] == [Failed, Done]
        assert all(isinstance(each, Found) and not each.pending for each in found)
        assert {each.id for each in found} == set(range(100)) - {7}
        assert service.keeper.ledger.leases == 99


async def test_a_commit_wakes_those_who_wait_for_its_chunks_and_no_others(path, space):
    """Else each commit were as much work as there are requests that wait."""
    one, other = (chunk_digests(space, prompt(name, 1)) for name in (1, 2))
    async with open_service(options(), path) as service, connect(path, timeout=60) as store:
        slots = [await store.reserve(space, digests) for digests in (one, other)]
        async with raw_client(path) as raw:
            await raw.opens(space)
            await raw.say(
                Find(1, 0, one[0], 60.0, wait=60.0), Find(2, 0, other[0], 60.0, wait=60.0)
            )
            await raw.say(Ping(3))
            await raw.hear()
            await anyio.wait_all_tasks_blocked()
            lookups = service.keeper.ledger.counts.lookups
            await slots[0].commit()
            answer = await raw.hear()
            woken = service.keeper.ledger.counts.lookups - lookups
        slots[1].release()

    assert answer.id == 1
    assert woken == 1
