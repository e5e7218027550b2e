"""How long the device worked on a ticket, and how long work stood behind a load."""

from __future__ import annotations

import ctypes
import threading
import time

import anyio
import pytest

from ajit._gpu.driver import CPU_LIBRARY
from ajit._gpu.wire import NATIVE
from ajit.errors import DeviceError, DeviceLost, TicketTimeout
from tests.gpu.support import compiled, cpu_device, kernels, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

UNKNOWN, LAUNCH_FAILED = 999, 719
DRIVER = ctypes.CDLL(str(NATIVE / CPU_LIBRARY))


async def _batch(device, kernel, _buffer):
    async with device.batch(timed=True, steps=True) as batch:
        batch.add_launch(kernel, 1, 1)
        batch.add_launch(kernel, 1, 1)
    return batch.ticket


async def _graph(device, kernel, _buffer):
    async with device.capture() as graph:
        graph.add_launch(kernel, 1, 1)
    return graph.launch(timed=True)


async def _stream(device, kernel, _buffer):
    return kernel.launch(1, 1, stream=await device.create_stream(), timed=True)


async def _copy(device, _kernel, buffer):
    return device.copy(buffer[0:8], buffer[8:16], timed=True)


@pytest.mark.parametrize("submit", [_batch, _graph, _stream, _copy])
async def test_a_timed_ticket_ends_when_the_device_is_done(faults, submit):
    """The time is the device's own: no shorter than its work, no longer than the ticket's."""
    async with cpu_device() as device:
        kernel, buffer = (await kernels(device))("nothing"), await device.alloc(16)
        faults.inject("device:copy" if submit is _copy else "device:launch", delay=0.05)
        ticket = await submit(device, kernel, buffer)
        await ticket

        assert 0.05 <= ticket.device_seconds <= ticket.seconds


async def test_time_in_the_queue_is_not_the_devices_work(faults):
    """Work ahead of a ticket in its stream counts for its seconds, not for the device's."""
    async with cpu_device() as device:
        buffer = await device.alloc(16)
        faults.inject("device:copy", delay=0.2)
        with faults.held():  # the device begins when both are submitted
            slow = device.copy(buffer[0:8], buffer[8:16], timed=True)
            quick = device.copy(buffer[0:8], buffer[8:16], timed=True)
        await quick

        assert slow.device_seconds >= 0.2
        assert quick.device_seconds < slow.device_seconds
        assert quick.seconds > slow.device_seconds


async def test_only_tickets_that_ask_are_timed():
    """Without asking there is no time; nor while the ticket is not done. A setting asks for all."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        ticket = kernel.launch(1, 1)
        await ticket

        assert ticket.device_seconds is None
    async with cpu_device(time_tickets=True) as device:
        ticket = (await kernels(device))("nothing").launch(1, 1)
        await ticket
        buffer = await device.upload(bytes(8))
        copied = device.copy(buffer, bytes(8))
        await copied

        assert ticket.device_seconds is not None
        assert copied.device_seconds is not None


async def test_a_ticket_in_flight_has_no_time_yet(faults):
    """While the device works on it, no time is reported."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        with faults.held():
            ticket = kernel.launch(1, 1, timed=True)

            assert ticket.device_seconds is None
        await ticket
        assert ticket.device_seconds is not None


@pytest.mark.parametrize("function", ["cuEventCreate", "cuEventRecord"])
async def test_work_that_cannot_be_timed_is_not_started(faults, function):
    """Without the first event the ticket fails, and the device got nothing of it."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        faults.inject(function, UNKNOWN)
        with pytest.raises(DeviceError, match="UNKNOWN"):
            await kernel.launch(1, 1, timed=True)

        assert device.statistics().launches == 0
        ticket = kernel.launch(1, 1, timed=True)
        await ticket
        assert ticket.device_seconds is not None


async def test_a_time_that_the_driver_does_not_tell_fails_nothing(faults):
    """The work was done: only its time is not known."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        faults.inject("cuEventElapsedTime_v2", UNKNOWN)
        ticket = kernel.launch(1, 1, timed=True)
        await ticket

        assert ticket.done
        assert ticket.device_seconds is None


async def test_events_are_used_again(faults):
    """Two events serve any number of tickets, one after the other."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        await kernel.launch(1, 1, timed=True)
        await device.synchronize()
        await until(lambda: device.statistics().in_flight == 0)
        faults.inject("cuEventCreate", UNKNOWN)
        for _ in range(20):
            await kernel.launch(1, 1, timed=True)
            await until(lambda: device.statistics().in_flight == 0)


async def test_a_lost_callback_of_a_timed_ticket_is_found(faults):
    """A timed ticket whose host function never comes is settled like any other."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        faults.lose_callbacks(1)
        ticket = kernel.launch(1, 1, timed=True)
        await ticket

        assert ticket.device_seconds is None
        assert device.statistics().lost_callbacks == 1
        await kernel.launch(1, 1, timed=True)


