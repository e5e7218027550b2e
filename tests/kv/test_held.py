"""Copies that take a lease or a reservation: its memory is nobody else's before they have ended."""

from __future__ import annotations

import itertools
import threading
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import anyio.to_thread
import numpy as np
import pytest

from ajit import kv
from ajit._gpu.completion import waiting
from ajit.errors import DeviceError, DeviceLost, RuntimeClosed, UsageError
from ajit.kv import held
from tests.gpu.support import GRACE_SECONDS, POLL_SECONDS, cpu_device, until
from tests.kv.model import chunks_of, seen, tensors_of
from tests.runtime.sequencer import Sequencer

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

LAYOUT = kv.Layout(layers=4, heads=2, dim=8, dtype="float16", page_tokens=4, chunk_tokens=8)
SPACE = LAYOUT.namespace("toy", "1")
PAGES = 12
CHUNKS = 4
BLOCKS = [7, 2, 5, 0, 11, 3, 8, 1]
ROOM = kv.StoreOptions(
    limit_bytes=CHUNKS * SPACE.chunk_bytes, slab_bytes=CHUNKS * SPACE.chunk_bytes
)
INVALID_VALUE, ILLEGAL_ADDRESS = 1, 700


def digests_of(name):
    """Those of a prompt; other names have others."""
    return kv.chunk_digests(SPACE, [name, *range(1, CHUNKS * SPACE.chunk_tokens)])


async def is_free(store):
    """Whether all of the store's memory can be had by another prompt; it is given back."""
    async with store.reserve(SPACE, digests_of(999)) as slots:
        return len(slots) == CHUNKS


async def wait_free(store):
    """Until that is so."""
    with anyio.fail_after(GRACE_SECONDS):
        while not await is_free(store):  # noqa: ASYNC110  # a store sets no event
            await anyio.sleep(POLL_SECONDS)


@asynccontextmanager
async def opened(open_any, tensors=None):
    """A store with room for one prompt, a device, and an engine's pages."""
    async with open_any(ROOM) as (store, _), cpu_device() as device:
        buffers = [await device.upload(each) for each in tensors or tensors_of(LAYOUT, PAGES)]
        async with kv.open_pages(device, LAYOUT, buffers) as pages:
            yield store, device, pages


async def test_pages_are_saved_to_a_reservation_and_loaded_from_a_lease(open_any):
    """As they are: no views, and no holds by hand."""
    tensors = tensors_of(LAYOUT, PAGES)
    async with opened(open_any, tensors) as (store, _, pages):
        async with store.reserve(SPACE, digests_of(1)) as slots:
            await (await pages.save(BLOCKS, slots))
            assert await slots.commit()
        async with store.lease(SPACE, digests=digests_of(1)) as lease:
            found = b"".join(map(bytes, lease.views()))
            await (await pages.load(lease, BLOCKS[::-1]))
            await (await pages.load(lease, BLOCKS))
            with pytest.raises(UsageError, match=r"can only be read; reserve\(\) gives memory"):
                await pages.save(BLOCKS, lease)
            with pytest.raises(
                UsageError, match=r"load\(chunks, blocks\) and save\(blocks, chunks"
            ):
                await pages.load(BLOCKS, lease)
        expected = chunks_of(LAYOUT, seen(LAYOUT, tensors, PAGES), BLOCKS)

        assert expected.tobytes() == found
        assert await is_free(store)


@pytest.mark.parametrize("by_slot", [False, True])
@pytest.mark.parametrize("kind", [list, np.array])
async def test_what_is_stored_has_no_gap_and_no_missing_page(open_any, kind, by_slot):
    """Others would find what the memory held before: another prompt, perhaps of another tenant."""
    each = LAYOUT.page_tokens if by_slot else 1
    whole = [block * each + n for block in BLOCKS for n in range(each)]
    gap, short = [*whole[:3], -1, *whole[4:]], whole[:-1]
    async with (
        opened(open_any) as (store, _, pages),
        store.reserve(SPACE, digests_of(1)) as slots,
    ):
        with pytest.raises(UsageError, match="a negative number is a gap"):
            await pages.save(kind(gap), slots, slots=by_slot)
        with pytest.raises(UsageError, match=f"has {len(short)} numbers, and {len(whole)} are"):
            await pages.save(kind(short), slots, slots=by_slot)
        await (await pages.save(kind(whole), slots, slots=by_slot))
        assert await slots.commit()
        async with store.lease(SPACE, digests=digests_of(1)) as lease:
            await (await pages.load(lease, kind(gap), slots=by_slot))  # leaves these tokens alone


