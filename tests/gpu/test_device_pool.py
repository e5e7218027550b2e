"""Device memory from a pool of ajit's own."""

from __future__ import annotations

import ctypes
import gc
import random

import anyio
import numpy as np
import pytest

from ajit._gpu.driver import CPU_LIBRARY
from ajit._gpu.wire import NATIVE
from ajit.errors import DeviceError, DeviceLost, OutOfMemory
from tests.gpu.support import cpu_device, kernels, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

OUT_OF_MEMORY, NOT_SUPPORTED, UNKNOWN = 2, 801, 999
DESTROYED, ILLEGAL_ADDRESS = 709, 700
RESERVED = 5

DRIVER = ctypes.CDLL(str(NATIVE / CPU_LIBRARY))


def free_bytes():
    """The device's free memory; on the CUDA thread."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert DRIVER.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    return free.value


def reserved_by_the_current_pool():
    """The bytes in the device's default pool, which all other code of the process uses."""
    pool, bytes_ = ctypes.c_void_p(), ctypes.c_uint64(1)
    assert DRIVER.cuDeviceGetMemPool(ctypes.byref(pool), 0) == 0
    assert DRIVER.cuMemPoolGetAttribute(pool, RESERVED, ctypes.byref(bytes_)) == 0
    return bytes_.value


async def all_freed(device):
    """Everything was freed into the pool, in the order of its stream."""
    await until(lambda: device.statistics().live_resources == 0)


async def all_freed_and_done(device):
    """The same, and the stream has done all its work."""
    await all_freed(device)
    assert await device.run(DRIVER.cuCtxSynchronize) == 0


async def test_freed_memory_is_kept_for_the_next_allocation():
    """The device is not asked again for memory that was freed; the statistics tell both numbers."""
    async with cpu_device() as device:
        before = await device.run(free_bytes)
        (await device.alloc(1 << 20)).free()
        await all_freed_and_done(device)
        kept = device.statistics()
        left = await device.run(free_bytes)
        buffer = await device.alloc(1 << 20)
        used = device.statistics()

        assert (kept.live_memory_bytes, kept.reserved_memory_bytes) == (0, 1 << 20)
        assert (used.live_memory_bytes, used.reserved_memory_bytes) == (1 << 20, 1 << 20)
        assert await device.run(free_bytes) == left == before - (1 << 20)
        buffer.free()


async def test_kept_memory_is_released_when_idle_and_at_the_end():
    """Other programs get the memory of a server that rests, and of one that ended."""
    async with cpu_device(device_memory_idle_seconds=0.05) as device:
        before = await device.run(free_bytes)
        (await device.alloc(1 << 20)).free()
        await until(lambda: device.statistics().reserved_memory_bytes == 0)

        assert await device.run(free_bytes) == before
    async with cpu_device(device_memory_idle_seconds=0.0) as device:
        (await device.alloc(1 << 20)).free()
        await all_freed_and_done(device)
        kept = device.statistics().reserved_memory_bytes
    async with cpu_device() as device:
        assert kept == 1 << 20
        assert await device.run(free_bytes) == before


async def test_the_limit_holds_for_what_is_kept_as_well(faults):
    """Memory that was freed too late to be used again goes back to the device."""
    async with cpu_device(device_memory_limit_bytes=1000) as device:
        first = await device.alloc(600)
        with faults.held():
            first.free()
            await all_freed(device)
            async with anyio.create_task_group() as tasks:

                async def use():
                    (await device.alloc(900)).free()

                tasks.start_soon(use)
                await until(lambda: device.statistics().allocations == 2)
                faults.let_go()
        await all_freed_and_done(device)
        (await device.alloc(1)).free()
        await all_freed_and_done(device)

        assert 900 <= device.statistics().reserved_memory_bytes <= 1000


