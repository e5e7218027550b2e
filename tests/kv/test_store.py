"""A store: what is committed is found, what is leased stays, and nothing is left."""

from __future__ import annotations

import gc

import anyio
import anyio.lowlevel
import pytest

from ajit._system.numa import memory_nodes
from ajit.errors import AjitWarning, RuntimeClosed, UsageError
from ajit.kv import StoreOptions, chunk_digests, open_store
from ajit.kv import keeper as keeper_module
from ajit.kv.memory import Slab, SlabError
from tests.kv.store_support import (
    CHUNK_BYTES,
    CHUNK_TOKENS,
    content,
    counted,
    options,
    prompt,
    read_prompt,
    space_named,
    store_prompt,
)

pytestmark = pytest.mark.anyio


@pytest.mark.skipif(0 not in memory_nodes(), reason="the kernel has no NUMA")
async def test_the_node_of_the_memory_is_told(monkeypatch, space):
    """Nothing is done where there is one; a node that is not there is refused."""
    async with open_store(options()) as store:
        assert store.statistics().numa == "not asked for"
    with pytest.raises(UsageError, match="NUMA node 1000 is not there"):
        async with open_store(options(numa_node=1000)):
            pass
    monkeypatch.setattr(keeper_module, "choose_node", lambda asked: (0, f"node {asked}"))
    async with open_store(options(numa_node=0)) as store:
        await store_prompt(store, space, chunk_digests(space, prompt(1, 1)))
        assert store.statistics().numa in ("node 0", "mbind: Operation not permitted")
    monkeypatch.setattr(keeper_module, "choose_node", lambda asked: (1000, f"node {asked}"))
    async with open_store(options(numa_node=0)) as store:
        assert await store_prompt(store, space, chunk_digests(space, prompt(1, 1))) == 1
        assert "mbind" in store.statistics().numa


async def test_what_is_committed_is_found_by_its_tokens(open_any, space):
    """With its bytes, and as many tokens as whole chunks have."""
    tokens = [*prompt(1, 3), 7]
    digests = chunk_digests(space, tokens)
    async with open_any(options()) as (store, keeper):
        stored = await store_prompt(store, space, digests)
        async with store.lease(space, tokens) as lease:
            found = [bytes(view) for view in lease.views()]
            statistics = await counted(store, keeper)

        assert stored == 3
        assert lease.tokens == 3 * CHUNK_TOKENS
        assert found == [content(digest) for digest in digests]
        assert (statistics.leases, statistics.chunks, statistics.used_bytes) == (
            1, 3, 3 * CHUNK_BYTES,
        )  # fmt: skip
        assert (await counted(store, keeper)).leases == 0


async def test_checksums_come_back_as_they_were_given(open_any, space):
    """The store does not look at bytes."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_any(options()) as (store, _keeper):
        async with store.reserve(space, digests) as slots:
            await slots.commit(checksums=[7, 2**64 - 1])
        async with store.lease(space, digests=digests, checksums=True) as lease:
            assert lease.checksums == (7, 2**64 - 1)


async def test_another_dtype_geometry_or_model_is_a_miss(open_any, space):
    """Its bytes mean something else."""
    tokens = prompt(1, 2)
    async with open_any(options()) as (store, _keeper):
        await store_prompt(store, space, chunk_digests(space, tokens))
        for other in (
            space_named("small", dtype="bfloat16"),
            space_named("small", layers=1, dim=256),
            space_named("large"),
            space_named("small", salt="s"),
        ):
            async with store.lease(other, tokens) as lease:
                assert len(lease) == 0


async def test_a_longer_prompt_takes_up_where_a_shorter_one_ended(open_any, space):
    """Only what is missing is written."""
    digests = chunk_digests(space, prompt(1, 5))
    async with open_any(options()) as (store, _keeper):
        await store_prompt(store, space, digests[:3])
        async with store.lease(space, digests=digests) as lease:
            stored = await store_prompt(store, space, digests, first=len(lease))

        assert stored == 2
        assert await read_prompt(store, space, digests) == 5


async def test_a_store_that_has_no_room_is_busy_and_says_when_to_try_again(open_any, space):
    """The engine goes on without it."""
    async with open_any(options(chunks=4)) as (store, keeper):
        await store_prompt(store, space, chunk_digests(space, prompt(1, 4)))
        other = chunk_digests(space, prompt(2, 2))
        async with store.lease(space, prompt(1, 4)), store.reserve(space, other) as slots:
            assert (len(slots), slots.reason) == (0, "busy")
            assert slots.retry_after > 0
        assert await store_prompt(store, space, chunk_digests(space, prompt(2, 2))) == 2
        assert (await counted(store, keeper)).refused == 1


async def test_a_reservation_without_slots_commits_nothing_and_is_no_error(open_any, space):
    """An engine that finds its prompt stored already goes on."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_any(options()) as (store, _keeper):
        await store_prompt(store, space, digests)
        async with store.reserve(space, digests) as slots:
            assert (len(slots), slots.reason) == (0, "stored")
            assert await slots.commit()
            with pytest.raises(UsageError):
                await slots.commit(1)