async def test_the_table_of_the_whole_prompt_is_given_whatever_is_stored_already(open_any):
    """Of it are taken the pages of the chunks that a handle has; all, some or none."""
    tensors = tensors_of(LAYOUT, PAGES)
    expected = chunks_of(LAYOUT, seen(LAYOUT, tensors, PAGES), BLOCKS).tobytes()
    digests = digests_of(1)
    async with opened(open_any, tensors) as (store, _, pages):
        async with store.reserve(SPACE, digests[:1]) as slots:
            await (await pages.save(BLOCKS, slots))
            assert await slots.commit()
        async with store.reserve(SPACE, digests) as slots:
            assert (slots.first, len(slots)) == (1, CHUNKS - 1)
            with pytest.raises(UsageError, match="needed, of the whole prompt from its start"):
                await pages.save(BLOCKS[2:], slots)
            await (await pages.save(BLOCKS, slots))
            assert await slots.commit()
        async with store.reserve(SPACE, digests) as slots:
            assert slots.reason == "stored"
            await (await pages.save(BLOCKS, slots))
            assert await slots.commit()
        async with store.lease(SPACE, digests=digests) as lease:
            found = b"".join(map(bytes, lease.views()))
        async with store.lease(SPACE, digests=digests[:2]) as lease:
            await (await pages.load(lease, BLOCKS))
        async with store.lease(SPACE, digests=digests_of(5)) as miss:
            await (await pages.load(miss, BLOCKS))

    assert found == expected


async def test_commit_after_the_end_says_so(open_any):
    """And not that there are other chunks than there are."""
    async with (
        opened(open_any) as (store, _, pages),
        store.reserve(SPACE, digests_of(1)) as slots,
    ):
        await (await pages.save(BLOCKS, slots))
        assert await slots.commit()
        with pytest.raises(UsageError, match="cannot be committed any more"):
            await slots.commit()


async def saving(store, pages, submitted):
    """Reserve memory and save to it."""
    async with store.reserve(SPACE, digests_of(1)) as slots:
        transfer = await pages.save(BLOCKS, slots, gates=True)
        submitted.set()
        await transfer


async def loading(store, pages, submitted):
    """Find a prompt and load it."""
    async with store.lease(SPACE, digests=digests_of(1)) as lease:
        transfer = await pages.load(lease, BLOCKS, gates=True)
        submitted.set()
        await transfer.layer(0)


@pytest.mark.parametrize("copying", [saving, loading])
async def test_a_copy_cancelled_at_any_await_keeps_its_memory_to_the_end(
    open_any, faults, copying, monkeypatch
):
    """Once submitted the copy has the memory, whatever its task waits for; before it nobody has."""
    monkeypatch.setattr(waiting, "SPIN_SECONDS", 0.0)  # each wait for the device is an await
    for at in itertools.count(1):
        async with opened(open_any) as (store, _, pages), anyio.create_task_group() as tasks:
            if copying is loading:
                async with store.reserve(SPACE, digests_of(1)) as slots:
                    await slots.commit()
            sequencer, submitted, scope = Sequencer(at), anyio.Event(), anyio.CancelScope()
            sequencer.act = scope.cancel
            with faults.held():
                tasks.start_soon(watched, scope, sequencer, copying(store, pages, submitted))
                await until(lambda: submitted.is_set() or scope.cancelled_caught)  # noqa: B023
                assert await is_free(store) is not submitted.is_set()
            await wait_free(store)
        if submitted.is_set() and not sequencer.acted:
            break
    assert at > 2  # events are made, then the copy is waited for


async def watched(scope, sequencer, coroutine):
    """Run it in a scope, and cancel that at the chosen await."""
    with scope:
        await sequencer.watch(coroutine)


async def test_a_handle_released_during_the_copy_ends_with_it(open_any, faults):
    """Releasing is nothing a second time, and what is refused meanwhile holds nothing."""
    async with opened(open_any) as (store, _, pages):
        slots = await store.reserve(SPACE, digests_of(1))
        with faults.held():
            transfer = await pages.save(BLOCKS, slots)
            slots.release()
            slots.release()
            with pytest.raises(UsageError, match="has ended"):
                await pages.save(BLOCKS, slots)
            assert not await is_free(store)
        await transfer
        slots.release()

        assert await is_free(store)


async def test_a_commit_waits_for_the_copies_into_it(open_any, faults):
    """What is found is all there, though nobody has awaited the transfer."""
    async with opened(open_any) as (store, _, pages), anyio.create_task_group() as tasks:
        slots = await store.reserve(SPACE, digests_of(1))
        with faults.held():
            transfer = await pages.save(BLOCKS, slots)
            tasks.start_soon(slots.commit)
            await anyio.wait_all_tasks_blocked()
            async with store.lease(SPACE, digests=digests_of(1)) as lease:
                assert lease.tokens == 0
        await transfer
        await until(lambda: slots.committed)
        async with store.lease(SPACE, digests=digests_of(1), wait_seconds=GRACE_SECONDS) as lease:
            assert len(lease) == CHUNKS


@pytest.mark.parametrize("known", [False, True])
async def test_a_commit_of_a_copy_that_failed_commits_nothing(open_any, faults, known):
    """It raises what the transfer would, whether or not that has ended by then."""
    async with opened(open_any) as (store, _, pages):
        async with store.reserve(SPACE, digests_of(1)) as slots:
            faults.inject("cuMemcpyBatchAsync_v2", INVALID_VALUE)
            transfer = await pages.save(BLOCKS, slots)
            if known:
                await until(lambda: transfer.done)
            with pytest.raises(DeviceError):
                await slots.commit()
            with pytest.raises(DeviceError):
                await slots.commit()

        assert slots.committed == 0
        assert await is_free(store)


