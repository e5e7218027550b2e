"""Tickets: from the device to the awaiting task, on every event loop, and when that goes wrong."""

from __future__ import annotations

import gc
import threading

import anyio
import pytest
from anyio.lowlevel import checkpoint

from ajit._gpu.completion import waiting
from ajit.errors import DeviceLost, TicketTimeout, WouldBlock, WrongLoop
from tests.gpu.support import GRACE_SECONDS, cpu_device, kernels, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

ILLEGAL_ADDRESS = 700


async def test_awaiting_a_launch_waits_for_the_device(faults):
    """A ticket is not done while the device works on it, and done when the await returns."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        with faults.held():
            ticket = kernel.launch(1, 1)
            with anyio.move_on_after(0.02):
                await ticket

            assert not ticket.done
            assert ticket.seconds is None
        await ticket

        assert ticket.done
        assert ticket.seconds is not None
        assert ticket.seconds > 0


async def test_a_ticket_can_be_awaited_often_and_by_many_tasks(faults):
    """Every task that waits goes on, and so does one that comes later."""
    resumed = []

    async def wait(ticket, name):
        await ticket
        resumed.append(name)

    async with cpu_device() as device:
        faults.hold()
        ticket = device.mark()
        async with anyio.create_task_group() as tasks:
            for name in range(5):
                tasks.start_soon(wait, ticket, name)
            for _ in range(3):
                await checkpoint()
            assert resumed == []
            faults.let_go()
        await ticket

        assert sorted(resumed) == [0, 1, 2, 3, 4]


async def test_cancelling_an_await_detaches_and_keeps_the_buffers(faults):
    """The work goes on after a cancelled await; its buffers are freed only when it is done."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("add_one")
        buffer = await device.upload(bytes(400))
        before = device.statistics().live_resources
        with faults.held():
            ticket = kernel.launch(1, 100, buffer, 100)
            with anyio.move_on_after(0) as scope:
                await ticket
            del buffer
            gc.collect()
            await anyio.sleep(0.06)  # longer than the CUDA thread's look at frees

            assert scope.cancelled_caught
            assert device.statistics().live_resources == before
        await ticket
        del ticket
        await until(lambda: device.statistics().live_resources == before - 1)


