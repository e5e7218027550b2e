"""Host memory that others have made, page-locked for the device: a mmap, a memfd."""

from __future__ import annotations

import gc
import mmap
import os
import weakref

import anyio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ajit._gpu import registered
from ajit._gpu.host_chunks import Chunks
from ajit._gpu.page_format import PageFormat, PageIds, PageRow
from ajit._gpu.page_map import PageCopy, map_pages
from ajit.errors import ArgumentError, DeviceError
from tests.gpu.support import GRACE_SECONDS, cpu_device, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

PAGE = mmap.PAGESIZE


class Mapping(mmap.mmap):
    """Memory of pages, whose end can be seen."""


def shared_memory(pages):
    """A mapping of a memfd, as a service hands it out."""
    descriptor = os.memfd_create("ajit-test")
    os.ftruncate(descriptor, pages * PAGE)
    try:
        return Mapping(descriptor, pages * PAGE)
    finally:
        os.close(descriptor)


async def test_registered_memory_is_copied_from_and_to():
    """In several pieces, and by the memory's own object."""
    async with cpu_device() as device:
        memory = shared_memory(4)
        memory[:] = bytes(range(256)) * (4 * PAGE // 256)
        before = device.statistics().live_resources
        registration = await device.register_host(memory, piece_bytes=2 * PAGE)
        assert device.statistics().live_resources == before + 2
        buffer = await device.alloc(2 * PAGE)
        view = memoryview(memory)
        await device.copy(buffer, view[2 * PAGE :])
        await device.fill(buffer[0:8], 7)
        await device.copy(view[: 2 * PAGE], buffer)
        assert bytes(view[:10]) == bytes([7] * 8 + [8, 9])
        assert not registration.freed
        with anyio.fail_after(GRACE_SECONDS):
            await registration.aclose()
            await registration.aclose()
        view.release()
        memory.close()  # nothing refers to it any more

        assert registration.freed
        assert device.statistics().live_resources == before + 1


async def test_what_the_driver_knows_is_held(faults):
    """Memory whose owner has let it go stays until the copies that use it are done."""
    async with cpu_device() as device:
        memory, buffer = shared_memory(1), await device.alloc(PAGE)
        gone = weakref.ref(memory)
        registration = await device.register_host(memory)
        with faults.held():
            ticket = device.copy(buffer, memory)
            registration.free()
            del memory, registration
            gc.collect()
            for _ in range(3):
                device.mark()
            assert gone() is not None
        await ticket
        del ticket

        def is_gone():
            registered.forget_ended()
            gc.collect()
            return gone() is None

        await until(is_gone)


async def test_memory_that_is_dropped_is_given_back():
    """By the garbage collector, as buffers are; and what is open goes with the device."""
    async with cpu_device() as device:
        await device.register_host(shared_memory(1))
        before = device.statistics().live_resources
        gc.collect()
        await until(lambda: device.statistics().live_resources < before or before == 0)
        kept = await device.register_host(shared_memory(2))
    assert kept.freed

    def all_ended():
        registered.forget_ended()
        return not registered._held

    await until(all_ended)


async def test_pages_are_copied_to_chunks_in_several_pieces():
    """Though chunks and pages are neighbours: no copy crosses two pieces, the driver refuses it."""
    rows = (PageRow(0, 0, PAGE // 2, 0),)
    none = (1, 0, 0), (1, 0, 0)
    ids = PageIds(4, 2, PAGE // 2, none, PAGE // 2)
    data = bytes(range(256)) * (2 * PAGE // 256)
    async with cpu_device() as device:
        memory, buffer = shared_memory(2), await device.upload(data)
        registration = await device.register_host(memory, piece_bytes=PAGE)
        page_map = map_pages(device, PageFormat(rows, 4, PAGE, ids, ids), [buffer])
        copy = PageCopy(to_host=True, ids=range(4), chunks=Chunks(memory, [0, PAGE]))
        await page_map.request(copy).submit()

        assert data == bytes(memory)
        with anyio.fail_after(GRACE_SECONDS):
            await registration.aclose()


async def registered_in_parts(device, memory):
    """Pages 1, 2 and 3, 5: known in three pieces, with gaps around them."""
    view = memoryview(memory)
    return [
        await device.register_host(view[PAGE : 4 * PAGE], piece_bytes=2 * PAGE),
        await device.register_host(view[5 * PAGE : 6 * PAGE]),
    ]


RANGES = st.tuples(st.integers(0, 7 * PAGE - 1), st.integers(1, 7 * PAGE)).map(
    lambda pair: (pair[0], min(pair[1], 7 * PAGE - pair[0]))
)


@given(st.lists(RANGES, min_size=1, max_size=4))
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_copies_go_across_what_is_known_in_pieces(ranges):
    """In either direction, one by one and many at once, into gaps and out of them."""
    data = np.random.default_rng(1).integers(0, 256, 7 * PAGE, np.uint8)
    async with cpu_device() as device:
        memory = shared_memory(7)
        host, buffer = memoryview(memory), await device.upload(data)
        known = await registered_in_parts(device, memory)
        for start, size in ranges:
            part = slice(start, start + size)
            await device.copy(host[part], buffer[part])
            assert bytes(host[part]) == data[part].tobytes()
        host[:] = data[::-1].tobytes()
        async with device.batch() as batch:
            batch.add_copies([(buffer[s : s + n], host[s : s + n]) for s, n in ranges])
            start, size = ranges[0]
            batch.add_copy(buffer[start : start + size], host[start : start + size])
        await batch.ticket
        expected = data.copy()
        for start, size in ranges:
            expected[start : start + size] = data[::-1][start : start + size]
        assert (np.asarray(await device.download(buffer)) == expected).all()
        for each in known:
            await each.aclose()


@given(st.integers(1, 6), st.integers(0, 1000), st.booleans())
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_chunks_may_lie_across_pieces(places, offset, back):
    """A chunk of a KV cache, of any size: in parts in memory that the driver knows or does not."""
    size = 900 * places + offset + 1  # four of them, and the offset, are less than seven pages
    ids = PageIds(4, 4, size, ((1, 0, 0), (1, 0, 0)), size)
    rows = (PageRow(0, 0, size, 0),)
    async with cpu_device() as device:
        memory = shared_memory(7)
        data = np.random.default_rng(2).integers(0, 256, 4 * size, np.uint8)
        buffer = await device.upload(data)
        known = await registered_in_parts(device, memory)
        page_map = map_pages(device, PageFormat(rows, 4, 4 * size, ids, ids), [buffer])
        order, chunks = range(3, -1, -1) if back else range(4), Chunks(memory, [offset])
        await page_map.request(PageCopy(to_host=True, ids=order, chunks=chunks)).submit()
        saved = memory[offset : offset + 4 * size]
        await device.fill(buffer, 0)
        await page_map.request(PageCopy(to_host=False, ids=order, chunks=chunks)).submit()

        assert saved == data.reshape(4, size)[list(order)].tobytes()
        assert (np.asarray(await device.download(buffer)) == data).all()
        for each in known:
            await each.aclose()


async def test_copies_are_cut_no_more_once_memory_is_given_back(faults):
    """What the driver had known is plain memory again."""
    async with cpu_device() as device:
        memory, buffer = shared_memory(7), await device.alloc(7 * PAGE)
        for each in await registered_in_parts(device, memory):
            await each.aclose()
        before = device.statistics().copies
        await device.copy(buffer, memory)

        assert device.statistics().copies == before + 1


async def test_what_another_registration_has_told_is_left_to_it():
    """It is no error if it may be so; giving back then gives nothing back."""
    async with cpu_device() as device:
        memory = shared_memory(4)
        first = await device.register_host(memoryview(memory)[PAGE : 2 * PAGE])
        second = registered.open_registration(device, memory, PAGE)
        await second.register(shared=True)
        assert (first.own_bytes, second.own_bytes, second.told_bytes) == (PAGE, 3 * PAGE, 4 * PAGE)
        third = registered.open_registration(device, memory, PAGE)
        await third.register(shared=True)
        assert (third.own_bytes, third.told_bytes) == (0, 4 * PAGE)
        with anyio.fail_after(GRACE_SECONDS):
            await third.aclose()
            with pytest.raises(DeviceError, match=r"ALREADY_REGISTERED.*once in a process"):
                await device.register_host(memory)
            await first.aclose()
            await second.register(shared=True)
            assert second.own_bytes == second.told_bytes == 4 * PAGE
            await second.aclose()

        assert second.ended
        assert (second.own_bytes, second.told_bytes) == (0, 0)
        await (await device.register_host(memory)).aclose()


@pytest.mark.parametrize(
    ("part", "how", "says"),
    [
        (slice(1, PAGE + 1), {}, "begin and end with a page"),
        (slice(0, PAGE - 1), {}, "begin and end with a page"),
        (slice(0, 0), {}, "begin and end with a page"),
        (slice(0, PAGE), {"piece_bytes": 1000}, "no multiple of a page"),
        (slice(0, PAGE), {"piece_bytes": 0}, "no multiple of a page"),
    ],
)
async def test_memory_that_is_not_of_whole_pages_is_refused(part, how, says):
    """The driver locks pages, and a page belongs to one registration."""
    async with cpu_device() as device:
        with pytest.raises(ArgumentError, match=says):
            await device.register_host(memoryview(shared_memory(2))[part], **how)


async def test_a_refusal_gives_back_the_pieces_before_it(faults):
    """Nothing of it stays registered, and it can be registered again."""
    async with cpu_device() as device:
        memory = shared_memory(3)
        first = await device.register_host(memoryview(memory)[2 * PAGE :])
        before = device.statistics().live_resources
        with pytest.raises(DeviceError, match="ALREADY_REGISTERED"):
            await device.register_host(memory, piece_bytes=PAGE)
        await until(lambda: device.statistics().live_resources == before)
        with anyio.fail_after(GRACE_SECONDS):
            await first.aclose()
        second = await device.register_host(memory)
        with faults.stopped("cuMemHostUnregister"):
            second.free()


async def test_a_cancelled_registration_is_given_back(faults):
    """Whether or not the driver had begun."""
    async with cpu_device() as device:
        memory, before = shared_memory(2), device.statistics().live_resources
        with faults.stopped("cuMemHostRegister_v2"), anyio.move_on_after(0.05) as scope:
            await device.register_host(memory, piece_bytes=PAGE)
        assert scope.cancelled_caught
        gc.collect()
        await device.synchronize()
        await until(lambda: gc.collect() >= 0 and device.statistics().live_resources == before)
