"""What other KV services are known to get wrong, against ajit's: faults F1 to F9, and brothers.

Each was seen in LMCache 0.5.6 on its CPU mode: a heartbeat that was kept waiting 12.5 s, a frame
that killed the service, a handler that never answered, a hit that came milliseconds after its
store, leases for ever, another type's bits, another engine's memory, a gigabyte left in /dev/shm,
and lookups that held all else up.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio
import numpy as np
import pytest

from ajit.errors import AjitWarning
from ajit.kv import chunk_digests, connect, open_service
from ajit.kv.framing import framed
from ajit.kv.keys import Namespace
from ajit.kv.memory import Slab
from ajit.kv.messages import Done, Failed, Find, Found, Ping, Pong, Reserve, Reserved, encode
from ajit.kv.statistics import statistics_of
from tests.kv.raw import raw_client
from tests.kv.store_support import (
    CHUNK_BYTES,
    content,
    options,
    prompt,
    read_prompt,
    space_named,
    store_prompt,
)
from tests.kv.victim_main import STEPS

pytestmark = pytest.mark.anyio

LONG_SECONDS = 60
"""Ends what hangs."""


async def test_f1_a_heartbeat_is_answered_beside_a_request_that_waits(path, space):
    """For as long as it likes: each waits in a task of its own, and pings go to the loop."""
    digests = chunk_digests(space, prompt(1, 2))
    took = []
    async with open_service(options(), path), connect(path) as one, connect(path) as other:
        slots = await one.reserve(space, digests)
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(_wait_for_ever, other, space, digests)
            await anyio.wait_all_tasks_blocked()
            took = [await one.ping() for _ in range(20)] + [await other.ping()]
            group.cancel_scope.cancel()
        slots.release()

    assert None not in took
    assert max(took) < 5  # LMCache: 12.5 s, and its client's limit is 10


async def _wait_for_ever(store, space, digests):
    async with store.lease(space, digests=digests, wait_seconds=1000):
        await anyio.sleep_forever()


GARBAGE = {
    "one byte": b"\x01",
    "a frame of one byte": framed(b"x"),
    "a huge frame": b"\xff\xff\xff\xff",
    "an empty frame": b"\0\0\0\0",
    "no hello": framed(encode(Ping(1))),
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "an answer": framed(encode(Done(1))),
}


@pytest.mark.parametrize(
    ("name", "greets"),
    [(name, False) for name in GARBAGE]
    + [(name, True) for name in GARBAGE if name not in ("no hello", "one byte")],
)
async def test_f2_a_garbage_frame_ends_its_connection_and_no_other(path, space, name, greets):
    """The service serves on, and its health page says so rightly."""
    async with open_service(options(), path) as service, connect(path) as store:
        await store_prompt(store, space, chunk_digests(space, prompt(1, 2)))
        async with raw_client(path, greets=greets) as raw:
            await raw.stream.send(GARBAGE[name])
            if name == "one byte":
                raw.stream.send_eof()
            ended = await raw.hears_the_end()
        beat = store.health().beat
        with anyio.fail_after(LONG_SECONDS):
            while store.health().beat < beat + 2:  # noqa: ASYNC110 - a page, and no message
                await anyio.sleep(0.01)

        assert ended
        assert await store.ping() is not None
        assert await read_prompt(store, space, chunk_digests(space, prompt(1, 2))) == 2
        assert service.statistics().protocol_errors == (name != "one byte")


async def test_f3_a_handler_that_raises_answers(path, space, monkeypatch):
    """At once, with an error; the client misses, and the connection goes on."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_service(options(), path) as service, connect(path, timeout=60) as store:
        await store_prompt(store, space, digests)

        def broken(request):
            if isinstance(request, (Find, Reserve)):
                raise ZeroDivisionError("num_kv_readers is 0")

        with monkeypatch.context() as patch, pytest.warns(AjitWarning, match="ZeroDivisionError"):  # noqa: PT031 - all of it
            patch.setattr(service, "meet", broken)
            with anyio.fail_after(LONG_SECONDS / 2):
                found = await read_prompt(store, space, digests)
                stored = await store_prompt(store, space, chunk_digests(space, prompt(2, 2)))
            async with raw_client(path) as raw:
                await raw.opens(space)
                await raw.say(Find(7, 0, digests[0], 60.0))
                answer = await raw.hear()

        assert (found, stored) == (0, 0)
        assert store.statistics().failed == 2
        assert isinstance(answer, Failed)
        assert (answer.id, answer.code) == (7, "internal")
        assert await read_prompt(store, space, digests) == 2


