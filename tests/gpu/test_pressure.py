"""Back-pressure, limits, foreign code on the CUDA thread."""

from __future__ import annotations

import functools
import threading
from contextlib import asynccontextmanager

import anyio
import pytest

from ajit.errors import OutOfMemory, UsageError, WouldBlock
from tests.gpu.support import cpu_device, kernels, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]


@asynccontextmanager
async def full_ring(device, faults):
    """The CUDA thread is stopped in the driver, and its ring is full, until the block is left."""
    with faults.stopped("cuLaunchHostFunc"):
        tickets = [device.mark()]
        await until(lambda: device.health().operation == "mark")
        with pytest.raises(WouldBlock):
            _submit(device, tickets)
        yield
    for ticket in tickets:
        await ticket


def _submit(device, tickets):
    while True:
        tickets.append(device.mark())


async def test_a_full_ring_refuses_at_once(faults):
    """A call without an await never blocks the loop, not even for a moment."""
    async with cpu_device(ring_capacity=4) as device, full_ring(device, faults):
        for _ in range(100):  # there will be no room before this loop has ended
            with pytest.raises(WouldBlock):
                device.mark()


async def test_awaited_calls_wait_for_queue_space_in_order(faults):
    """submit, alloc and the rest wait without blocking the loop, and go in the order they came."""
    done = []

    async with cpu_device(ring_capacity=4) as device:
        kernel = (await kernels(device))("nothing")

        async def launch(number):
            ticket = await device.submit(kernel.launch, 1, 1)
            done.append(number)
            await ticket

        async with anyio.create_task_group() as tasks, full_ring(device, faults):
            for number in range(10):
                tasks.start_soon(launch, number)
                await anyio.wait_all_tasks_blocked()
            tasks.start_soon(device.alloc, 4)
            await anyio.wait_all_tasks_blocked()  # the loop runs
            early = list(done)

        assert early == []
        assert sorted(done) == list(range(10))


async def test_cancelling_a_wait_for_room_submits_nothing(faults):
    """A task that leaves the queue leaves nothing in it."""
    async with cpu_device(ring_capacity=4) as device:
        kernel = (await kernels(device))("nothing")
        launches = device.statistics().launches
        async with full_ring(device, faults):
            with anyio.move_on_after(0.02) as scope:
                await device.submit(kernel.launch, 1, 1)
        await device.synchronize()

        assert scope.cancelled_caught
        assert device.statistics().launches == launches


async def test_the_memory_limit_says_what_is_in_use():
    """Above the limit there is a clear error; freed memory can be had again."""
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
