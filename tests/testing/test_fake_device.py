"""What a device does for a runtime: a GPU where there is one, and the CPU driver as its fake.

The tests of the device layer that hold for both are in ``tests/gpu`` (marked ``both``). These go
through a runtime, as a user's do.
"""

from __future__ import annotations

from array import array

import pytest

import ajit
from ajit.testing import FakeDevice
from tests.runtime.sources import saxpy

pytestmark = pytest.mark.anyio


@pytest.fixture
def fake_device():
    """The CPU driver under the test's control."""
    with FakeDevice() as device:
        yield device


@pytest.fixture(params=["real", "fake"])
def device(request):
    """The setting for either device."""
    if request.param == "fake":
        request.getfixturevalue("fake_device")
        return "cpu"
    return "cuda"


@pytest.fixture
def options(tmp_path, fake_compiler):
    """Of a runtime."""
    return {"cache_dir": tmp_path / "cache", "host_compiler": str(fake_compiler.path)}


@pytest.fixture
async def rt(anyio_backend, device, options):
    """A runtime on it."""
    opened = ajit.open_runtime(device=device, **options)
    try:
        runtime = await opened.__aenter__()
    except ajit.NoDevice as error:
        pytest.skip(str(error))
    yield runtime
    await opened.__aexit__(None, None, None)


async def test_memory_keeps_what_was_put_there(rt):
    """Bytes, shape and type."""
    data = array("f", [1.0, 2.0, 3.0, 4.0])
    buffer = await rt.device.upload(data)
    result = await rt.device.download(buffer)

    assert result.tolist() == data.tolist()
    assert (buffer.shape, str(buffer.dtype)) == ((4,), "float32")


async def test_work_of_a_stream_is_done_in_its_order(rt):
    """A launch sees what the launch before it wrote."""
    kernel = await rt.kernel(saxpy())
    x = await rt.device.upload(array("f", [1.0] * 256))
    y = await rt.device.upload(array("f", [0.0] * 256))
    tickets = [kernel[1, 256](1.0, x, y, 256) for _ in range(10)]
    await tickets[-1]
    result = await rt.device.download(y)

    assert result.tolist() == [10.0] * 256


async def test_launch_above_the_limits_is_refused(rt):
    """Nothing ran; the device goes on."""
    kernel = await rt.kernel(saxpy())
    x = await rt.device.upload(array("f", [1.0]))
    with pytest.raises(ajit.LaunchError):
        await kernel[1, 1 << 20](1.0, x, x, 1)
    await rt.device.synchronize()


async def test_more_memory_than_there_is_is_refused(rt):
    """With the field's error."""
    with pytest.raises(ajit.OutOfMemory):
        await rt.device.alloc(1 << 60)
    assert await rt.device.alloc(16)


async def test_refused_launch_is_told_once(fake_device, options):
    """The next one runs."""
    async with ajit.open_runtime(device="cpu", **options) as rt:
        kernel = await rt.kernel(saxpy())
        x = await rt.device.upload(array("f", [1.0]))
        fake_device.fail("cuLaunchKernel", 701)
        with pytest.raises(ajit.LaunchError):
            await kernel[1, 1](1.0, x, x, 1)
        await kernel[1, 1](1.0, x, x, 1)


async def test_lost_device_is_told_by_every_call(fake_device, options):
    """Until another runtime is opened, after the fake was reset."""
    async with ajit.open_runtime(device="cpu", **options) as rt:
        buffer = await rt.device.upload(b"1234")
        fake_device.lose()
        for _ in range(2):
            with pytest.raises(ajit.DeviceLost):
                await rt.device.download(buffer)


async def test_held_device_does_nothing(fake_device, options):
    """A ticket is done after it, and not before."""
    async with ajit.open_runtime(device="cpu", **options) as rt:
        kernel = await rt.kernel(saxpy())
        x = await rt.device.upload(array("f", [1.0]))
        with fake_device.held():
            with pytest.raises(ajit.TicketTimeout):
                await kernel[1, 1](1.0, x, x, 1, timeout=0.2)
            ticket = kernel[1, 1](1.0, x, x, 1)
        await ticket
        assert ticket.done


async def test_stopped_and_late_steps(fake_device, options):
    """A step ends when the block is left, or after its delay; the end of the context ends all."""
    async with ajit.open_runtime(device="cpu", **options) as rt:
        buffer = await rt.device.upload(b"1234")
        with fake_device.stopped("device:copy"):
            fake_device.delay("cuMemcpyDtoHAsync_v2", 0.001)
        assert bytes(await rt.device.download(buffer)) == b"1234"


async def test_faults_that_others_left_are_gone(options):
    """At the begin of the block, and at its end."""
    left = FakeDevice()
    async with ajit.open_runtime(device="cpu", **options) as rt:
        kernel = await rt.kernel(saxpy())
        x = await rt.device.upload(array("f", [1.0]))
        left.fail("cuLaunchKernel", 701, count=9)
        with FakeDevice() as device:
            await kernel[1, 1](1.0, x, x, 1)
            device.fail("cuLaunchKernel", 701, count=9)
        await kernel[1, 1](1.0, x, x, 1)


def test_nameless_step_is_refused():
    """A name that the driver has no room for."""
    with FakeDevice() as device, pytest.raises(ValueError, match="fault"):
        device.fail("x" * 100, 1)