async def test_f4_what_is_committed_is_found_at_once_by_every_client(path, space):
    """The commit is answered after the index has it."""
    async with open_service(options(chunks=64), path), connect(path) as one, connect(path) as other:
        for i in range(25):
            digests = chunk_digests(space, prompt(i, 2))
            await store_prompt(one, space, digests)

            assert await read_prompt(other, space, digests) == 2


async def test_f5_leases_that_are_never_used_end_with_their_owner(path, space):
    """Until then a store that has no room says so, and nothing is lost for others after it."""
    held = chunk_digests(space, prompt(1, 4))
    other = chunk_digests(space, prompt(2, 4))
    async with open_service(options(chunks=4), path) as service:
        async with connect(path) as keeping, connect(path) as storing:
            await store_prompt(keeping, space, held)
            leases = [await keeping.lease(space, digests=held) for _ in range(96)]
            async with storing.reserve(space, other) as slots:
                refused = slots.reason
            for lease in leases:
                lease.release()
        async with connect(path) as storing:
            stored = await store_prompt(storing, space, other)

            found = await read_prompt(storing, space, other)
            await storing.ping()  # its own lease has ended by then

            assert refused == "busy"
            assert stored == found == 4
            assert service.keeper.ledger.leases == 0


@pytest.mark.parametrize(
    "change",
    [{"dtype": "bfloat16"}, {"layers": 1, "dim": 256}, {"planes": 1}, {"heads": (1, 2)}],
    ids=str,
)
async def test_f6_another_dtype_or_geometry_is_a_miss(path, space, change):
    """The same model's name, and other bytes."""
    tokens = prompt(1, 2)
    other = space_named("small", **change)
    async with open_service(options(), path), connect(path) as one, connect(path) as two:
        await store_prompt(one, space, chunk_digests(space, tokens))
        async with two.lease(other, tokens) as lease:
            assert len(lease) == 0
        # Nor with the digests of the other namespace.
        async with two.lease(other, digests=chunk_digests(space, tokens)) as lease:
            assert len(lease) == 0


async def test_f7_two_clients_are_two_whatever_they_say_of_themselves(path, space):
    """The connection is the identity: one process twice, and one message for message alike."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_service(options(), path), raw_client(path) as one, raw_client(path) as two:
        reserved = []
        for raw, each in ((one, digests), (two, chunk_digests(space, prompt(2, 2)))):
            await raw.opens(space)
            await raw.say(Reserve(1, 0, b"", b"".join(each), 60.0))
            reserved.append(await raw.hear())
        await two.say(Reserve(2, 0, b"", b"".join(digests), 60.0))
        again = await two.hear()

        assert all(isinstance(each, Reserved) for each in reserved)
        assert reserved[0].slots != reserved[1].slots
        assert one.token != two.token
        assert again.reason == "pending"


async def test_f7_no_client_can_end_or_commit_what_is_anothers(path, space):
    """Numbers are counted for each owner, and mean nothing to others."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_service(options(), path) as service, connect(path) as store:
        await store_prompt(store, space, digests)
        lease = await store.lease(space, digests=digests)
        slots = await store.reserve(space, chunk_digests(space, prompt(2, 2)))
        other = service.keeper.ledger.join()
        for number in range(100):
            service.keeper.release(other, number)
            service.keeper.abort(other, number)
            assert not service.keeper.commit(other, number, [0])
        left = (service.keeper.ledger.leases, service.keeper.ledger.reservations)
        lease.release()
        slots.release()

        assert left == (1, 1)


