"""A device that other code resets, or that is lost: tickets fail typed, a new runtime may go on."""

from __future__ import annotations

import ctypes
import threading

import anyio
import pytest

from ajit._gpu.driver import CPU_LIBRARY
from ajit._gpu.wire import NATIVE
from ajit.errors import DeviceLost
from tests.gpu.support import GRACE_SECONDS, cpu_device, kernels, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

DESTROYED, ILLEGAL_ADDRESS = 709, 700


class OtherLibrary:
    """Another library of the process, in the same driver."""

    def __init__(self) -> None:
        self._driver = ctypes.CDLL(str(NATIVE / CPU_LIBRARY))

    def reset(self) -> None:
        """Reset the device."""
        assert self._driver.cuDevicePrimaryCtxReset_v2(0) == 0

    def use(self) -> None:
        """Set it up again, as any library that needs a context does."""
        assert self._driver.cuDevicePrimaryCtxRetain(ctypes.byref(ctypes.c_void_p()), 0) == 0

    def look(self) -> int:
        """Ask how the default stream is; returns the driver's code."""
        return int(self._driver.cuStreamQuery(None))

    def leave(self) -> int:
        """Release it; returns the driver's code."""
        return int(self._driver.cuDevicePrimaryCtxRelease_v2(0))

    def release_what_was_abandoned(self) -> None:
        """Release what a runtime that another test abandoned never will."""
        for _ in range(100):
            if self.leave():
                return


async def lose_everything(device, buffer, kernel):
    """Every way of using a device whose context is gone."""
    ways = (
        lambda: device.submit(kernel.launch, 1, 1),
        lambda: device.alloc(8),
        lambda: device.upload(bytes(8)),
        lambda: device.download(buffer),
        device.create_stream,
        device.synchronize,
    )
    for way in ways:
        with pytest.raises(DeviceLost, match=r"CONTEXT_IS_DESTROYED"):
            await way()


@pytest.mark.parametrize("again", [False, True], ids=["reset", "reset_and_used"])
@pytest.mark.usefixtures("faults")  # the CPU driver only
async def test_a_reset_fails_what_comes_after_it(again):
    """With the driver's code, also where the device has been set up again; closing is clean."""
    other = OtherLibrary()
    other.release_what_was_abandoned()
    async with cpu_device() as device:
        kernel, buffer = (await kernels(device))("nothing"), await device.upload(bytes(8))
        stream, event = await device.create_stream(), await device.create_event()
        await device.synchronize()
        other.reset()
        if again:
            other.use()
        with pytest.raises(DeviceLost, match="CONTEXT_IS_DESTROYED"):
            await kernel.launch(1, 1)
        await lose_everything(device, buffer, kernel)
        health = device.health()

        assert health.lost_code == DESTROYED
        assert not health
    for owned in (stream, event, buffer):
        owned.free()

    assert not again or other.leave() == 0
    assert other.leave() == 201  # ajit has released what it retained, once


@pytest.mark.parametrize("again", [False, True], ids=["reset", "reset_and_used"])
async def test_a_reset_fails_what_is_in_flight(faults, again):
    """Nothing that was queued runs, every ticket raises, and none waits for its deadline."""
    other = OtherLibrary()
    async with cpu_device() as device:
        kernel, buffer = (await kernels(device))("add_one"), await device.upload(bytes(4))
        thread = threading.Thread(target=other.reset)
        batch = device.batch(steps=True)
        batch.add_fill(buffer, 1)
        with anyio.fail_after(GRACE_SECONDS), faults.stopped("device:host"):
            tickets = [device.mark(), *(kernel.launch(1, 1, buffer, 1) for _ in range(50))]
            tickets.append(batch.submit())
            await until(lambda: device.statistics().in_flight == len(tickets))
            thread.start()
            while await device.run(other.look) != DESTROYED:
                pass
        await anyio.to_thread.run_sync(thread.join)
        if again:
            other.use()
        outcomes = []
        with anyio.fail_after(GRACE_SECONDS):
            for ticket in tickets:
                try:
                    outcomes.append(await ticket)
                except DeviceLost as error:
                    outcomes.append(error.code)
        with pytest.raises(DeviceLost):
            await tickets[-1].at(0)

        assert outcomes[1:] == [DESTROYED] * (len(tickets) - 1)
        await until(lambda: device.statistics().in_flight == 0)
    if again:
        other.leave()


@pytest.mark.parametrize("how", ["reset", "sticky"])
async def test_a_new_runtime_can_use_the_device_again(faults, how):
    """Where the driver gives a new context: after a reset, and, on the CPU driver, a lost one."""
    async with cpu_device() as device:
        if how == "reset":
            OtherLibrary().reset()
        else:
            faults.poison(ILLEGAL_ADDRESS)
        with pytest.raises(DeviceLost):
            await device.synchronize()

    async with cpu_device() as device:
        kernel, buffer = (await kernels(device))("add_one"), await device.upload(bytes(4))
        await kernel.launch(1, 1, buffer, 1)

        assert bytes(await device.download(buffer)) == b"\1\0\0\0"
        assert device.health()


async def test_a_device_that_stays_lost_says_that_the_process_must_end(faults):
    """A driver that gives no new context after a sticky error; nothing stays behind."""
    faults.inject("cuDevicePrimaryCtxRetain", ILLEGAL_ADDRESS)
    with pytest.raises(DeviceLost, match=r"ILLEGAL_ADDRESS.*end the process"):
        async with cpu_device():
            pass


async def test_a_lost_device_fails_every_loop_that_has_it_open(faults):
    """All tickets of all loops raise, no loop hangs, and each closes cleanly."""
    lost, ready = [], threading.Event()

    async def other():
        async with cpu_device() as device:
            ticket = device.mark()
            await until(lambda: device.statistics().in_flight == 2)
            ready.set()
            try:
                await ticket
            except DeviceLost as error:
                lost.append(error.code)

    async with cpu_device() as device:
        faults.hold()
        ticket = device.mark()
        thread = threading.Thread(target=anyio.run, args=(other,))
        thread.start()
        await until(ready.is_set)
        faults.poison(ILLEGAL_ADDRESS)
        with pytest.raises(DeviceLost, match="ILLEGAL_ADDRESS"):
            await ticket
        await anyio.to_thread.run_sync(thread.join)
        faults.let_go()

    assert lost == [ILLEGAL_ADDRESS]


async def test_a_lost_device_that_is_still_open_cannot_be_opened_again(faults):
    """While one loop has it open, opening it again in another says what happened."""
    async with cpu_device() as device:
        faults.poison(ILLEGAL_ADDRESS)
        with pytest.raises(DeviceLost):
            await device.synchronize()
        with pytest.raises(DeviceLost, match="ILLEGAL_ADDRESS"):
            async with cpu_device() as another:
                await another.synchronize()
