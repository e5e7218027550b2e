"""Every call of a store, cancelled at each of its awaits, and called from another event loop."""

from __future__ import annotations

from functools import partial

import anyio
import pytest
from anyio.lowlevel import checkpoint

from ajit._system.loop import LoopHandle
from ajit.errors import UsageError
from ajit.kv import chunk_digests, connect, open_service
from ajit.kv.client import watch
from tests.kv.store_support import (
    CHUNK_BYTES,
    content,
    counted,
    options,
    prompt,
    read_prompt,
    store_prompt,
)
from tests.kv.test_service import LONG_SECONDS, until

pytestmark = pytest.mark.anyio

STEPS = 16
"""A call is cancelled after no turn of the loop, after one, ...: an answer needs some ten."""
HERE, PENDING, NEW = (1, 2, 3)
"""Prompts: one that is here, one that another client stores all the time, one that is not here."""


async def lease(store, space):
    """Look a prompt up."""
    async with store.lease(space, prompt(HERE, 2)):
        await checkpoint()


async def lease_with_wait(store, space):
    """Wait for what another one stores."""
    async with store.lease(space, prompt(PENDING, 2), wait_seconds=60):
        await checkpoint()


async def reserve(store, space):
    """Reserve memory for a new one."""
    async with store.reserve(space, chunk_digests(space, prompt(NEW, 2))):
        await checkpoint()


async def reserve_and_commit(store, space):
    """Store it, chunk by chunk."""
    digests = chunk_digests(space, prompt(NEW, 2))
    async with store.reserve(space, digests) as slots:
        for index, view in enumerate(slots.views()):
            view[:] = content(digests[slots.first + index])
            await slots.commit(1)


async def discard(store, space):
    """Take a chunk out."""
    await store.discard(space, chunk_digests(space, prompt(HERE, 2))[1])


async def ping(store, space):
    """Ask for an answer."""
    await store.ping()


async def service_statistics(store, space):
    """Ask what is counted."""
    await store.service_statistics()


CALLS = (lease, lease_with_wait, reserve, reserve_and_commit, discard)
CLIENT_CALLS = (ping, service_statistics)


async def cancelled_after(steps: int, call) -> None:
    """Run a call, and cancel it after so many turns of the loop, if it still runs."""
    with anyio.fail_after(LONG_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            for _ in range(steps):
                await checkpoint()
            group.cancel_scope.cancel()


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
async def test_a_call_that_is_cancelled_anywhere_holds_nothing(open_any, space, call):
    """What is granted in that moment is given back, and the store goes on."""
    here, pending = (chunk_digests(space, prompt(name, 2)) for name in (HERE, PENDING))
    async with open_any(options()) as (store, keeper):
        await store_prompt(store, space, here)
        writing = await store.reserve(space, pending)
        for steps in range(STEPS):
            await cancelled_after(steps, partial(call, store, space))
            await counted(store, keeper)  # all that was granted has come, and was given back
            statistics = await counted(store, keeper)  # which the service has seen
            assert (statistics.leases, statistics.reservations) == (0, 1), steps
            await store_prompt(store, space, here)  # `discard` may have removed some of it
        writing.release()
        found = await read_prompt(store, space, here)
        new = await read_prompt(store, space, chunk_digests(space, prompt(NEW, 2)))
        statistics = await counted(store, keeper)

    assert found == 2
    assert new == (2 if call is reserve_and_commit else 0)
    assert statistics.used_bytes == statistics.chunks * CHUNK_BYTES
    assert statistics.leases == statistics.reservations == 0


@pytest.mark.parametrize("call", CLIENT_CALLS, ids=lambda call: call.__name__)
async def test_a_question_that_is_cancelled_anywhere_is_forgotten(path, space, call):
    """Its answer, when it comes, is nobody's, and no error."""
    async with open_service(options(), path), connect(path, timeout=60) as store:
        for steps in range(STEPS):
            await cancelled_after(steps, partial(call, store, space))
        assert await store.ping() is not None
        await store.ping()

        assert store.statistics().connections == 1
        assert len(store._connector.link._asked) == 0


@pytest.mark.parametrize(
    "opening", [connect, partial(watch, timeout=1.0)], ids=["connect", "watch"]
)
async def test_connecting_and_leaving_may_be_cancelled_anywhere(path, space, opening):
    """No connection is left, with a service or without one."""

    async def use():
        async with opening(path) as store:
            await store.ping()

    for steps in range(STEPS):
        await cancelled_after(steps, use)
    async with open_service(options(), path) as service:
        for steps in range(2 * STEPS):
            await cancelled_after(steps, use)
        await until(lambda: service.keeper.ledger.owners == 0)

        assert service.statistics().clients == service.statistics().lingering == 0


async def test_waiting_for_a_service_may_be_cancelled(path):
    """And waited for again."""
    async with connect(path) as store:
        for steps in range(4):
            await cancelled_after(steps, store.wait_connected)
        async with open_service(options(), path):
            with anyio.fail_after(LONG_SECONDS):
                await store.wait_connected()

            assert await store.ping() is not None


# --- another event loop ---


def elsewhere(function, *args):
    """Run a coroutine function in another event loop, in another thread."""
    return anyio.to_thread.run_sync(lambda: anyio.run(function, *args))


async def test_another_event_loop_is_refused(open_any, space):
    """With what to do instead; nothing is leased, and the store goes on."""
    digests = chunk_digests(space, prompt(HERE, 2))

    async def all_calls(store, slots):
        calls = [lambda: lease(store, space), lambda: reserve(store, space),
                 lambda: discard(store, space), slots.commit]  # fmt: skip
        if hasattr(store, "ping"):
            calls += [store.ping, store.service_statistics, store.wait_connected]
        for call in calls:
            with pytest.raises(UsageError, match="belongs to the event loop"):
                await call()

    async with open_any(options()) as (store, keeper):
        await store_prompt(store, space, digests)
        slots = await store.reserve(space, chunk_digests(space, prompt(NEW, 1)))
        await elsewhere(all_calls, store, slots)
        assert await slots.commit()
        found = await read_prompt(store, space, digests)

        assert found == 2
        assert (await counted(store, keeper)).leases == 0


async def test_handles_and_holds_may_be_released_by_any_thread(open_any, space):
    """A copy ends where it ends; the loop is told."""
    digests = chunk_digests(space, prompt(HERE, 2))
    async with open_any(options()) as (store, keeper):
        await store_prompt(store, space, digests)
        lease = await store.lease(space, digests=digests)
        hold = lease.hold()
        posted = []
        call_soon = LoopHandle.call_soon

        def noted(handle, function, *args):
            posted.append(function)
            return call_soon(handle, function, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LoopHandle, "call_soon", noted)
            await anyio.to_thread.run_sync(lease.release)
            kept = keeper.ledger.leases
            await anyio.to_thread.run_sync(hold.release)
        await until(lambda: keeper.ledger.leases == 0)

        assert kept == 1
        assert len(posted) >= 2


# --- what watches is no client ---


async def test_who_only_asks_is_not_counted(path, space):
    """`ajit kv status` does not see itself."""
    async with open_service(options(), path) as service, watch(path, timeout=60) as watcher:
        alone = await watcher.service_statistics()
        async with connect(path, timeout=60) as store:
            await store.ping()
            both = await watcher.service_statistics()

        assert (alone["clients"], alone["joined_clients"]) == (0, 0)
        assert (both["clients"], both["joined_clients"]) == (1, 1)
        assert service.clients == 0 or not store.statistics().connected