async def test_a_refused_submission_holds_nothing(open_any):
    """Neither one with wrong numbers nor one of pages that were closed; nor one of no chunks."""
    async with open_any(ROOM) as (store, _), cpu_device() as device:
        buffers = [await device.upload(each) for each in tensors_of(LAYOUT, PAGES)]
        async with kv.open_pages(device, LAYOUT, buffers) as pages:
            async with store.reserve(SPACE, digests_of(1)) as slots:
                with pytest.raises(UsageError, match="has 2 numbers, and 8 are needed") as refused:
                    await pages.save([1, 2], slots)
                async with store.reserve(SPACE, digests_of(1)) as none:
                    assert none.reason == "pending"
                    await (await pages.save([], none))
            assert refused.tb is not None  # the frames are still there
            assert await is_free(store)
        async with store.reserve(SPACE, digests_of(1)) as slots:
            with pytest.raises(RuntimeClosed):
                await pages.save(BLOCKS, slots)

        assert await is_free(store)


async def test_chunks_of_another_layout_are_refused_before_anything_is_submitted(open_any):
    """Though they have the same size; and the error says what differs."""
    other = replace(LAYOUT, dtype="bfloat16").namespace("toy", "1")
    async with opened(open_any) as (store, device, pages):
        before = device.statistics().dispatched
        digests = kv.chunk_digests(other, range(CHUNKS * 8))
        async with store.reserve(other, digests) as slots:
            assert other.chunk_bytes == LAYOUT.chunk_bytes
            with pytest.raises(UsageError, match="their dtype is 'bfloat16', that of the pages"):
                await pages.save(BLOCKS, slots, gates=True)
            assert await slots.commit()
        async with store.lease(other, digests=digests) as lease:
            with pytest.raises(UsageError, match="dtype"):
                await pages.load(lease, BLOCKS, gates=True)

        assert device.statistics().dispatched == before
        assert await is_free(store)


async def test_a_lost_device_gives_the_memory_back(open_any, faults):
    """It touches nothing any more."""
    async with opened(open_any) as (store, device, pages):
        slots = await store.reserve(SPACE, digests_of(1))
        faults.hold()
        transfer = await pages.save(BLOCKS, slots)
        slots.release()
        faults.poison(ILLEGAL_ADDRESS)
        faults.let_go()
        with pytest.raises(DeviceLost):
            await transfer
        del transfer
        await wait_free(store)
        slots = await store.reserve(SPACE, digests_of(1))
        with pytest.raises(DeviceLost):
            await pages.save(BLOCKS, slots)
        slots.release()

        assert await is_free(store)
        assert device is not None


async def test_a_device_closed_in_the_middle_keeps_what_it_may_still_write(
    open_any, faults, monkeypatch
):
    """It hangs: nobody gets the memory. One that ends its work in time gives it back."""
    async with open_any(ROOM) as (store, _):
        for hangs in (False, True):
            if hangs:
                monkeypatch.setattr("ajit._gpu.membership.CLOSE_SECONDS", 0.1)
            async with cpu_device() as device:
                buffers = [await device.upload(each) for each in tensors_of(LAYOUT, PAGES)]
                async with kv.open_pages(device, LAYOUT, buffers) as pages:
                    slots = await store.reserve(SPACE, digests_of(1))
                    with faults.held() if hangs else anyio.CancelScope():
                        transfer = await pages.save(BLOCKS, slots)
                        slots.release()
                        await device.aclose()
                        assert await is_free(store) is not hangs
                    if hangs:
                        with pytest.raises(RuntimeClosed):
                            await transfer


async def test_other_memory_is_taken_as_before(open_any):
    """Views of a handle, of which the caller takes care, and arrays."""
    async with opened(open_any) as (store, _, pages):
        async with store.reserve(SPACE, digests_of(1)) as slots:
            await (await pages.save(BLOCKS, slots.views()))
            await (await pages.load(slots.views(), BLOCKS))
        array = np.zeros((CHUNKS, LAYOUT.chunk_bytes), np.uint8)
        await (
            await pages.save(BLOCKS, kv.Chunks(array, [i * LAYOUT.chunk_bytes for i in range(4)]))
        )

        assert array.any()


async def test_a_hold_dropped_in_another_thread_is_released_in_the_loop():
    """The garbage collector runs where it likes, and a store belongs to its loop."""
    released = []

    class Slots(list):
        namespace = SPACE

        def views(self):
            return self

        def hold(self):
            return self

        def follow(self, copy):
            raise NotImplementedError

        def release(self):
            released.append(threading.get_ident())

    kept = list(held.hold_chunks(Slots([b"x"]), LAYOUT, to_host=True))
    await anyio.to_thread.run_sync(kept.clear)
    await until(lambda: released)

    assert released == [threading.get_ident()]