async def test_python_on_the_cuda_thread_does_not_count_as_time():
    """The ticket is settled after it, with the time at which the device was done."""

    def wait_and_stay():
        assert DRIVER.cuCtxSynchronize() == 0  # the device is done, and the thread is not
        done = time.perf_counter()
        time.sleep(0.1)  # a time that is taken after this is too long
        return done

    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        began = time.perf_counter()
        ticket = kernel.launch(1, 1, timed=True)
        done = await device.run(wait_and_stay)
        await ticket

        assert ticket.device_seconds <= ticket.seconds < done - began


async def test_many_timed_tickets_are_all_told_and_none_taken_for_lost():
    """From several streams at once, while the thread looks after overdue tickets."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        streams = [None, await device.create_stream(), await device.create_stream()]
        began = anyio.current_time()
        while anyio.current_time() < began + 0.2:  # some of the CUDA thread's looks
            tickets = [kernel.launch(1, 1, stream=s, timed=True) for s in streams * 10]
            for ticket in tickets:
                await ticket

            assert all(ticket.device_seconds is not None for ticket in tickets)
        assert device.statistics().lost_callbacks == 0


async def test_an_overdue_timed_ticket_is_retired_later(faults):
    """A deadline settles it; what it keeps goes when the device is done."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        with faults.held():
            ticket = kernel.launch(1, 1, timed=True, timeout=0.05)
            with pytest.raises(TicketTimeout):
                await ticket
        await until(lambda: device.statistics().in_flight == 0)

        assert ticket.device_seconds is None


async def test_a_lost_device_tells_no_time(faults):
    """Timed tickets fail like all others."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        faults.inject("device:launch", LAUNCH_FAILED)
        ticket = kernel.launch(1, 1, timed=True)
        with pytest.raises(DeviceLost):
            await ticket

        assert ticket.device_seconds is None
    faults.reset()


# --- behind a load -----------------------------------------------------------------------------


async def test_a_load_does_not_delay_what_was_submitted_before(faults):
    """However long the load takes, the device works on the launch already."""
    async with cpu_device() as device:
        kernel, go, order = (await kernels(device))("nothing"), threading.Event(), []

        async def load():
            await device.load(compiled())
            order.append("load")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(device.run, go.wait)
            await until(lambda: device.health().operation == "run Python")
            ticket = kernel.launch(1, 1)
            with faults.stopped("cuModuleLoadData"):
                tasks.start_soon(load)
                await until(lambda: len(device._port.in_flight) == 3)
                go.set()
                await ticket
                order.append("launch")

        assert order == ["launch", "load"]
        assert device.statistics().behind_loads == 0


async def test_work_queued_behind_a_load_is_counted(faults):
    """Work submitted while a module is loaded waits for it, and the statistics tell how long."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        async with anyio.create_task_group() as tasks:
            with faults.stopped("cuModuleLoadData"):
                tasks.start_soon(device.load, compiled())
                await until(lambda: device.health().operation == "load")
                tickets = [kernel.launch(1, 1), device.mark()]
            for ticket in tickets:
                await ticket
        statistics = device.statistics()
        await kernel.launch(1, 1)

        assert statistics.behind_loads == 2
        assert 0 < statistics.longest_behind_load_seconds <= tickets[0].seconds
        assert statistics.behind_loads_seconds > statistics.longest_behind_load_seconds
        assert device.statistics().behind_loads == 2


async def test_a_barrier_settles_what_is_done_and_timed(faults):
    """Memory that a timed ticket used is there for an allocation that a barrier waits for."""
    async with cpu_device(device_memory_limit_bytes=1 << 20) as device:
        kernel = (await kernels(device))("nothing")
        used = await device.alloc(700 << 10)
        with faults.stopped("device:launch"):
            with faults.held():
                first = device.fill(used, 1, timed=True)
                used.free()
                async with anyio.create_task_group() as group:
                    group.start_soon(device.alloc, 800 << 10)
                    await until(lambda: device.statistics().deferred_frees == 1)
                    slow = kernel.launch(1, 1)
                    group.start_soon(device.run, str)
                    faults.let_go()
            assert first.done
            assert not slow.done
        await slow