async def test_what_another_stores_just_now_can_be_waited_for(open_any, space):
    """Two engines with one prompt: the second one waits, and copies nothing."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_any(options()) as (store, _keeper):
        async with store.reserve(space, digests) as slots:
            async with store.reserve(space, digests) as second:
                assert second.reason == "pending"
            async with store.lease(space, digests=digests, wait_seconds=0.01) as lease:
                assert (len(lease), lease.pending) == (0, True)
            found = []

            async def wait():
                async with store.lease(space, digests=digests, wait_seconds=60) as lease:
                    found.append(len(lease))

            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                await slots.commit()

        assert found == [2]


async def test_a_cancelled_wait_leaves_nothing(open_any, space):
    """No lease and no reservation."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_any(options()) as (store, keeper), store.reserve(space, digests):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: _lease_for_ever(store, space, digests))
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()

        assert (await counted(store, keeper)).leases == 0


async def _lease_for_ever(store, space, digests):
    async with store.lease(space, digests=digests, wait_seconds=1e6):
        await anyio.sleep_forever()


async def test_a_cancelled_engine_leaves_nothing(open_any, space):
    """Whatever it was at."""
    digests = chunk_digests(space, prompt(1, 3))
    async with open_any(options()) as (store, keeper):
        await store_prompt(store, space, digests[:1])
        with anyio.CancelScope() as scope:
            async with store.lease(space, digests=digests), store.reserve(space, digests):
                scope.cancel()
                await anyio.sleep_forever()
        statistics = await counted(store, keeper)

        assert (statistics.leases, statistics.reservations) == (0, 0)
        assert statistics.used_bytes == CHUNK_BYTES


async def test_memory_stays_until_the_copy_that_holds_it_is_over(open_any, space):
    """A task that is cancelled leaves its block before its ticket has retired."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_any(options()) as (store, keeper):
        async with store.reserve(space, digests) as slots:
            writing = slots.hold()
        held = (await counted(store, keeper)).used_bytes
        writing.release()
        writing.release()
        free = (await counted(store, keeper)).used_bytes
        await store_prompt(store, space, digests)
        async with store.lease(space, digests=digests) as lease:
            reading = lease.hold()
        leases = (await counted(store, keeper)).leases
        reading.release()

        assert (held, free) == (2 * CHUNK_BYTES, 0)
        assert (leases, (await counted(store, keeper)).leases) == (1, 0)


async def test_what_has_ended_cannot_be_used(open_any, space):
    """Its memory may be another chunk's by now."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_any(options()) as (store, _keeper):
        async with store.reserve(space, digests) as slots:
            await slots.commit(1)
            with pytest.raises(UsageError, match="1 chunks to commit, not 2"):
                await slots.commit(2)
        async with store.lease(space, digests=digests) as lease:
            pass
        for handle in (slots, lease):
            handle.release()
            with pytest.raises(UsageError, match="has ended"):
                handle.view(0)
            with pytest.raises(UsageError, match="has ended"):
                handle.hold()


async def test_what_is_committed_is_not_written_any_more(open_any, space):
    """Others read it. What is left of the reservation is still its owner's to write."""
    digests = chunk_digests(space, prompt(1, 3))
    async with open_any(options()) as (store, _), store.reserve(space, digests) as slots:
        for view in slots.views():
            view[:] = bytes(len(view))
        assert await slots.commit(1)
        for refused in (lambda: slots.view(0), lambda: slots.view(-3), slots.views):
            with pytest.raises(UsageError, match=r"chunk (0|-3) of .* is committed"):
                refused()
        for index in (1, 2, -2, -1):
            slots.view(index)[:1] = b"x"
        async with store.lease(space, digests=digests) as lease:
            found = [bytes(view) for view in lease.views()]

        assert await slots.commit()
        assert found == [bytes(CHUNK_BYTES)]


