"""The grammar of the device: what submits, what adds, and that only an await waits."""

from __future__ import annotations

import numpy as np
import pytest

import ajit
from ajit._gpu.shape import cover
from ajit.errors import ArgumentError
from tests.gpu.support import cpu_device, kernels

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]


async def test_leaving_a_batch_submits_and_does_not_wait_for_the_device(faults):
    """The first step is awaited while the second cannot run: layer-wise loading overlaps."""
    async with cpu_device() as device:
        add_one = (await kernels(device))("add_one")
        buffer = await device.upload(bytes(4))
        with faults.stopped("device:launch"):
            async with device.batch(steps=True) as batch:
                first = batch.add_fill(buffer, 0)
                second = batch.add_launch(add_one, 1, 1, buffer, 1)
            await batch.ticket.at(first)

            assert not batch.ticket.at(second).done
        await batch.ticket.at(second)
        await batch.ticket

        assert (first, second) == (0, 1)
        assert batch.ticket.done


async def test_a_batch_whose_block_raises_submits_nothing():
    """There is no ticket, and the device did nothing."""
    async with cpu_device() as device:
        buffer = await device.upload(b"abcd")
        batch = device.batch()
        with pytest.raises(ZeroDivisionError):
            await _fill_and_fail(batch, buffer)

        assert batch.ticket is None
        assert bytes(await device.download(buffer)) == b"abcd"


async def _fill_and_fail(batch, buffer):
    async with batch:
        batch.add_fill(buffer, 0)
        raise ZeroDivisionError


async def test_a_kernel_with_its_shape_is_launched_by_a_call():
    """``kernel[grid, block](*args)`` is ``kernel.launch(grid, block, *args)``."""
    async with cpu_device() as device:
        add_one = (await kernels(device))("add_one")
        buffer = await device.upload(np.zeros(3, np.int32))
        await add_one[1, 4](buffer, 3)
        await add_one[(1, 1), (4, 1, 1)](buffer, 3, stream=await device.create_stream())

        assert (await device.download(buffer)).tolist() == [2, 2, 2]


@pytest.mark.parametrize("shape", [1, (1,), (1, 2, 3), "ab"])
async def test_a_kernel_takes_a_grid_and_a_block_in_brackets(shape):
    """Anything else is a TypeError that shows what to write."""
    async with cpu_device() as device:
        add_one = (await kernels(device))("add_one")
        with pytest.raises(TypeError, match=r"write kernel\[grid, block\]"):
            add_one[shape]


@pytest.mark.parametrize("value", [np.zeros(2, np.int32), b"abcd", bytearray(4)])
async def test_host_memory_given_to_a_launch_says_upload(value):
    """The error says how to copy it to the device."""
    async with cpu_device() as device:
        add_one = (await kernels(device))("add_one")
        with pytest.raises(ArgumentError, match=r"host memory.*await device\.upload"):
            add_one.launch(1, 1, value, 1)


@pytest.mark.parametrize(
    ("n", "block", "expected"),
    [(0, 256, 1), (1, 256, 1), (256, 256, 1), (257, 256, 2), ((5, 1), (4, 4), (2, 1))],
)
def test_cover_gives_the_blocks_for_n_threads(n, block, expected):
    """Rounded up, on each axis, and never an empty grid."""
    assert expected == cover(n, block)


@pytest.mark.parametrize(
    ("n", "block", "error"),
    [(-1, 4, ValueError), (4, 0, ValueError), ((4,), 4, TypeError), ((4,), (1, 1), ValueError)],
)
def test_cover_refuses_what_is_no_shape(n, block, error):
    """Numbers out of range, and axes that do not match."""
    with pytest.raises(error):
        cover(n, block)


@pytest.mark.parametrize(
    ("kind", "factory"),
    [
        ("Batch", "device.batch()"),
        ("Device", "rt.device"),
        ("DeviceBuffer", "await device.alloc() or device.upload()"),
        ("Event", "device.create_event()"),
        ("Graph", "device.capture()"),
        ("Kernel", "rt.kernel() or module.kernel()"),
        ("LoadedModule", "rt.module() or device.load()"),
        ("Runtime", "ajit.open_runtime()"),
        ("Step", "ticket.at()"),
        ("Stream", "device.create_stream()"),
        ("Ticket", "a launch, a copy or batch.submit()"),
    ],
)
def test_a_class_that_only_a_factory_makes_says_which(kind, factory):
    """Calling it is a TypeError that names the factory, whatever it is called with."""
    with pytest.raises(TypeError) as caught:
        getattr(ajit, kind)(1, device="cpu")

    assert f"get it from {factory}" in str(caught.value)
