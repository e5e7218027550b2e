"""A store's memory that a driver knows: in the background, slab by slab, never unmapped before."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import anyio
import numpy as np
import pytest

from ajit import kv
from ajit._gpu import registered
from ajit.errors import DeviceError, UsageError
from ajit.kv import memory, registering
from tests.gpu.support import GRACE_SECONDS, cpu_device, until
from tests.kv.model import chunks_of, seen, tensors_of

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

LAYOUT = kv.Layout(layers=5, heads=3, dim=7, dtype="float16", page_tokens=4, chunk_tokens=16)
SPACE = LAYOUT.namespace("toy", "1")
SLAB_BYTES = 32 << 10
CHUNKS_OF_A_SLAB = SLAB_BYTES // LAYOUT.chunk_bytes
OPTIONS = kv.StoreOptions(limit_bytes=4 * SLAB_BYTES, slab_bytes=SLAB_BYTES)
PAGES = 16
BLOCKS = list(range(15, -1, -1))
OUT_OF_MEMORY = 2


def digests_of(name, chunks=4):
    """Those of a prompt."""
    return kv.chunk_digests(SPACE, [name, *range(1, chunks * SPACE.chunk_tokens)])


def addresses_of(known) -> list[int]:
    """Where the slabs are mapped that a driver is told of."""
    return [each.address for each in known._known.values()]


def mapped(addresses) -> list[int]:
    """Those of them where a slab is mapped now."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    slabs = {line.partition("-")[0] for line in lines if f"memfd:{memory.NAME} " in line}
    return [address for address in addresses if f"{address:012x}" in slabs]


@asynccontextmanager
async def engine(device, store, tensors):
    """An engine's pages on a store whose memory the driver is to know."""
    buffers = [await device.upload(tensor) for tensor in tensors]
    async with kv.open_pages(device, LAYOUT, buffers, store=store) as pages:
        yield pages, buffers


async def copy_both_ways(device, store, pages, buffers, tensors, name) -> None:
    """Store a prompt and load it, and check every byte of both."""
    expected = chunks_of(LAYOUT, seen(LAYOUT, tensors, PAGES), BLOCKS)
    async with store.reserve(SPACE, digests_of(name)) as slots:
        assert len(slots) == 4, slots.reason
        await pages.save(BLOCKS, slots)
        assert await slots.commit()
    async with store.lease(SPACE, digests=digests_of(name)) as lease:
        assert expected.tobytes() == b"".join(map(bytes, lease.views()))
        for buffer in buffers:
            device.fill(buffer.view("uint8"), 0)
        await (await pages.load(lease, BLOCKS, after=device.mark()))
    found = [np.asarray(await device.download(buffer)) for buffer in buffers]
    assert (seen(LAYOUT, found, PAGES) == seen(LAYOUT, tensors, PAGES)).all()


async def test_slabs_are_registered_as_they_come(open_any):
    """Those that are there, those that come; and given back when the pages are closed."""
    tensors = tensors_of(LAYOUT, PAGES)
    async with open_any(OPTIONS) as (store, _), cpu_device() as device:
        async with store.reserve(SPACE, digests_of(1)) as slots:
            await slots.commit()
        before = device.statistics().live_resources
        async with engine(device, store, tensors) as (pages, buffers):
            await pages.wait_registered()
            first = pages.statistics().registered
            for name in range(2, 6):
                await copy_both_ways(device, store, pages, buffers, tensors, name)
            await pages.wait_registered()
            last = pages.statistics().registered
        del pages, buffers
        await until(lambda: device.statistics().live_resources == before)

    assert first.registered_bytes == first.slab_bytes == first.slabs * SLAB_BYTES > 0
    assert last.registered_bytes == last.slab_bytes == last.slabs * SLAB_BYTES > first.slab_bytes
    assert first.problem == last.problem == ""
    assert last.shared_bytes == 0


async def test_copies_are_right_however_much_the_driver_knows(open_any, monkeypatch):
    """Nothing, some pages of a slab, or all of it: a chunk lies across what is known and not."""
    monkeypatch.setattr(registering, "PIECE_BYTES", 4096)
    register = registered._register_piece
    tensors = tensors_of(LAYOUT, PAGES)
    for taken in (0, 1, 5, 9, 100):
        left = iter(range(taken))

        async def fails_later(*args, left=left):
            if next(left, None) is None:
                raise DeviceError(operation="register", code=OUT_OF_MEMORY)
            return await register(*args)

        monkeypatch.setattr(registered, "_register_piece", fails_later)
        async with (
            open_any(OPTIONS) as (store, _),
            cpu_device() as device,
            engine(device, store, tensors) as (pages, buffers),
        ):
            for name in (1, 2):
                await copy_both_ways(device, store, pages, buffers, tensors, name)
                await pages.wait_registered()
            told = pages.statistics().registered

        assert told.registered_bytes == min(taken * 4096, told.slab_bytes)