async def test_the_last_commit_is_refused_while_a_hold_follows_nothing(open_any, space):
    """Its copy may still write, and what is committed may be evicted, or read by others."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_any(options()) as (store, _), store.reserve(space, digests) as slots:
        hold = slots.hold()
        assert await slots.commit(1)  # the hold keeps the second one, and so the first
        with pytest.raises(UsageError, match="release the hold before the last commit"):
            await slots.commit()
        refused = slots.committed
        hold.release()

        assert refused == 1
        assert await slots.commit()
        assert slots.committed == 2


async def test_the_last_commit_waits_for_what_a_hold_follows(open_any, space):
    """It may be given back after the commit: its copy has ended by then."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_any(options()) as (store, _), store.reserve(space, digests) as slots:
        copied, began = anyio.Event(), anyio.Event()
        hold = slots.hold()
        hold.follow(_Copy(copied, began))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(slots.commit)
            await began.wait()
            early = slots.committed
            copied.set()
        hold.release()

        assert (early, slots.committed) == (0, 2)


class _Copy:
    """Ends when an event is set, and tells when it is waited for."""

    def __init__(self, copied: anyio.Event, began: anyio.Event) -> None:
        self.copied, self.began = copied, began

    def __await__(self):
        self.began.set()
        return self.copied.wait().__await__()


async def test_what_is_closed_is_told_so(open_any, space):
    """A client that was left does not miss for ever, and no store is used without its memory."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_any(options()) as (store, _):
        await store_prompt(store, space, digests)
    calls = [
        lambda: store.lease(space, digests=digests),
        lambda: store.reserve(space, digests),
        lambda: store.discard(space, digests[0]),
    ]
    for call in calls:
        with pytest.raises(RuntimeClosed, match="is closed: its async with block has ended"):
            await call()


async def test_all_counts_are_printed(space):
    """All that are not nothing, in lines of a width that a terminal has."""
    async with open_store(options()) as store:
        await store_prompt(store, space, chunk_digests(space, prompt(1, 2)))
        statistics = store.statistics()
        text = str(statistics)

    assert "chunks stored 2" in " ".join(text.split())
    assert f"stored bytes {2 * CHUNK_BYTES}" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 100
    assert text != repr(statistics)


async def test_a_reservation_that_takes_too_long_is_dropped(open_any, space):
    """Others may store the chunk; the memory stays the slow one's until it lets go."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_any(options(reserve_seconds=5)) as (store, keeper):
        async with store.reserve(space, digests) as slow:
            keeper.sweep_now(1e12)
            stored = await store_prompt(store, space, digests)
            used = (await counted(store, keeper)).used_bytes
            late = await slow.commit()

        assert (stored, late) == (2, False)
        assert used == 4 * CHUNK_BYTES
        assert (await counted(store, keeper)).used_bytes == 2 * CHUNK_BYTES
        assert await read_prompt(store, space, digests) == 2


async def test_a_handle_that_is_dropped_is_released_and_warns(open_any, space):
    """By the loop, for a finalizer may run anywhere."""
    digests = chunk_digests(space, prompt(1, 2))
    async with open_any(options()) as (store, keeper):
        await store_prompt(store, space, digests)
        lease = await store.lease(space, digests=digests)
        slots = await store.reserve(space, chunk_digests(space, prompt(2, 2)))
        assert (len(lease), len(slots)) == (2, 2)
        with pytest.warns(AjitWarning, match="dropped without") as warned:  # noqa: PT031 - both
            del lease, slots
            gc.collect()
        with anyio.fail_after(60):
            while (await counted(store, keeper)).leases or (
                await counted(store, keeper)
            ).reservations:
                await anyio.lowlevel.checkpoint()

        assert len(warned) == 2
        assert (await counted(store, keeper)).used_bytes == 2 * CHUNK_BYTES


async def test_memory_that_the_system_refuses_makes_the_store_busy(open_any, space, monkeypatch):
    """One warning says so, and what is there serves on."""

    def refused(size_bytes, **given):
        raise SlabError(12, f"no memory for a slab of {size_bytes} bytes")

    async with open_any(options()) as (store, keeper):
        await store_prompt(store, space, chunk_digests(space, prompt(1, 2)))
        monkeypatch.setattr(Slab, "make", refused)
        with pytest.warns(AjitWarning, match="stays at 1 slabs"):
            stored = await store_prompt(store, space, chunk_digests(space, prompt(2, 8)))

        assert stored == 4
        assert "no memory" in (await counted(store, keeper)).problem


