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


async def submit_work_behind(device, faults, journal, services, call):
    """Start what goes to the second lane, and put work behind it that takes 0.6 s or more.

    Args:
        device: The device.
        faults: Its faults.
        journal: Its driver's journal: what it was told, in order, however late this loop hears it.
        services: What goes to the second lane.
        call: The call of the driver by which a service is known.

    Returns:
        How many pieces of the work the driver had got before each of the services, and how many
        seconds a piece took on the average, which are more than `WORK_SECONDS` on a busy machine.
    """
    began = len(journal)
    async with anyio.create_task_group() as tasks:
        faults.stop("cuLaunchHostFunc")
        tickets = [device.mark()]
        await until(lambda: device.health().operation == "mark")
        faults.inject("cuLaunchHostFunc", count=WORK, delay=WORK_SECONDS)
        for service in services:
            tasks.start_soon(service)
        while len(device._port.in_flight) < 1 + len(services):
            await checkpoint()
        tickets += [device.mark() for _ in range(WORK)]
        released = anyio.current_time()
        faults.release()
        for ticket in tickets:
            await ticket
        seconds = anyio.current_time() - released
    calls = [name for name in journal.since(began) if name in (call, "cuLaunchHostFunc")]
    places = [place for place, name in enumerate(calls) if name == call]
    return [calls[:place].count("cuLaunchHostFunc") - 1 for place in places], seconds / WORK


@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("load", "cuModuleLoadData"),
        ("alloc", "cuMemAllocFromPoolAsync"),
        ("alloc_pinned", "cuMemHostAlloc"),
        ("stream", "cuStreamCreateWithPriority"),
        ("event", "cuEventCreate"),
    ],
)
async def test_the_second_lane_gets_its_turn_while_work_never_pauses(faults, journal, what, call):
    """Within a bounded time, where it had waited for the last launch."""
    async with cpu_device(ring_capacity=1024) as device:
        services = {
            "load": lambda: device.load(compiled()),
            "alloc": lambda: device.alloc(64),
            "alloc_pinned": lambda: device.alloc_pinned(64),
            "stream": device.create_stream,
            "event": device.create_event,
        }
        await device.load(compiled())  # the loop is not to compile meanwhile
        (passed,), _ = await submit_work_behind(device, faults, journal, [services[what]], call)

        assert 0 < passed < WORK / 2


async def test_the_second_lane_has_a_fifth_of_the_thread_at_most(faults, journal):
    """Between two allocations that take long, work goes on for four times as long."""
    async with cpu_device(ring_capacity=1024) as device:
        faults.inject("cuMemHostAlloc", count=3, delay=0.02)
        services = [lambda: device.alloc_pinned(64)] * 3
        passed, seconds = await submit_work_behind(
            device, faults, journal, services, "cuMemHostAlloc"
        )
        between = [later - earlier for earlier, later in itertools.pairwise(passed)]

        assert all(0.08 / seconds / 4 < works < WORK / 2 for works in between), between


async def test_a_turn_that_takes_long_does_not_put_off_the_next_for_as_long(faults, journal):
    """Behind a load of many seconds, an allocation does not wait for four times that."""
    async with cpu_device(ring_capacity=1024) as device:
        faults.inject("cuMemHostAlloc", delay=0.2)
        services = [lambda: device.alloc_pinned(64)] * 2
        (first, second), _ = await submit_work_behind(
            device, faults, journal, services, "cuMemHostAlloc"
        )

        assert second - first < WORK / 2


async def test_frees_do_not_pile_up_while_work_never_pauses(faults):
    """Every freed buffer is released, while the CUDA thread is never idle."""
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
