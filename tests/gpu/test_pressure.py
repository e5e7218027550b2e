"""Back-pressure, limits, foreign code on the CUDA thread."""

from __future__ import annotations

import functools
import threading
import time

import anyio
import pytest
from anyio.lowlevel import checkpoint

from ajit.errors import OutOfMemory, UsageError, WouldBlock
from tests.gpu.support import cpu_device, kernels, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]


async def fill_the_ring(device, faults, seconds):
    """The CUDA thread hangs in the driver, and its ring is full."""
    faults.inject("cuLaunchHostFunc", delay=seconds)
    tickets = [device.mark()]
    await until(lambda: device.health().operation == "mark")
    with pytest.raises(WouldBlock):
        _submit(device, tickets)
    return tickets


def _submit(device, tickets):
    while True:
        tickets.append(device.mark())


async def test_a_full_ring_refuses_at_once(faults):
    """What does not await never blocks the loop, not even for a moment."""
    async with cpu_device(ring_capacity=4) as device:
        tickets = await fill_the_ring(device, faults, 0.3)
        began = time.monotonic()
        refused = 0
        for _ in range(100):
            try:
                tickets.append(device.mark())
            except WouldBlock:
                refused += 1
        took = time.monotonic() - began

        assert refused > 90
        assert took < 0.1
        for ticket in tickets:
            await ticket


async def test_what_is_awaited_waits_for_room_in_order(faults):
    """submit, alloc and the rest wait without blocking the loop, and go in the order they came."""
    done = []

    async with cpu_device(ring_capacity=4) as device:
        kernel = (await kernels(device))("nothing")
        tickets = await fill_the_ring(device, faults, 0.2)

        async def launch(number):
            await (await device.submit(kernel.launch, 1, 1))
            done.append(number)

        turns = 0
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(launch, number)
                await checkpoint()
            tasks.start_soon(device.alloc, 4)
            while len(done) < 10:
                await anyio.sleep(0.001)
                turns += 1

        assert sorted(done) == list(range(10))
        assert turns > 10
        for ticket in tickets:
            await ticket


async def test_cancelling_a_wait_for_room_submits_nothing(faults):
    """Whoever leaves the queue leaves nothing in it."""
    async with cpu_device(ring_capacity=4) as device:
        kernel = (await kernels(device))("nothing")
        launches = device.statistics().launches
        tickets = await fill_the_ring(device, faults, 0.2)
        with anyio.move_on_after(0.02) as scope:
            await device.submit(kernel.launch, 1, 1)
        for ticket in tickets:
            await ticket
        await device.synchronize()

        assert scope.cancelled_caught
        assert device.statistics().launches == launches


async def test_the_memory_limit_says_what_is_in_use():
    """Above the limit there is a clear error; what is given back can be had again."""
    async with cpu_device(device_memory_limit_bytes=1000) as device:
        buffer = await device.alloc(600)
        with pytest.raises(OutOfMemory, match=r"600 bytes .*device_memory_limit_bytes is 1000"):
            await device.alloc(401)
        with pytest.raises(OutOfMemory):
            await device.upload(bytes(401))
        buffer.free()
        (await device.alloc(1000)).free()


async def test_arguments_reach_a_function_on_the_cuda_thread():
    """The function gets its arguments, and runs where the context is current."""

    def look(*args):
        return args, threading.current_thread().name

    async with cpu_device() as device:
        assert await device.run(look, 1, "two") == ((1, "two"), "ajit-cuda-0")


async def test_a_coroutine_function_is_refused():
    """Nothing would run it there; the message says what to do."""

    async def work():
        raise AssertionError

    class Work:
        async def __call__(self):
            raise AssertionError

    async with cpu_device() as device:
        for function in (work, functools.partial(work), Work()):
            with pytest.raises(UsageError, match="await in the loop"):
                await device.run(function)


async def test_closing_with_a_full_ring_does_not_block_the_loop(faults):
    """The last to leave waits for the thread without stopping the loop."""
    async with cpu_device(ring_capacity=2) as device:
        faults.inject("cuLaunchHostFunc", delay=0.2)
        device.mark()
        await until(lambda: device.health().operation != "" or device.statistics().in_flight > 0)
