"""Host memory that others have made, page-locked for the device: a mmap, a memfd."""

from __future__ import annotations

import gc
import mmap
import os
import weakref

import anyio
import pytest

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
            registered._forget_ended()
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
        registered._forget_ended()
        return not registered._held

    await until(all_ended)


async def test_pages_are_copied_to_chunks_in_several_pieces():
    """No copy crosses two pieces, though chunks and pages are neighbours: the driver refuses it."""
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