async def test_engines_of_one_process_share_what_is_registered(open_any):
    """The second finds it registered; when the first leaves, it registers it itself."""
    tensors = tensors_of(LAYOUT, PAGES)
    async with open_any(OPTIONS) as (store, _), cpu_device() as second, AsyncExitStack() as stack:
        first = await stack.enter_async_context(cpu_device())
        pages, buffers = await stack.enter_async_context(engine(first, store, tensors))
        await copy_both_ways(first, store, pages, buffers, tensors, 1)
        await pages.wait_registered()
        async with engine(second, store, tensors) as (others, other_buffers):
            await others.wait_registered()
            told = others.statistics().registered
            assert (told.registered_bytes, told.shared_bytes) == (0, told.slab_bytes)
            assert told.problem == ""
            await copy_both_ways(second, store, others, other_buffers, tensors, 2)
            await stack.aclose()

            def taken_over():
                told = others.statistics().registered
                return told.registered_bytes == told.slab_bytes > 0

            await until(taken_over)
            await copy_both_ways(second, store, others, other_buffers, tensors, 3)
        assert registering._engines == {}


async def test_a_slab_is_not_unmapped_before_the_driver_has_let_it_go(open_any, faults):
    """However long that takes; and then it is."""
    async with cpu_device() as device, AsyncExitStack() as stack:
        store, _ = await stack.enter_async_context(open_any(OPTIONS))
        async with kv.register(device, store) as known:
            async with store.reserve(SPACE, digests_of(1)) as slots:
                await slots.commit()
            del slots
            await known.wait_registered()
            slabs = addresses_of(known)
            assert mapped(slabs) == slabs != []
            with faults.stopped("cuMemHostUnregister"):
                await stack.aclose()
                assert mapped(slabs) == slabs
            await until(lambda: mapped(slabs) == [])
            assert known.statistics().slabs == 0


async def test_a_client_that_connects_again_registers_the_new_memory(path):
    """What the former service has left is given back when nothing holds it."""
    async with cpu_device() as device, kv.connect(path, timeout=60) as store:
        async with kv.register(device, store) as known:
            slabs: list[int] = []
            for _ in range(2):
                async with kv.open_service(OPTIONS, path):
                    await store.wait_connected()
                    async with store.reserve(SPACE, digests_of(1)) as slots:
                        await slots.commit()
                    await known.wait_registered()
                    told = known.statistics()
                    assert told.registered_bytes == told.slab_bytes > 0
                    slabs += addresses_of(known)
                    assert set(mapped(slabs)) >= set(addresses_of(known))
                await until(lambda: known.statistics().slabs == 0)
            del slots
        await until(lambda: mapped(slabs) == [])


async def test_what_the_driver_does_not_take_is_told(open_any, faults):
    """And is no error of a copy."""
    tensors = tensors_of(LAYOUT, PAGES)
    async with open_any(OPTIONS) as (store, _), cpu_device() as device:
        faults.inject("cuMemHostRegister_v2", OUT_OF_MEMORY, count=1 << 20)
        async with engine(device, store, tensors) as (pages, buffers):
            await copy_both_ways(device, store, pages, buffers, tensors, 1)
            await pages.wait_registered()
            told = pages.statistics().registered

    assert "OUT_OF_MEMORY" in told.problem
    assert (told.registered_bytes, told.shared_bytes) == (0, 0)
    assert told.slab_bytes > 0


async def test_a_device_closed_under_it_ends_it(open_any):
    """Leaving does not wait for what is gone."""
    async with open_any(OPTIONS) as (store, _), cpu_device() as device:
        with anyio.fail_after(GRACE_SECONDS):
            async with kv.register(device, store) as known:
                async with store.reserve(SPACE, digests_of(1)) as slots:
                    await slots.commit()
                await known.wait_registered()
                await device.aclose()
                async with store.reserve(SPACE, digests_of(2, 8)) as slots:
                    await slots.commit()
                await known.wait_registered()

        assert known.statistics().registered_bytes == 0
        assert registering._engines == {}


async def test_a_block_cancelled_while_it_registers_gives_all_back(open_any, faults):
    """The piece that the driver takes just then as well."""
    async with open_any(OPTIONS) as (store, _), cpu_device() as device:
        before = device.statistics().live_resources
        async with store.reserve(SPACE, digests_of(1)) as slots:
            await slots.commit()
        faults.stop("cuMemHostRegister_v2")
        async with anyio.create_task_group() as tasks:

            async def hold():
                async with kv.register(device, store):
                    await anyio.sleep_forever()

            tasks.start_soon(hold)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
            faults.inject("cuMemHostRegister_v2", count=0)
            faults.release()
        await until(lambda: device.statistics().live_resources == before)

        assert registering._engines == {}


async def test_a_store_of_another_loop_is_refused():
    """Its slabs come and go there."""
    other = SimpleNamespace(slabs=SimpleNamespace(loop=object()))
    async with cpu_device() as device:
        with pytest.raises(UsageError, match="another event loop"):
            async with kv.register(device, other):
                pass