def start_victim(path: Path, step: str) -> subprocess.Popen[str]:
    """Start a client that goes up to a step."""
    arguments = [sys.executable, "-m", "tests.kv.victim_main", str(path), step]
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True)


def pidfds() -> int:
    """Descriptors of processes that this process has."""
    count = 0
    for each in Path("/proc/self/fd").iterdir():
        try:
            count += "pidfd" in os.readlink(each)  # noqa: PTH115 - no path
        except OSError:
            continue
    return count


async def test_f8_a_killed_client_leaves_nothing_at_any_step(path, space, capsys):
    """Memory, leases, descriptors and files: all is back when the kernel has ended it."""
    shared = chunk_digests(space, prompt(0, 2))
    names = set(os.listdir("/dev/shm"))  # noqa: PTH208
    took = {}
    async with open_service(options(chunks=64), path) as service, connect(path) as store:
        await store_prompt(store, space, shared)
        pending = await store.reserve(space, chunk_digests(space, prompt(99, 2)))
        keeper, own = service.keeper, pidfds()
        before = _held(service)
        victims = {step: start_victim(path, step) for step in STEPS}
        try:
            for victim in victims.values():
                assert await anyio.to_thread.run_sync(victim.stdout.readline) == "ready\n"
            for step, victim in victims.items():
                owners = keeper.ledger.owners
                begun = time.monotonic()
                victim.send_signal(signal.SIGKILL)
                with anyio.fail_after(LONG_SECONDS):
                    while keeper.ledger.owners == owners:  # noqa: ASYNC110 - the books have no event
                        await anyio.sleep(0.0005)
                took[step] = time.monotonic() - begun
        finally:
            for victim in victims.values():
                victim.kill()
                await anyio.to_thread.run_sync(victim.wait)
                victim.stdin.close()
                victim.stdout.close()
        await anyio.wait_all_tasks_blocked()
        after = _held(service)
        committed = keeper.ledger.counts.chunks_stored - len(shared)
        pending.release()

        assert after == (*before[:2], before[2] + committed * CHUNK_BYTES, *before[3:])
        assert committed == 1
        assert pidfds() == own
        assert {name for name in os.listdir("/dev/shm") if "ajit" in name} <= names  # noqa: PTH208
        assert await read_prompt(store, space, shared) == 2
    with capsys.disabled():
        longest = max(took, key=took.get)
        sys.stdout.write(f"\n  longest after SIGKILL: {took[longest] * 1e3:.1f} ms ({longest})\n")


def _held(service) -> tuple[int, ...]:
    counts = statistics_of(service.keeper)
    return (
        counts.leases, counts.reservations, counts.used_bytes, counts.owners,
        len(service._connections), len(service._lingering),
    )  # fmt: skip


LONG = Namespace(model="long", weights="w", dtype="uint8", layers=1, planes=1, dim=4,
                 chunk_bytes=4096)  # fmt: skip


async def test_f9_lookups_of_long_prompts_are_short_and_quick(path, capsys):
    """131 072 tokens are 512 digests: 8 KiB, and a walk over 512 chunks."""
    tokens = np.arange(131_072, dtype="uint32")
    digests = chunk_digests(LONG, tokens)
    limits = options(chunks=1024, slab_bytes=512 * 4096)
    async with open_service(limits, path) as service, connect(path, timeout=60) as store:
        await store_prompt(store, LONG, digests)
        took, pings = [], []
        find = service.keeper.find_now

        def timed(*args):
            begun = time.perf_counter()
            found = find(*args)
            took.append(time.perf_counter() - begun)
            return found

        service.keeper.find_now = timed
        async with raw_client(path) as raw:
            await raw.opens(LONG)
            request = Find(1, 0, b"".join(digests), 60.0)
            before = raw.received
            await raw.say(request)
            found = await raw.hear()
            wire = len(framed(encode(request))) + raw.received - before
        for _ in range(30):
            async with store.lease(LONG, digests=digests) as lease:
                assert len(lease) == 512
            pings.append(await store.ping())

    with capsys.disabled():
        sys.stdout.write(
            f"\n  lookup of 131 072 tokens: {sorted(took)[15] * 1e3:.2f} ms in the books, "
            f"{wire} bytes on the wire; ping beside it {sorted(pings)[15] * 1e3:.2f} ms\n"
        )
    assert isinstance(found, Found)
    assert wire <= 10 * 1024
    assert sorted(took)[15] < 0.1  # 2 ms is the aim; a busy machine is no failure