async def test_kept_memory_is_released_when_memory_is_short(faults):
    """An allocation that fails is tried once more when the pool is released; then it fails."""
    async with cpu_device() as device:
        (await device.alloc(1 << 20)).free()
        await all_freed_and_done(device)
        faults.inject("cuMemAllocFromPoolAsync", OUT_OF_MEMORY)
        buffer = await device.alloc(4096)

        assert device.statistics().reserved_memory_bytes == 4096
        faults.inject("cuMemAllocFromPoolAsync", OUT_OF_MEMORY, count=2)
        with pytest.raises(OutOfMemory, match="4096 bytes of device memory in use"):
            await device.alloc(64)
        buffer.free()


async def test_a_load_that_finds_no_memory_is_tried_again_without_what_is_kept(faults):
    """Code needs device memory as well; when there is none left after that, the load fails."""
    async with cpu_device() as device:
        (await device.alloc(1 << 20)).free()
        await all_freed_and_done(device)
        faults.inject("cuModuleLoadData", OUT_OF_MEMORY)
        module = await kernels(device)

        assert device.statistics().reserved_memory_bytes == 0
        await module("nothing").launch(1, 1)
        faults.inject("cuModuleLoadData", OUT_OF_MEMORY, count=2)
        with pytest.raises(OutOfMemory):
            await kernels(device)


async def test_the_devices_shared_pool_is_left_alone():
    """The device's current pool, which other libraries share, holds nothing of ajit's."""
    async with cpu_device() as device:
        buffer = await device.alloc(1 << 20)

        assert await device.run(reserved_by_the_current_pool) == 0
        buffer.free()


async def test_a_free_does_not_wait_for_the_device(faults):
    """Unused memory is freed while the device works on something else, however long that takes."""
    async with cpu_device() as device:
        slow = await device.create_stream()
        busy, idle = await device.alloc(64), await device.alloc(4096)
        with faults.held():
            ticket = device.fill(busy, 1, stream=slow)
            idle.free()
            await until(lambda: device.statistics().live_memory_bytes == 64)
            await device.run(str)  # the CUDA thread is not waiting in the driver

            assert not ticket.done
        await ticket


async def test_memory_that_others_know_is_freed_behind_their_work(faults):
    """A holder of the address may use it in another stream: freeing waits for that as well."""
    stream = ctypes.c_void_p()

    def work_of_another_library(address):
        assert DRIVER.cuStreamCreate(ctypes.byref(stream), 1) == 0
        assert DRIVER.cuMemsetD8Async(ctypes.c_uint64(address), 1, ctypes.c_size_t(64), stream) == 0
        faults.inject("device:copy", delay=0.4)
        half = ctypes.c_uint64(address + 32), ctypes.c_uint64(address), ctypes.c_size_t(32)
        assert DRIVER.cuMemcpyDtoDAsync_v2(*half, stream) == 0

    async with cpu_device() as device:
        given = await device.alloc(64)
        await device.run(work_of_another_library, given.pointer)
        given.free()
        await all_freed(device)

        assert await device.run(DRIVER.cuStreamQuery, stream) == 0
        await device.run(DRIVER.cuStreamDestroy_v2, stream)


async def test_memory_that_others_may_still_use_is_rather_kept(faults):
    """Where the device cannot be waited for, the memory is not reused."""
    async with cpu_device() as device:
        given = await device.alloc(4096)
        assert given.pointer
        faults.inject("cuMemAlloc_v2", UNKNOWN)
        given.free()
        await all_freed(device)
        buffer = await device.alloc(4096)

        assert device.statistics().reserved_memory_bytes == 2 * 4096
        buffer.free()


async def test_an_allocation_is_told_when_it_can_be_used_in_every_stream(faults):
    """While the pool's stream is busy, allocations wait for it; cancelling leaks nothing."""
    async with cpu_device() as device:
        first = await device.alloc(64)
        faults.hold()
        first.free()
        await all_freed(device)  # submitted, and the stream stands still
        done = []

        async def use():
            buffer, uploaded = await device.alloc(64), await device.upload(bytes(64))
            done.append(bytes(await device.download(uploaded)))
            del buffer

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(use)
            with anyio.move_on_after(0.05) as scope:
                await device.alloc(64)

            assert scope.cancelled_caught
            assert not done
            faults.let_go()
        assert done == [bytes(64)]
        await all_freed(device)


