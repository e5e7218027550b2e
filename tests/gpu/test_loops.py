"""Several event loops on one device: what one leaves behind, and what it must not touch."""

from __future__ import annotations

import gc
import threading
from contextlib import contextmanager

import anyio
import pytest

from ajit.errors import RuntimeClosed
from tests.gpu.support import GRACE_SECONDS, cpu_device, kernels, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]


@contextmanager
def other_loop(body):
    """Run `body(device, leave)` in a loop of another thread, until it is over.

    Yields when `body` has set its first event, and sets the second one in the end.
    """
    ready, leave = threading.Event(), threading.Event()

    async def main():
        async with cpu_device() as device:
            await body(device)
            ready.set()
            await anyio.to_thread.run_sync(leave.wait)

    thread = threading.Thread(target=anyio.run, args=(main,))
    thread.start()
    try:
        assert ready.wait(GRACE_SECONDS)
        yield
    finally:
        leave.set()
        thread.join(GRACE_SECONDS)
        assert not thread.is_alive()


async def test_a_loop_leaves_nothing_while_another_has_work_in_flight(faults):
    """All that it made goes when the other loop is done, though Python still refers to it."""
    kept = []

    async def make_all_kinds(device):
        get = await kernels(device)
        await get("nothing").launch(1, 1)
        kept.extend([await device.alloc(100), await device.alloc_pinned(100)])
        kept.extend([get, await device.create_stream(), await device.create_event()])
        async with device.capture() as graph:
            graph.add_fill(kept[0], 1)
        kept.append(graph)

    async with cpu_device() as device:
        with other_loop(make_all_kinds):
            made = device.statistics().live_resources
            faults.hold()
            ticket = device.mark()
            await until(lambda: device.statistics().in_flight == 1)
        held_back = device.statistics().live_resources
        faults.let_go()
        await ticket
        await until(lambda: device.statistics().live_resources == 0)
        kept.clear()
        gc.collect()
        await device.synchronize()

        assert made >= 6
        assert held_back > 0
        assert device.statistics().live_memory_bytes == 0
        assert device.statistics().deferred_frees == 0


async def test_closing_a_loop_does_not_wait_for_the_work_of_another(faults):
    """A loop leaves while the work of another one is on the device."""

    async def make(device):
        await device.alloc(100)

    async with cpu_device() as device:
        with other_loop(make):
            faults.hold()
            ticket = device.mark()
            await until(lambda: device.statistics().in_flight == 1)
        done_before = ticket.done
        faults.let_go()
        await ticket

        assert not done_before
        assert device.statistics().loops == 1


async def test_a_buffer_freed_between_its_loops_end_and_its_free_is_freed_once(faults):
    """Python lets it go while the CUDA thread still holds it back for the work of another loop."""
    kept = []

    async def make(device):
        kept.append(await device.alloc(100))

    async with cpu_device() as device:
        with other_loop(make):
            faults.hold()
            ticket = device.mark()
            await until(lambda: device.statistics().in_flight == 1)
        kept.pop().free()
        later = device.mark()
        faults.let_go()
        await later
        await until(lambda: device.statistics().live_resources == 0)

        assert ticket.done
        assert device.statistics().deferred_frees == 0


async def test_steps_of_a_batch_end_with_their_loop(faults, monkeypatch):
    """A step that the device never reached raises, and its late notes do no harm."""
    monkeypatch.setattr("ajit._gpu.membership.CLOSE_SECONDS", 0.1)
    async with cpu_device() as device:
        buffer = await device.alloc(8)
        faults.hold()
        batch = device.batch(steps=True)
        batch.add_fill(buffer, 1)
        batch.add_fill(buffer, 2)
        ticket = batch.submit()
        steps = [ticket.at(0), ticket.at(1)]
    thread = device._thread
    for step in steps:
        with pytest.raises(RuntimeClosed, match="closed before it finished"):
            await step
    await until(lambda: not thread.alive)
    faults.let_go()

    assert not any(step.done for step in steps)
