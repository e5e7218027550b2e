"""Launches go first, and yet a load, an allocation or a free gets its turn meanwhile."""

from __future__ import annotations

import itertools

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tests.gpu.support import GRACE_SECONDS, compiled, cpu_device, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

WORK = 300
WORK_SECONDS = 0.002


async def submit_work_behind(device, faults, services):
    """Start what goes to the second lane, and put work behind it that takes 0.6 s.

    Returns how much of the work had been submitted to the device when each of them was done.
    """
    done_at = []

    async def serve(service):
        await service()
        done_at.append(device.statistics().dispatched - before)

    faults.inject("cuLaunchHostFunc", delay=0.1)
    before = device.statistics().dispatched
    tickets = [device.mark()]
    await until(lambda: device.health().operation == "mark")
    faults.inject("cuLaunchHostFunc", count=WORK, delay=WORK_SECONDS)
    async with anyio.create_task_group() as tasks:
        for service in services:
            tasks.start_soon(serve, service)
        while len(device._port.in_flight) < 1 + len(services):
            await checkpoint()
        tickets += [device.mark() for _ in range(WORK)]
    for ticket in tickets:
        await ticket
    return done_at


@pytest.mark.parametrize("what", ["load", "alloc", "alloc_pinned", "stream", "event"])
async def test_the_second_lane_gets_its_turn_while_work_never_pauses(faults, what):
    """Within a bounded time, where it had waited for the last launch."""
    async with cpu_device(ring_capacity=1024) as device:
        services = {
            "load": lambda: device.load(compiled()),
            "alloc": lambda: device.alloc(64),
            "alloc_pinned": lambda: device.alloc_pinned(64),
            "stream": device.stream,
            "event": device.event,
        }
        await device.load(compiled())  # the loop is not to compile meanwhile
        (passed,) = await submit_work_behind(device, faults, [services[what]])

        assert 0 < passed < WORK / 2


async def test_the_second_lane_has_a_fifth_of_the_thread_at_most(faults):
    """Between two allocations that take long, work goes on for four times as long."""
    async with cpu_device(ring_capacity=1024) as device:
        faults.inject("cuMemHostAlloc", count=3, delay=0.02)
        done = await submit_work_behind(device, faults, [lambda: device.alloc_pinned(64)] * 3)
        between = [later - earlier for earlier, later in itertools.pairwise(done)]

        assert all(0.08 / WORK_SECONDS / 4 < works < WORK / 2 for works in between), between


async def test_a_turn_that_takes_long_does_not_put_off_the_next_for_as_long(faults):
    """Behind a load of many seconds, an allocation does not wait for four times that."""
    async with cpu_device(ring_capacity=1024) as device:
        faults.inject("cuMemHostAlloc", delay=0.2)
        first, second = await submit_work_behind(
            device, faults, [lambda: device.alloc_pinned(64)] * 2
        )

        assert second - first < WORK / 2


async def test_frees_do_not_pile_up_while_work_never_pauses(faults):
    """What is given back goes, all of it, while the CUDA thread is never idle."""
    async with cpu_device(ring_capacity=1024) as device:
        buffers = [await device.alloc(64) for _ in range(100)]
        faults.inject("cuLaunchHostFunc", count=100_000, delay=0.0005)
        tickets = [device.mark() for _ in range(20)]
        for buffer in buffers:
            buffer.free()
        with anyio.fail_after(GRACE_SECONDS):
            while device.statistics().live_resources:  # never fewer than ten wait for the thread
                tickets += [device.mark() for _ in range(10)]
                await tickets[-20]
        faults.reset()
        await tickets[-1]

        assert all(ticket.done for ticket in tickets)