@pytest.mark.parametrize("function", ["cuStreamQuery", "cuEventRecord", "cuStreamWaitEvent"])
async def test_an_allocation_that_cannot_be_followed_is_told_and_freed(faults, function):
    """Whichever call behind the allocation fails, the upload fails and keeps no memory."""
    async with cpu_device() as device:
        first = await device.alloc(64)
        with faults.held():
            first.free()
            await all_freed(device)
            faults.inject(function, UNKNOWN)
            async with anyio.create_task_group() as tasks:

                async def upload():
                    with pytest.raises(DeviceError, match="UNKNOWN"):
                        await device.upload(bytes(64))

                tasks.start_soon(upload)
                await until(lambda: device.statistics().allocations == 2)
                faults.let_go()
        await all_freed(device)


@pytest.mark.parametrize(
    ("function", "code"),
    [
        ("cuMemPoolCreate", NOT_SUPPORTED),
        ("cuMemPoolSetAttribute", UNKNOWN),
        ("nothing", 0),
    ],
)
async def test_without_a_pool_memory_is_allocated_plainly(faults, function, code):
    """Where the device has no pools, or the settings want none, everything works as well."""
    faults.inject(function, code)
    async with cpu_device(plain_device_memory=not code) as device:
        add_one = (await kernels(device))("add_one")
        buffer = await device.upload(bytes(8))
        await add_one.launch(1, 2, buffer, 2)
        statistics = device.statistics()
        faults.inject("cuMemAlloc_v2", UNKNOWN)
        with pytest.raises(DeviceError, match="UNKNOWN"):
            await device.alloc(8)

        assert statistics.reserved_memory_bytes == statistics.live_memory_bytes == 8
        assert bytes(await device.download(buffer)) == bytes([1, 0, 0, 0] * 2)
        buffer.free()
        await until(lambda: device.statistics().live_memory_bytes == 0)


