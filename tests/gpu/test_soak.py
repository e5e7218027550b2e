"""A million operations of every kind: nothing grows, nothing is lost, nothing stops."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import anyio
import pytest

from tests.gpu.support import cpu_device, kernels, until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("no_device_left"),
]

ROUNDS = 400
BATCH, STEPS, GRAPH, SINGLE = 1500, 40, 700, 260
OPERATIONS = ROUNDS * (BATCH + STEPS + GRAPH + SINGLE)
WARM_UP = ROUNDS // 8
GROWTH_BYTES = 8 << 20
SECONDS = 240.0


def resources():
    """Memory of this process that is there, in bytes, and how many descriptors it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(list(Path("/proc/self/fd").iterdir()))


async def run_round(device, kernel, counter, graph):
    """A few of everything, in separate streams, released while in flight."""
    stream, event, memory = (
        await device.create_stream(),
        await device.create_event(),
        await device.alloc(4096),
    )
    batch = device.batch()
    for _ in range(BATCH):
        batch.add_launch(kernel, 1, 1, counter, 1)
    steps = device.batch(steps=True, stream=stream)
    for number in range(STEPS):
        steps.add_fill(memory, number)
    tickets = [batch.submit(), steps.submit(), graph.launch()]
    stream.wait(event.record())
    tickets += [await device.submit(kernel.launch, 1, 1, counter, 1) for _ in range(SINGLE)]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_for_steps, tickets[1])
        for owned in (stream, event, memory):
            owned.free()
        for ticket in tickets:
            await ticket


async def wait_for_steps(ticket):
    """Await each step of a batch by itself."""
    for number in range(STEPS):
        await ticket.at(number)


async def test_a_million_operations():
    """Memory and descriptors stay as they were, and every operation is counted once."""
    assert OPERATIONS == 1_000_000
    async with cpu_device() as device:
        kernel, counter = (await kernels(device))("add_one"), await device.upload(bytes(4))
        async with device.capture() as graph:
            for _ in range(GRAPH):
                graph.add_launch(kernel, 1, 1, counter, 1)
        live, start = device.statistics().live_resources, (0, 0)
        with anyio.fail_after(SECONDS):
            for number in range(ROUNDS):
                await run_round(device, kernel, counter, graph)
                if number == WARM_UP:
                    gc.collect()
                    start = resources()
        await until(lambda: device.statistics().live_resources == live)
        gc.collect()
        end, statistics = resources(), device.statistics()

        launched = ROUNDS * (BATCH + GRAPH + SINGLE)
        assert int.from_bytes(await device.download(counter), "little") == launched
        assert end[0] - start[0] < GROWTH_BYTES
        assert end[1] <= start[1]
        assert (statistics.failed, statistics.lost_callbacks) == (0, 0)
        assert (statistics.in_flight, statistics.dispatched) == (0, statistics.settled)
