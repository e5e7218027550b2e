"""An allocation that waits for memory stands in no other's way."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import pytest

from ajit.errors import OutOfMemory
from tests.gpu.support import ENTRIES, cpu_device, image_for, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

LIMIT_BYTES = 1000


@asynccontextmanager
async def starved_device(faults, *sizes):
    """A device whose memory is given back and still in use, and allocations that wait for it.

    Args:
        faults: Its faults.
        *sizes: What waits, in this order, in bytes.

    Yields:
        The device, and the sizes that were allocated so far, negative if there was no room. After
        the block the work is done, and all have ended.
    """
    done: list[int] = []
    async with cpu_device(device_memory_limit_bytes=LIMIT_BYTES) as device:
        used = await device.alloc(900)

        async def allocate(size):
            try:
                with await device.alloc(size):
                    done.append(size)
            except OutOfMemory:  # all that was given back is in use again
                done.append(-size)

        async with anyio.create_task_group() as tasks:
            with faults.held():
                ticket = device.fill(used, 1)
                used.free()
                for number, size in enumerate(sizes):
                    tasks.start_soon(allocate, size)
                    await until(lambda n=number: len(device._port.in_flight) == 2 + n)
                yield device, done
            await ticket
        assert sizes[0] in done


async def test_a_load_goes_ahead_of_an_allocation_that_waits(faults):
    """A server whose memory is full for a moment still gets its next kernel."""
    async with starved_device(faults, 900) as (device, done):
        module = await device.load(await image_for(device), ENTRIES)

        assert module.kernel("nothing").name == "nothing"
        assert done == []


async def test_host_memory_does_not_wait_for_device_memory(faults):
    """Pinned memory makes no room on the device, nor the other way round."""
    async with starved_device(faults, 900) as (device, done):
        (await device.alloc_pinned(64)).free()

        assert done == []


async def test_streams_and_events_go_ahead(faults):
    """Whatever needs no memory of the kind."""
    async with starved_device(faults, 900) as (device, done):
        stream = await device.create_stream()
        event = await device.create_event()

        assert done == []
        stream.free()
        event.free()


async def test_a_small_allocation_does_not_overtake_a_large_one(faults):
    """Otherwise small ones would take for ever what the large one waits for."""
    async with starved_device(faults, 900, 200) as (device, done):
        (await device.alloc_pinned(64)).free()  # the second lane has had its turns

        assert done == []
    assert done[0] != 200  # both do not fit at once


async def test_what_can_never_fit_fails_and_lets_the_next_through(faults):
    """Nothing waits behind an allocation that is above the limit once nothing is to be freed."""
    async with cpu_device(device_memory_limit_bytes=LIMIT_BYTES) as device:
        used = await device.alloc(900)
        outcomes: list[str] = []

        async def allocate(size):
            try:
                (await device.alloc(size)).free()
                outcomes.append(f"{size}")
            except OutOfMemory:
                outcomes.append(f"{size} failed")

        async with anyio.create_task_group() as tasks:
            with faults.held():
                ticket = device.fill(used, 1)
                used.free()
                for size in (2 * LIMIT_BYTES, 400):
                    tasks.start_soon(allocate, size)
                    await until(lambda: len(device._port.in_flight) >= 2)
            await ticket

        assert sorted(outcomes) == [f"{2 * LIMIT_BYTES} failed", "400"]


async def test_closing_does_not_wait_for_memory(faults):
    """What still waits when the runtime ends is cancelled or fails; the close comes."""
    async with cpu_device(device_memory_limit_bytes=LIMIT_BYTES) as device:
        used = await device.alloc(900)
        async with anyio.create_task_group() as tasks:
            with faults.held():
                device.fill(used, 1)
                used.free()
                tasks.start_soon(device.alloc, 900)
                await until(lambda: len(device._port.in_flight) == 2)
                tasks.cancel_scope.cancel()


async def test_memory_that_was_given_back_before_is_waited_for(faults):
    """Also while work is queued: the free has not been looked at yet."""
    async with cpu_device(device_memory_limit_bytes=LIMIT_BYTES) as device:
        used, other = await device.alloc(900), await device.alloc(50)
        done: list[int] = []

        async def allocate():
            with await device.alloc(900):
                done.append(900)

        async with anyio.create_task_group() as tasks:
            with faults.stopped("cuMemsetD8Async"):
                tickets = [device.fill(other, 1)]
                await until(lambda: device.health().operation == "fill")
                used.free()
                tasks.start_soon(allocate)
                await until(lambda: len(device._port.in_flight) == 2)
                tickets += [device.fill(other, 1) for _ in range(100)]
            for ticket in tickets:
                await ticket

        assert done == [900]


async def test_a_loop_that_leaves_does_not_wait_for_another_ones_memory(faults):
    """Nor does the thread stand still for it: launches of the others go on."""
    async with starved_device(faults, 900) as (device, done):

        def use_and_leave():
            async def use():
                async with cpu_device(device_memory_limit_bytes=LIMIT_BYTES) as other:
                    await other.run(str)

            anyio.run(use)

        await anyio.to_thread.run_sync(use_and_leave)
        before = device.statistics().dispatched
        device.mark()
        await until(lambda: device.statistics().dispatched > before)

        assert done == []