async def test_a_thread_that_cannot_be_started_makes_the_store_busy(open_any, space, monkeypatch):
    """As memory that cannot be had; and the store is asked again later."""

    async def refused(*args, **how):
        raise RuntimeError("can't start new thread")

    async with open_any(options()) as (store, kept):
        digests = chunk_digests(space, prompt(1, 2))
        with monkeypatch.context() as patch:
            patch.setattr(keeper_module, "run_in_thread", refused)
            with pytest.warns(AjitWarning, match="start new thread"):
                assert await store_prompt(store, space, digests) == 0
        assert await store_prompt(store, space, digests) == 0
        kept._again_at = 0.0
        assert await store_prompt(store, space, digests) == 2
        assert (await counted(store, kept)).problem == ""


async def test_memory_is_asked_for_again_after_a_while(open_any, space, monkeypatch):
    """Who took it may have given it back. Until then nothing asks the system for it."""
    asked, make = [], Slab.make

    def refused(size_bytes, **given):
        asked.append(size_bytes)
        raise SlabError(12, f"no memory for a slab of {size_bytes} bytes")

    async with open_any(options()) as (store, keeper):
        monkeypatch.setattr(Slab, "make", refused)
        with pytest.warns(AjitWarning, match="stays at 0 slabs"):
            first = [
                await store_prompt(store, space, chunk_digests(space, prompt(1, 2))),
                await store_prompt(store, space, chunk_digests(space, prompt(1, 2))),
            ]
        monkeypatch.setattr(Slab, "make", make)
        keeper._again_at = 0.0
        later = await store_prompt(store, space, chunk_digests(space, prompt(1, 2)))

        assert (first, later, len(asked)) == ([0, 0], 2, 1)
        assert (await counted(store, keeper)).problem == ""


async def test_a_system_without_threads_makes_the_store_busy(open_any, space, monkeypatch):
    """And does not end it: what is there serves on."""

    async def none(*_, **__):
        raise RuntimeError("can't start new thread")

    digests = chunk_digests(space, prompt(1, 4))
    async with open_any(options()) as (store, keeper):
        await store_prompt(store, space, digests)
        monkeypatch.setattr(keeper_module, "run_in_thread", none)
        with pytest.warns(AjitWarning, match="can't start new thread"):
            stored = await store_prompt(store, space, chunk_digests(space, prompt(2, 8)))

        assert stored == 4
        assert await read_prompt(store, space, digests) == 0  # it gave way
        assert "thread" in (await counted(store, keeper)).problem


async def test_closing_ends_those_that_wait(open_any, space):
    """They are told that the store was closed; clients of a service miss."""
    digests = chunk_digests(space, prompt(1, 2))
    ended = []

    async def wait(store):
        try:
            async with store.lease(space, digests=digests, wait_seconds=1000) as lease:
                ended.append(len(lease))
        except RuntimeClosed:
            ended.append(0)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group, open_any(options()) as (store, _keeper):
            slots = await store.reserve(space, digests)
            group.start_soon(wait, store)
            await anyio.wait_all_tasks_blocked()
    slots.release()

    assert ended == [0]


@pytest.mark.parametrize(
    "given",
    [{}, {"tokens": [1], "digests": []}, {"digests": [b"short"]}, {"digests": ["text" * 4]}],
    ids=str,
)
async def test_a_lookup_of_nothing_is_refused(open_any, space, given):
    """Nothing was looked up."""
    async with open_any(options()) as (store, keeper):
        with pytest.raises(UsageError):
            await store.lease(space, **given)

        assert (await counted(store, keeper)).lookups == 0


async def test_a_chunk_that_does_not_verify_is_not_found_again(open_any, space):
    """Nor are those after it."""
    digests = chunk_digests(space, prompt(1, 3))
    async with open_any(options()) as (store, _keeper):
        await store_prompt(store, space, digests)
        removed = await store.discard(space, digests[1])

        assert removed == 2
        assert await read_prompt(store, space, digests) == 1


@pytest.mark.parametrize(
    "given",
    [{"limit_bytes": 1}, {"slab_bytes": 5000}, {"credit_bytes": -1}, {"reserve_seconds": 0}],
    ids=str,
)
def test_options_that_cannot_be_are_refused(given):
    """Before anything is opened."""
    with pytest.raises(UsageError):
        options(**given)


async def test_chunks_that_no_slab_can_hold_are_not_stored(open_any):
    """And the reason is said."""
    huge = space_named("huge", chunk_bytes=1 << 40)
    async with open_any(options()) as (store, _keeper):
        async with store.reserve(huge, [b"d" * 16]) as slots:
            reason = slots.reason
        async with store.lease(huge, digests=[b"d" * 16]) as lease:
            found = len(lease)

    assert (reason, found) == ("size", 0)


