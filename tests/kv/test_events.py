"""Events: each step of a store and its service is told once, with its facts."""

from __future__ import annotations

import anyio
import pytest

from ajit.errors import AjitWarning
from ajit.kv import chunk_digests, connect, events, open_service, open_store
from ajit.kv.messages import Reserve
from tests.kv.raw import raw_client
from tests.kv.store_support import CHUNK_BYTES, options, prompt, read_prompt, store_prompt

pytestmark = pytest.mark.anyio


async def test_a_store_tells_what_it_does(space):
    """Lookups, stores, evictions, refusals, memory, and reservations that take too long."""
    told: list[events.KvEvent] = []
    name = space.digest.hex()
    async with open_store(options(chunks=4)) as store:
        unsubscribe = store.subscribe(told.append)
        await store_prompt(store, space, chunk_digests(space, prompt(1, 4)))
        await store_prompt(store, space, chunk_digests(space, prompt(2, 2)))
        await read_prompt(store, space, chunk_digests(space, prompt(1, 4)))
        async with store.lease(space, prompt(1, 4)), store.lease(space, prompt(2, 2)):
            await store_prompt(store, space, chunk_digests(space, prompt(3, 3)))
        async with store.reserve(space, chunk_digests(space, prompt(4, 1))):
            store._keeper.sweep_now(1e12)
        unsubscribe()
        await read_prompt(store, space, chunk_digests(space, prompt(1, 4)))

    kinds = [type(event) for event in told]
    found = next(event for event in told if isinstance(event, events.PrefixFound))
    assert kinds[:4] == [
        events.SlabAdded, events.ChunksStored, events.ChunksEvicted, events.ChunksStored,
    ]  # fmt: skip
    assert told[1:4] == [
        events.ChunksStored(chunks=4),
        events.ChunksEvicted(chunks=2, namespace=name),
        events.ChunksStored(chunks=2),
    ]
    assert (found.namespace, found.wanted, found.found) == (name, 4, 2)
    assert found.size_bytes == 2 * CHUNK_BYTES
    assert kinds.count(events.PrefixFound) == 3
    assert events.StoreBusy(namespace=name, wanted=3) in told
    assert told[-1] == events.ReservationLate(reservations=1)


async def test_a_service_tells_who_comes_and_goes(tmp_path, space):
    """And why a connection was closed, and for how long something was kept."""
    tmp_path.chmod(0o700)
    told: list[events.KvEvent] = []
    async with open_service(options(), tmp_path / "kv.sock") as service:
        service.subscribe(told.append)
        async with connect(service.path):
            pass
        async with raw_client(service.path) as raw:
            await raw.opens(space)
            await raw.say(Reserve(1, 0, b"", b"d" * 16, 60.0))
            await raw.hear()
            await raw.stream.send(b"\xff\xff\xff\xff")
            assert await raw.hears_the_end()
        token = raw.token
        with anyio.fail_after(60):
            while not service._lingering:  # noqa: ASYNC110 - it has no event
                await anyio.sleep(0.005)
            service.retired(token)
            while service._lingering:  # noqa: ASYNC110 - likewise
                await anyio.sleep(0.005)

    kinds = [type(event) for event in told]
    assert kinds == [
        events.ClientJoined, events.ClientGone, events.ClientJoined, events.SlabAdded,
        events.ClientRejected, events.ClientLost, events.ClientGone,
    ]  # fmt: skip
    assert told[4].reason == "a frame of 4294967295 bytes"
    assert all(len(repr(event)) < 200 for event in told)


async def test_a_subscriber_that_raises_disturbs_nothing(space):
    """It is reported once for each event."""

    def broken(event):
        raise ZeroDivisionError(type(event).__name__)

    async with open_store(options()) as store:
        store.subscribe(broken)
        with pytest.warns(AjitWarning, match="a subscriber of a KV store failed"):
            stored = await store_prompt(store, space, chunk_digests(space, prompt(1, 2)))

        assert stored == 2
        assert await read_prompt(store, space, chunk_digests(space, prompt(1, 2))) == 2
