"""The CUDA thread: started, shared, asked to run Python, closed, forked, and failing to start."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

import anyio
import pytest

from ajit._gpu import membership
from ajit._gpu.completion.thread import running_threads
from ajit._gpu.device import open_device
from ajit._gpu.driver import CPU_LIBRARY, driver_choices
from ajit._gpu.wire import NATIVE
from ajit.errors import DeviceError, ForkedRuntime, NoDevice, RuntimeClosed
from ajit.settings import Settings
from tests.gpu.support import cpu_device, kernels, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]


async def test_the_thread_has_a_native_name():
    """Tools outside of Python see which thread is the CUDA thread."""
    async with cpu_device():
        names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]

    assert "ajit-cuda-0" in names


async def test_a_closed_device_refuses_everything_and_closing_twice_is_fine():
    """After closing, every use raises RuntimeClosed, and closing again does nothing."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        buffer = await device.alloc(16)
    await device.aclose()

    with pytest.raises(RuntimeClosed):
        kernel.launch(1, 1)
    for use in (lambda: device.alloc(4), lambda: device.upload(b"1"), device.synchronize):
        with pytest.raises(RuntimeClosed):
            await use()
    assert buffer.freed
    assert kernel.module.unloaded
    buffer.free()
    assert "closed" in repr(device)


async def test_closing_waits_for_tickets_in_flight(faults):
    """The device is closed once it is done with what was submitted."""
    async with anyio.create_task_group() as tasks:
        async with cpu_device() as device:
            faults.hold()
            ticket = device.mark()

            async def let_go():
                await until(lambda: device._port.closed)
                faults.let_go()

            tasks.start_soon(let_go)
        assert ticket.done


async def test_closing_abandons_what_the_device_never_finishes(faults, monkeypatch):
    """A device that hangs delays closing by a bounded time; what it uses is not freed."""
    monkeypatch.setattr(membership, "CLOSE_SECONDS", 0.1)
    async with cpu_device() as device:
        buffer = await device.alloc(64)
        faults.hold()
        ticket = device.fill(buffer, 1)
    thread = device._thread

    with pytest.raises(RuntimeClosed, match="closed before it finished"):
        await ticket
    await until(lambda: not thread.alive)
    assert thread.abandoned == 1
    faults.let_go()
    # The thread has kept its context, which a lost device would leave to the tests after this one.
    assert ctypes.CDLL(str(NATIVE / CPU_LIBRARY)).cuDevicePrimaryCtxRelease_v2(0) == 0


async def test_closing_while_being_cancelled_is_complete():
    """A cancelled block still closes its device: nothing is left behind."""
    with anyio.CancelScope() as scope:
        async with cpu_device() as device:
            await kernels(device)
            await device.alloc(100)
            scope.cancel()
            await anyio.sleep(1)

    assert running_threads() == []


async def test_an_exception_of_the_block_comes_out_as_it_is():
    """No exception group is wrapped around the body's own exception."""
    with pytest.raises(KeyError, match="mine"):
        async with cpu_device():
            raise KeyError("mine")


async def test_loops_of_a_process_share_one_thread():
    """Two loops that open one device use one CUDA thread, and the last to leave ends it."""
    results = []

    def other_loop():
        async def main():
            async with cpu_device() as device:
                kernel = (await kernels(device))("add_one")
                buffer = await device.upload(bytes(4))
                for _ in range(200):
                    await kernel.launch(1, 1, buffer, 1)
                results.append((bytes(await device.download(buffer)), device._thread))

        anyio.run(main)

    async with cpu_device() as device:
        other = threading.Thread(target=other_loop)
        other.start()
        kernel = (await kernels(device))("add_one")
        buffer = await device.upload(bytes(4))
        for _ in range(200):
            await kernel.launch(1, 1, buffer, 1)
        await anyio.to_thread.run_sync(other.join)

        assert results == [((200).to_bytes(4, "little"), device._thread)]
        assert bytes(await device.download(buffer)) == (200).to_bytes(4, "little")
        assert device.statistics().loops == 1
        assert device.statistics().live_resources == 2