@pytest.mark.parametrize("limit_bytes", [4096, 1 << 20, 1 << 26, 3 << 30, 64 << 30, 2 << 40])
def test_slabs_are_few_and_within_the_limit(limit_bytes):
    """Whatever the limit is: each costs a descriptor."""
    made = StoreOptions(limit_bytes=limit_bytes)

    assert 1 <= made.most_slabs <= 256
    assert made.most_slabs * made.slab_bytes > limit_bytes // 2


async def test_what_is_leased_can_only_be_read(open_any, space):
    """Other engines read the same memory."""
    async with open_any(options()) as (store, _):
        digests = chunk_digests(space, prompt(1, 1))
        await store_prompt(store, space, digests)
        async with store.lease(space, digests=digests) as lease:
            assert all(view.readonly for view in lease.views())


async def test_a_prompt_below_one_chunk_is_short_and_not_stored_already(open_any, space):
    """Nothing of it can be stored, and that is said."""
    async with open_any(options()) as (store, _):
        async with store.reserve(space, chunk_digests(space, [1, 2, 3])) as slots:
            assert (len(slots), slots.reason) == (0, "short")
            assert await slots.commit()
        async with store.lease(space, [1, 2, 3]) as lease:
            assert lease.tokens == 0


async def all_memory_is_taken(store, space) -> bool:
    """Whether another prompt gets nothing."""
    async with store.reserve(space, chunk_digests(space, prompt(77, 8))) as slots:
        return not slots


async def test_a_commit_that_is_refused_keeps_the_memory_that_is_held(open_any, space):
    """A copy into it may be on its way; it is given back when that has ended."""
    async with open_any(options(reserve_seconds=0.001)) as (store, keeper):
        slots = await store.reserve(space, chunk_digests(space, prompt(1, 8)))
        hold = slots.hold()
        keeper.ledger.expire(next(iter(keeper.ledger._writings)))

        assert await slots.commit(1) is False
        assert await all_memory_is_taken(store, space)
        slots.release()
        assert await all_memory_is_taken(store, space)
        hold.release()
        with anyio.fail_after(60):
            while await all_memory_is_taken(store, space):
                await anyio.lowlevel.checkpoint()


async def test_a_hold_that_is_dropped_keeps_the_memory(open_any, space):
    """As the docs say of a copy that is overdue: nothing tells that it has ended."""
    async with open_any(options()) as (store, _):
        slots = await store.reserve(space, chunk_digests(space, prompt(1, 8)))
        hold = slots.hold()
        slots.release()
        kept = [slots, hold]
        del slots, hold
        with pytest.warns(AjitWarning, match="a hold of a reservation was dropped"):
            kept.clear()

        assert await all_memory_is_taken(store, space)


async def test_a_second_commit_waits_for_what_comes_of_the_first(open_any, space):
    """And does not say that it is found when it is not."""
    async with open_any(options()) as (store, keeper):
        slots = await store.reserve(space, chunk_digests(space, prompt(1, 8)))
        keeper.ledger.expire(next(iter(keeper.ledger._writings)))
        came = []

        async def commit() -> None:
            try:
                came.append(await slots.commit())
            except UsageError as exc:
                came.append(str(exc))

        async with anyio.create_task_group() as group:
            group.start_soon(commit)
            group.start_soon(commit)

    assert came[0] is False
    assert "cannot be committed any more" in came[1]


@pytest.mark.parametrize("checksum", [-1, 1 << 64])
async def test_a_checksum_that_is_none_is_refused_and_nothing_is_spent(open_any, space, checksum):
    """The same reservation can be committed then."""
    async with (
        open_any(options()) as (store, _),
        store.reserve(space, chunk_digests(space, prompt(1, 1))) as slots,
    ):
        with pytest.raises(UsageError, match="unsigned number of 64 bits"):
            await slots.commit(checksums=[checksum])
        assert await slots.commit(checksums=[7])


async def test_memory_stays_below_its_limit_whoever_asks_for_more(open_any, space):
    """Each of several may have seen, before it waited, that there is room for one slab more."""
    async with open_any(options()) as (_, keeper):
        while keeper.ledger.arena.may_grow:
            await keeper.wait_for_slab()
        await keeper.wait_for_slab()

        assert sum(slab.size_bytes for slab in keeper.slabs) <= keeper.options.limit_bytes
