"""Batches: many operations as one submission."""

from __future__ import annotations

import pytest

from ajit.errors import ArgumentError, LaunchError, RuntimeClosed
from tests.gpu.support import cpu_device, kernels

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

INVALID_VALUE = 1


async def test_a_batch_runs_in_order_as_one_submission():
    """Fills, copies and launches happen in the order they were added, with one ticket."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("add_one")
        first, second = await device.alloc(400), await device.alloc(400)
        before = device.statistics().dispatched
        batch = device.batch()
        batch.add_fill(first, 0)
        bound = kernel.bind(1, 128, first, 100)
        for _ in range(30):
            batch.add_bound(bound)
            batch.add_launch(kernel, 1, 128, first, 100)
        batch.add_copy(second, first)
        batch.add_fill(first, 0xFF)

        assert len(batch) == 63
        await batch.submit()

        assert len(batch) == 0
        assert device.statistics().dispatched == before + 1
        assert bytes(await device.download(second)) == (60).to_bytes(4, "little") * 100


async def test_an_empty_batch_waits_for_what_came_before():
    """Submitting nothing is allowed."""
    async with cpu_device() as device:
        await device.batch().submit()


async def test_a_refused_operation_ends_the_batch_after_what_came_before(faults):
    """The ticket fails with the place of the refused operation; those before it have run."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("add_one")
        buffer = await device.upload(bytes(4))
        batch = device.batch()
        batch.add_launch(kernel, 1, 1, buffer, 1)
        batch.add_fill(await device.alloc(4), 1)
        batch.add_launch(kernel, 1, 1, buffer, 1)
        faults.inject("cuMemsetD8Async", INVALID_VALUE)
        with pytest.raises(LaunchError, match="operation 1 of the batch"):
            await batch.submit()

        assert bytes(await device.download(buffer)) == (1).to_bytes(4, "little")


async def test_bad_operations_are_refused_when_they_are_added():
    """A wrong argument never reaches the batch."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("add_one")
        small, large = await device.alloc(1), await device.alloc(2)
        batch = device.batch()
        with pytest.raises(ArgumentError):
            batch.add_launch(kernel, 1, 1, small)
        with pytest.raises(LaunchError):
            batch.add_launch(kernel, 1, 1025, small, 1)
        with pytest.raises(ArgumentError, match="size"):
            batch.add_copy(small, large)
        with pytest.raises(ArgumentError, match="byte"):
            batch.add_fill(small, -1)

        assert len(batch) == 0
    with pytest.raises(RuntimeClosed):
        batch.submit()


async def test_a_batch_refuses_a_buffer_or_module_freed_meanwhile():
    """A buffer freed or a module unloaded after it was added is noticed by submit."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("add_one")
        buffer = await device.upload(bytes(4))
        bound = kernel.bind(1, 1, buffer, 1)
        batches = [device.batch(), device.batch()]
        batches[0].add_launch(kernel, 1, 1, buffer, 1)
        batches[1].add_bound(bound)
        buffer.free()
        for batch in batches:
            with pytest.raises(ArgumentError, match="operation 0 was freed"):
                batch.submit()
        unloaded = device.batch()
        unloaded.add_launch(kernel, 1, 1, None, 0)
        kernel.module.unload()
        with pytest.raises(RuntimeClosed, match="unloaded"):
            unloaded.submit()
