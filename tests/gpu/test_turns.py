"""Launches go first, and yet a load, an allocation or a free gets its turn meanwhile.

By a clock that only calls of the driver move (`driver_clock`): the number of pieces of work between
two calls is exact, whatever else the machine does.
"""

from __future__ import annotations

import itertools
import threading
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tests.gpu.support import GRACE_SECONDS, compiled, cpu_device, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

WORK = "cuLaunchHostFunc"
"""The call by which a piece of work is known: a mark has no other."""
PIECES = 300
TURN_SECONDS, WORK_SHARE, LONGEST_PAUSE_SECONDS = 0.001, 4, 0.1
"""TURN_NS, WORK_SHARE and LONGEST_TURN_NS of second_lane.c."""


@asynccontextmanager
async def clocked_device():
    """A device with room for all the work of a test, whose thread does not spin."""
    async with cpu_device(ring_capacity=1024, spin_seconds=0.0) as device:
        yield device


async def work_before_each(device, faults, journal, services, call):
    """Start the services and put work behind them, all while the CUDA thread stands still.

    Args:
        device: The device.
        faults: Its faults.
        journal: Its driver's journal.
        services: What goes to the second lane.
        call: The call of the driver by which a service is known.

    Returns:
        How many pieces of the work the driver had got before each of the services.
    """
    began = len(journal)
    async with anyio.create_task_group() as tasks:
        with faults.stopped(WORK):
            tickets = [device.mark()]
            await until(lambda: device.health().operation == "mark")
            for service in services:
                tasks.start_soon(service)
            while len(device._port.in_flight) < 1 + len(services):
                await checkpoint()
            tickets += [device.mark() for _ in range(PIECES)]
        for ticket in tickets:
            await ticket
    calls = [name for name in journal.since(began) if name in (call, WORK)]
    return [calls[:place].count(WORK) - 1 for place, name in enumerate(calls) if name == call]


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
async def test_the_second_lane_gets_its_turn_while_work_never_pauses(
    faults, journal, driver_clock, what, call
):
    """Once work has gone first for `TURN_SECONDS`, and not after the last launch."""
    async with clocked_device() as device:
        services = {
            "load": lambda: device.load(compiled()),
            "alloc": lambda: device.alloc(64),
            "alloc_pinned": lambda: device.alloc_pinned(64),
            "stream": device.create_stream,
            "event": device.create_event,
        }
        await device.load(compiled())  # the loop is not to compile meanwhile
        driver_clock.takes(WORK, TURN_SECONDS / 10)
        passed = await work_before_each(device, faults, journal, [services[what]], call)

        assert passed == [10]


async def test_the_second_lane_has_a_fifth_of_the_thread_at_most(faults, journal, driver_clock):
    """Between two allocations that take long, work goes on for four times as long."""
    async with clocked_device() as device:
        driver_clock.takes(WORK, 0.001)
        driver_clock.takes("cuMemHostAlloc", 0.02)
        services = [lambda: device.alloc_pinned(64)] * 3
        passed = await work_before_each(device, faults, journal, services, "cuMemHostAlloc")
        between = [later - earlier for earlier, later in itertools.pairwise(passed)]

        assert between == [20 * WORK_SHARE] * 2


async def test_a_turn_that_takes_long_does_not_put_off_the_next_for_as_long(
    faults, journal, driver_clock
):
    """Behind a load of many seconds, an allocation does not wait for four times that."""
    async with clocked_device() as device:
        driver_clock.takes(WORK, 0.001)
        driver_clock.takes("cuMemHostAlloc", 10.0)
        services = [lambda: device.alloc_pinned(64)] * 2
        first, second = await work_before_each(device, faults, journal, services, "cuMemHostAlloc")

        assert second - first == LONGEST_PAUSE_SECONDS / 0.001


class Standstill:
    """A call that keeps the CUDA thread, all its earlier work done, until the test says so."""

    def __init__(self):
        self.entered, self.leave = threading.Event(), threading.Event()

    def __call__(self):
        """Stand still; to be run on the CUDA thread."""
        self.entered.set()
        assert self.leave.wait(GRACE_SECONDS)


async def test_frees_do_not_pile_up_while_work_never_pauses():
    """Freed buffers go although the CUDA thread always finds more work.

    It looks at them after every 256 submissions: once to find them, once more to see what is in
    flight before them, and then to free them. Each round has such a look, and all work before it is
    done.
    """
    async with clocked_device() as device:
        buffers = [await device.alloc(64) for _ in range(100)]
        rounds = [Standstill() for _ in range(4)]
        tickets = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(device.run, rounds[0])
            await until(rounds[0].entered.is_set)
            for buffer in buffers:
                buffer.free()
            for current, following in itertools.pairwise(rounds):
                tickets.extend(device.mark() for _ in range(PIECES))
                tasks.start_soon(device.run, following)
                while len(device._port.in_flight) < 2 + PIECES:
                    await checkpoint()
                current.leave.set()
                await until(following.entered.is_set)
                await until(lambda: all(ticket.done for ticket in tickets))
            left = device.statistics().live_resources
            rounds[-1].leave.set()

        assert left == 0