async def test_python_runs_on_the_thread_in_order(faults):
    """A callable runs after what was submitted before it, and before what comes after."""
    seen = []

    async with cpu_device() as device:

        def look():
            seen.append((threading.current_thread().name, device.statistics().dispatched))
            return "looked"

        before = device.statistics().dispatched
        faults.inject("cuLaunchHostFunc", delay=0.05)
        device.mark()
        answer = await device.run(look)
        device.mark()

        assert answer == "looked"
        assert seen == [("ajit-cuda-0", before + 1)]


async def test_an_exception_on_the_thread_reaches_the_caller():
    """A callable's exception is raised where it is awaited, and the thread goes on."""

    def fail():
        raise LookupError("on the CUDA thread")

    async with cpu_device() as device:
        with pytest.raises(LookupError, match="on the CUDA thread"):
            await device.run(fail)
        await device.synchronize()


@pytest.mark.parametrize(
    "function",
    [
        "cuDeviceGetCount",
        "cuDevicePrimaryCtxRetain",
        "cuCtxSetCurrent",
        "cuStreamCreateWithPriority",
    ],
)
async def test_a_driver_that_does_not_start_leaves_nothing(faults, function):
    """Opening fails with the driver's code, the thread is gone, and opening again works."""
    faults.inject(function, 999)
    with pytest.raises(DeviceError, match="CUDA_ERROR_UNKNOWN") as caught:
        async with cpu_device():
            pass
    assert not isinstance(caught.value, NoDevice)

    async with cpu_device() as device:
        await device.synchronize()


async def test_no_gpu_names_both_ways_out(monkeypatch):
    """Without the driver's library, opening a GPU says what to do instead."""
    monkeypatch.setattr("ajit._gpu.driver.CUDA_LIBRARY", "libcuda-that-is-not-there.so.1")
    with pytest.raises(NoDevice, match="AJIT_DEVICE=cpu") as caught:
        async with open_device(Settings(environ={}, device="cuda")):
            pass

    assert 'device="cpu"' in str(caught.value)


async def test_auto_falls_back_to_the_cpu(monkeypatch):
    """Auto takes the CPU driver where there is no GPU."""
    monkeypatch.setattr("ajit._gpu.driver.CUDA_LIBRARY", "libcuda-that-is-not-there.so.1")
    async with open_device(Settings(environ={}, device="auto")) as device:
        assert device.kind == "cpu"


async def test_a_device_number_that_does_not_exist(monkeypatch):
    """A number above the last device is NoDevice, with the number of devices."""
    cpu = driver_choices("cpu")[0]
    monkeypatch.setattr("ajit._gpu.driver.CUDA_LIBRARY", cpu.path)
    with pytest.raises(NoDevice, match="devices"):
        async with open_device(Settings(environ={}, device="cuda:99")):
            pass


async def test_a_fork_is_refused_and_the_parent_is_unharmed():
    """In the child every use raises ForkedRuntime, and the parent goes on."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("add_one")
        buffer = await device.upload(bytes(4))
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _use_in_child(kernel, buffer, writer)
                os._exit(0)
            finally:
                os._exit(1)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            said = await anyio.to_thread.run_sync(pipe.read)
        _, status = await anyio.to_thread.run_sync(os.waitpid, child, 0)
        await kernel.launch(1, 1, buffer, 1)

        assert said == b"ForkedRuntime"
        assert status == 0
        assert bytes(await device.download(buffer)) == b"\1\0\0\0"


def _use_in_child(kernel, buffer, writer):
    try:
        kernel.launch(1, 1, buffer, 1)
    except ForkedRuntime as error:
        os.write(writer, type(error).__name__.encode())
    buffer.free()


async def test_statistics_count_what_was_done():
    """Counters say what the thread did."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("nothing")
        buffer = await device.upload(b"12345678")
        await kernel.launch(1, 1)
        await device.download(buffer)
        statistics = device.statistics()

        assert statistics.launches == 1
        assert statistics.copies == 2
        assert statistics.loads == 1
        assert statistics.allocations == 1
        assert statistics.live_memory_bytes == 8
        assert statistics.failed == 0
        assert "running" in repr(device._thread)