class Storm:
    """Tasks that upload, launch in streams, read back and free, all at once."""

    SIZES = (16, 1000, 100_000, 400_000)
    ROUNDS = 60

    def __init__(self, device, kernel):
        self.device, self.kernel = device, kernel
        self.right = self.wrong = self.without_memory = self.left = 0

    async def work(self, seed):
        """Do all of it, in a new stream or the device's."""
        random_ = random.Random(seed)  # noqa: S311  # the same storm every time
        stream = await self.device.create_stream() if seed % 2 else None
        for _ in range(self.ROUNDS):
            patience = random_.choice((60, 60, 60, 0.0005))
            with anyio.move_on_after(patience) as scope:
                try:
                    await self.round(random_, stream)
                except OutOfMemory:
                    self.without_memory += 1
            self.left += scope.cancelled_caught

    async def round(self, random_, stream):
        """One buffer, from the upload to giving it back."""
        n, value = random_.choice(self.SIZES), random_.randrange(1000)
        buffer = await self.device.upload(np.full(n, value, np.int32))
        if random_.random() < 0.3:
            assert buffer.pointer  # others know the address from now on
        for _ in range(3):
            ticket = self.kernel.launch(n // 256 + 1, 256, buffer, n, stream=stream)
        if random_.random() < 0.3:
            buffer.free()  # the launches still write to it
            return
        await ticket
        actual = np.asarray(await self.device.download(buffer))
        if (actual == value + 3).all():
            self.right += 1
        else:
            self.wrong += 1
        if random_.random() < 0.5:
            buffer.free()


@pytest.mark.slow  # several seconds on each kind of loop
async def test_no_task_gets_memory_that_another_uses():
    """Under a limit that is always reached, with streams, cancelling and a pool that shrinks."""
    limits = {"device_memory_limit_bytes": 8 << 20, "device_memory_idle_seconds": 0.001}
    async with cpu_device(time_tickets=True, **limits) as device:
        storm = Storm(device, (await kernels(device))("add_one"))
        async with anyio.create_task_group() as tasks:
            for seed in range(8):
                tasks.start_soon(storm.work, seed)
        gc.collect()
        await until(lambda: device.statistics().live_memory_bytes == 0)

        assert storm.wrong == 0
        assert min(storm.right, storm.left) > 0
        assert device.statistics().lost_callbacks == 0


async def test_an_allocation_waits_for_frees_that_are_on_their_way(faults):
    """Until the driver has seen their end there may be no room, although there will be."""
    async with cpu_device() as device:
        given = await device.alloc(1 << 20)
        before = device.statistics().allocations
        async with anyio.create_task_group() as group:
            with faults.held():
                given.free()
                await all_freed(device)
                # As a driver that does not wait for the stream: a try, and one after a trim.
                faults.inject("cuMemAllocFromPoolAsync", OUT_OF_MEMORY, count=2)
                group.start_soon(device.alloc, 64)
                await until(lambda: device.statistics().allocations == before + 1)


@pytest.mark.parametrize("code", [DESTROYED, ILLEGAL_ADDRESS])
async def test_memory_of_the_pool_is_free_again_after_the_device_was_lost(faults, code):
    """A new runtime of the process has all of the device's memory."""

    async def lose(device):
        if code == DESTROYED:
            assert await device.run(DRIVER.cuDevicePrimaryCtxReset_v2, 0) == 0
        else:
            faults.poison(code)
        with pytest.raises(DeviceLost):
            await device.synchronize()

    async with cpu_device() as device:
        expected = await device.run(free_bytes)
        given = await device.alloc(1 << 20)
        given.free()
        await all_freed_and_done(device)
        await lose(device)
    faults.reset()
    async with cpu_device() as device:
        actual = await device.run(free_bytes)

    assert actual == expected


async def test_one_wait_for_the_device_frees_all_memory_that_others_know(faults, journal):
    """Each wait stops the thread that launches, so it counts for whatever was given back before."""
    async with cpu_device() as device:
        shared = [await device.alloc(64) for _ in range(100)]
        assert all(buffer.pointer for buffer in shared)
        began = len(journal)
        with faults.held():
            ticket = device.mark()
            for buffer in shared:
                buffer.free()
            await until(lambda: device.statistics().deferred_frees == 100)
        await ticket
        await all_freed(device)

        assert journal.since(began).count("cuMemAlloc_v2") == 1


async def test_memory_that_others_know_does_not_pile_up_under_load(faults, journal):
    """Where a sixteenth of the memory waits to be freed, it waits no longer for a pause."""
    async with cpu_device(device_memory_limit_bytes=16 << 20, ring_capacity=1024) as device:
        peak, tickets = 0, []
        for _ in range(2000):
            buffer = await device.alloc(1 << 18)
            assert buffer.pointer
            tickets.append(device.fill(buffer, 1))
            buffer.free()
            peak = max(peak, device.statistics().live_memory_bytes)
            if len(tickets) > 2:  # never idle: the next is submitted before this one is done
                await tickets.pop(0)

        assert peak <= 10 << 20  # of 16 MiB: a machine that is busy runs the thread late
        for ticket in tickets:
            await ticket


async def test_memory_that_others_know_holds_back_no_other(faults):
    """Memory that needs no wait is freed at once, however much was given back before it."""
    async with cpu_device() as device:
        slow = await device.create_stream()
        busy, own = await device.alloc(64), await device.alloc(4096)
        shared = [await device.alloc(64) for _ in range(200)]
        assert all(buffer.pointer for buffer in shared)
        with faults.held():
            ticket = device.fill(busy, 1, stream=slow)
            for buffer in shared:
                buffer.free()
            await until(lambda: device.statistics().deferred_frees == 200)
            own.free()
            await until(lambda: device.statistics().live_memory_bytes == 64 + 200 * 64)

            assert not ticket.done
        await ticket
