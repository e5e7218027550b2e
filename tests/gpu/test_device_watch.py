"""The watch of a device: a stall is told while it lasts, and a lost context once."""

from __future__ import annotations

import time

import pytest

from ajit import events
from ajit._core.event import Emitter, Stamp
from ajit._runtime.device_watch import REPEAT_SECONDS, DeviceWatch
from ajit.errors import DeviceLost
from tests.gpu.support import cpu_device, kernels, until

pytestmark = pytest.mark.anyio

ILLEGAL_ADDRESS = 700


def watch_of(device) -> tuple[DeviceWatch, list]:
    """A watch, and the events that it emits."""
    seen: list = []
    emitter = Emitter(lambda *_: None, lambda: Stamp(0.0, 0.0, 0, ""))
    emitter.subscribe(seen.append)
    return DeviceWatch(device, emitter), seen


async def test_a_cuda_thread_that_hangs_in_the_driver_is_told_until_it_goes_on(faults):
    """At once, then every ten seconds, with the operation; and how long it was."""
    async with cpu_device(stall_seconds=0.05) as device:
        watch, seen = watch_of(device)
        kernel = (await kernels(device))("nothing")
        watch.look(device.health(), 100.0)
        with faults.stopped("cuLaunchKernel"):
            ticket = kernel.launch(1, 1)
            await until(lambda: device.health().stuck)
            watch.look(device.health(), 101.0)
            watch.look(device.health(), 100.0 + REPEAT_SECONDS)
            watch.look(device.health(), 101.5 + REPEAT_SECONDS)
        await ticket
        await until(lambda: not device.health().stuck)
        watch.look(device.health(), 116.0)
        watch.look(device.health(), 117.0)

    first, second, resumed = seen
    assert isinstance(first, events.DeviceStalled)
    assert isinstance(second, events.DeviceStalled)
    assert first.operation == second.operation == "launch"
    assert 0.05 < first.seconds <= second.seconds
    assert resumed == events.DeviceResumed(name="", key="", seconds=15.0)


async def test_a_lost_context_is_told_once_with_the_drivers_code(faults):
    """Whatever is looked at afterwards."""
    async with cpu_device() as device:
        watch, seen = watch_of(device)
        kernel = (await kernels(device))("nothing")
        faults.inject("device:launch", ILLEGAL_ADDRESS)
        with pytest.raises(DeviceLost):
            await kernel.launch(1, 1)
        await until(lambda: device.health().lost_code)
        for _ in range(3):
            watch.look(device.health(), time.monotonic())

    assert seen == [events.DeviceLost(name=device.name, key="", code=ILLEGAL_ADDRESS)]
    faults.reset()