async def test_a_device_error_reaches_every_ticket_in_flight(faults):
    """A sticky error fails the running ticket and those behind it with the driver's code."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        with faults.held():
            faults.inject("device:launch", ILLEGAL_ADDRESS)
            tickets = [kernel.launch(1, 1) for _ in range(3)]
        for ticket in tickets:
            with pytest.raises(DeviceLost, match="ILLEGAL_ADDRESS") as caught:
                await ticket
            assert caught.value.code == ILLEGAL_ADDRESS

        with pytest.raises(DeviceLost):
            kernel.launch(1, 1)
        with pytest.raises(DeviceLost):
            await device.alloc(4)
        assert device.statistics().lost_code == ILLEGAL_ADDRESS
    faults.reset()


async def test_a_lost_callback_is_found_by_asking_the_stream(faults):
    """A ticket whose host function never comes is done once the stream says so."""
    async with cpu_device() as device:
        faults.lose_callbacks(2)
        tickets = [device.mark(), device.mark()]
        with anyio.fail_after(GRACE_SECONDS):
            for ticket in tickets:
                await ticket

        assert device.statistics().lost_callbacks == 2


async def test_a_refused_host_function_does_not_lose_the_ticket(faults):
    """When the driver takes the work but not the host function, the stream is asked instead."""
    async with cpu_device() as device:
        faults.inject("cuLaunchHostFunc", 999)
        with anyio.fail_after(GRACE_SECONDS):
            await device.mark()


async def test_a_ticket_past_its_timeout_fails_and_is_retired_later(faults):
    """TicketTimeout reaches the task, the buffers stay, and the late end is still noticed."""
    async with cpu_device(ticket_timeout_seconds=0.05) as device:
        buffer = await device.alloc(64)
        live = device.statistics().live_resources
        with faults.held():
            ticket = device.fill(buffer, 1)
            with anyio.fail_after(GRACE_SECONDS), pytest.raises(TicketTimeout):
                await ticket
            with pytest.raises(TicketTimeout):
                await ticket
            del buffer

            assert device.statistics().in_flight == 1
            assert device.statistics().live_resources == live
        await until(lambda: device.statistics().in_flight == 0)
        await until(lambda: device.statistics().live_resources == live - 1)
        await device.synchronize()


async def test_a_cuda_thread_that_hangs_in_the_driver_is_noticed(faults):
    """Tickets behind a driver call that does not return fail by their timeout as well."""
    async with cpu_device(ticket_timeout_seconds=0.1) as device:
        kernel = (await kernels(device))("nothing")
        with faults.stopped("cuLaunchKernel"):
            tickets = [kernel.launch(1, 1), device.mark()]
            pending = device.alloc(100)
            for ticket in tickets:
                with anyio.fail_after(GRACE_SECONDS), pytest.raises(TicketTimeout):
                    await ticket
            with pytest.raises(TicketTimeout):
                await pending
        # Late, but not lost: an allocation that no task waits for is freed.
        await until(lambda: device.statistics().allocations == 1)
        await until(lambda: device.statistics().live_resources == 1)


async def test_ten_thousand_tickets_in_flight():
    """Ten thousand launches are submitted before the first is awaited, and all finish in order."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("add_one")
        buffer = await device.upload(bytes(4))
        tickets = []
        for _ in range(10_000):
            try:
                tickets.append(kernel.launch(1, 1, buffer, 1))
            except WouldBlock:
                await tickets[-1]
                tickets.append(kernel.launch(1, 1, buffer, 1))
        for ticket in tickets:
            await ticket

        assert bytes(await device.download(buffer)) == (10_000).to_bytes(4, "little")


async def test_a_full_ring_says_so(faults):
    """When nothing leaves the ring, a submission is refused after a moment and nothing is lost."""
    async with cpu_device(ring_capacity=4) as device:
        tickets = []
        with (
            faults.stopped("cuLaunchHostFunc"),
            pytest.raises(WouldBlock, match="ring_capacity"),
        ):
            _submit(device, tickets, 20)
        for ticket in tickets:
            await ticket

        assert len(tickets) >= 4


def _submit(device, tickets, count):
    for _ in range(count):
        tickets.append(device.mark())  # those before a refusal are kept


async def test_a_task_that_awaits_in_a_loop_lets_others_run():
    """Tickets that are done within microseconds do not keep other tasks from running."""
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    async with cpu_device() as device, anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        for _ in range(1500):
            await device.mark()
        tasks.cancel_scope.cancel()

    # Looking for a ticket takes 2 us or more, and others get a turn after five times HOG_SECONDS.
    assert turns >= 1500 * 2e-6 / (5 * waiting.HOG_SECONDS)


async def test_a_ticket_of_another_loop_is_refused():
    """Awaiting it in a loop of another thread raises WrongLoop, and leaves the ticket alone."""
    errors = []

    def other_loop(ticket):
        async def wait():
            await ticket

        try:
            anyio.run(wait)
        except WrongLoop as error:
            errors.append(error)

    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        faulty = kernel.launch(1, 1)
        # Not yet read by this loop, so not done for anybody.
        thread = threading.Thread(target=other_loop, args=(faulty,))
        thread.start()
        thread.join()
        await faulty

    assert len(errors) == 1


async def test_a_launch_from_another_thread_completes_in_the_devices_loop():
    """Any thread may submit; the ticket belongs to the loop that opened the device."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        ticket = await anyio.to_thread.run_sync(lambda: kernel.launch(1, 1))

        assert await ticket is None


async def test_dropped_tickets_are_forgotten():
    """A ticket that is dropped leaves nothing behind once the device is done."""
    async with cpu_device() as device:
        for _ in range(100):
            device.mark()
        await until(lambda: not device._port.in_flight)