async def test_a_ping_is_answered_while_a_long_line_waits(path, space, monkeypatch):
    """Between two requests of the line the loop does all else."""
    digests = b"".join(chunk_digests(space, prompt(1, 1)))
    waiting = []
    async with (
        open_service(options(), path) as service,
        raw_client(path) as raw,
        raw_client(path) as other,
    ):
        await raw.opens(space)

        def meet(request):
            if isinstance(request, Ping):
                waiting.append(len(service.line))

        monkeypatch.setattr(service, "meet", meet)
        requests = [framed(encode(Find(i, 0, digests, 60.0))) for i in range(500)]
        raw.stream.raw.send(b"".join(requests))
        answers = []

        async def hear():
            answers.extend([await raw.hear() for _ in requests])

        with anyio.fail_after(LONG_SECONDS):
            async with anyio.create_task_group() as group:
                group.start_soon(hear)
                while len(answers) < len(requests):
                    await other.say(Ping(1))
                    assert isinstance(await other.hear(), Pong)

        assert max(waiting) > 0
        assert sorted(each.id for each in answers) == list(range(500))


async def test_loads_go_before_stores(path, space):
    """Of what is in line."""
    async with open_service(options(), path), raw_client(path) as raw:
        await raw.opens(space)
        await store_nothing(raw, space)
        digests = chunk_digests(space, prompt(2, 1))[0]
        await raw.say(
            Reserve(1, 0, b"", digests, 60.0), Find(2, 0, digests, 60.0), Ping(3)
        )  # in one piece, so they are in line together
        answers = [(await raw.hear()).id for _ in range(3)]

    assert answers == [3, 2, 1]


async def store_nothing(raw, space) -> None:
    """Have the first slab made."""
    digest = chunk_digests(space, prompt(7, 1))[0]
    await raw.say(Reserve(1, 0, b"", digest, 60.0))
    assert isinstance(await raw.hear(), Reserved)
    assert content(digest)


async def test_memory_that_does_not_come_holds_up_only_who_asked_for_it(path, space, monkeypatch):
    """Others look up and are answered; a service that is closed meanwhile does not wait for it."""
    here = chunk_digests(space, prompt(1, 4))
    comes, begun, made = threading.Event(), threading.Event(), []
    make = Slab.make

    def hangs(*args, **given):
        begun.set()
        comes.wait(LONG_SECONDS / 4)
        made.append(make(*args, **given))
        return made[-1]

    async with open_service(options(), path) as service, connect(path, timeout=60) as store:
        await store_prompt(store, space, here)  # the first slab is full
        monkeypatch.setattr(Slab, "make", hangs)
        async with connect(path, timeout=0.05) as asking:
            refused = [await store_prompt(asking, space, chunk_digests(space, prompt(2, 1)))]
            assert begun.is_set()
            found = await read_prompt(store, space, here)
            pings = [await store.ping() for _ in range(5)]
            told = await store.service_statistics()
            keeper = service.keeper
    waited = bool(made)
    comes.set()  # the service has ended: what comes now is nobody's, and is given back
    with anyio.fail_after(LONG_SECONDS):
        while not made or made[0].descriptor >= 0:  # noqa: ASYNC110 - a thread has no event
            await anyio.sleep(0.005)

    assert not waited
    assert (refused, found) == ([0], 4)
    assert None not in pings
    assert told["slab_bytes"] == keeper.options.slab_bytes
