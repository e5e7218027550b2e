"""Several devices in one process, several runtimes on one, and very many tickets."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import anyio
import pytest

import ajit
from ajit._gpu.completion.thread import running_threads
from ajit._gpu.device import open_device
from ajit.errors import NoDevice
from ajit.settings import Settings
from tests.gpu.support import cpu_device, kernels, until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("faults", "no_device_left"),  # the CPU driver only
]

TICKETS = 10_000
TICKET_BYTES = 6 * 1024  # with its task, and what the driver has of it
EXIT_SECONDS = 60.0


def device_number(ordinal):
    """The CPU driver's device of this number, opened for this loop."""
    return open_device(Settings(environ={}, device=f"cpu:{ordinal}"))


def descriptors():
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def resident_bytes():
    """Memory of this process that is there."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def test_each_device_has_a_separate_thread_and_context(monkeypatch):
    """One that hangs, and one that is lost, leaves the others alone."""
    monkeypatch.setenv("AJIT_CPU_DEVICES", "3")
    async with device_number(0) as first, device_number(1) as second, device_number(2) as third:
        devices = [first, second, third]
        buffers = [await device.upload(bytes([index])) for index, device in enumerate(devices)]
        began, leave = threading.Event(), threading.Event()

        def hang():
            began.set()
            leave.wait(EXIT_SECONDS)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.run, hang)
            await until(began.is_set)
            await second.fill(buffers[1], 7)
            await third.fill(buffers[2], 8)
            leave.set()

        assert sorted(running_threads()) == [f"ajit-cuda-{index}" for index in range(3)]
        pairs = zip(devices, buffers, strict=True)
        assert [bytes(await device.download(buffer)) for device, buffer in pairs] == [
            b"\0",
            b"\7",
            b"\x08",
        ]


async def test_a_device_that_is_not_there_says_how_many_there_are():
    """The CPU driver has one unless it is told otherwise."""
    with pytest.raises(NoDevice, match=r"there are 1 devices.*AJIT_CPU_DEVICES"):
        async with device_number(1):
            pass


async def test_runtimes_on_one_device_share_its_thread_and_nothing_else(tmp_path, faults):
    """Two in one loop: what one loads and closes does not touch the other."""
    options = {"device": "cpu", "cache_dir": tmp_path}
    async with ajit.open_runtime(**options) as one:
        async with ajit.open_runtime(**options) as other:
            mine, theirs = await one.device.upload(b"1"), await other.device.upload(b"2")
            loops = one.device.statistics().loops
        with pytest.raises(ajit.RuntimeClosed):
            await other.device.synchronize()

        assert loops == 2
        assert one.device.statistics().loops == 1
        assert theirs.freed
        assert bytes(await one.device.download(mine)) == b"1"
        assert one.device.statistics().live_resources == 1


async def test_ten_thousand_tickets_in_flight(faults):
    """Each has its task; they take memory in proportion, no descriptor, and all come back."""
    async with cpu_device() as device:
        kernel, counter = (await kernels(device))("add_one"), await device.upload(bytes(4))
        await kernel.launch(1, 1, counter, 1)
        done = []

        async def wait(ticket):
            await ticket
            done.append(ticket)

        gc.collect()  # what is closed meanwhile would hide what is opened
        before = resident_bytes(), descriptors()
        faults.hold()
        async with anyio.create_task_group() as tasks:
            for _ in range(TICKETS):
                ticket = await device.submit(kernel.launch, 1, 1, counter, 1)
                tasks.start_soon(wait, ticket)
            await until(lambda: device.statistics().in_flight == TICKETS)
            during = resident_bytes(), descriptors()
            faults.let_go()
        after = descriptors()

        assert len(done) == TICKETS
        assert int.from_bytes(await device.download(counter), "little") == TICKETS + 1
        assert during[0] - before[0] < TICKETS * TICKET_BYTES
        assert max(during[1], after) <= before[1]
        assert device.statistics().lost_callbacks == 0
