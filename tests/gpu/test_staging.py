"""Staging: large copies through page-locked memory, as on a GPU."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import numpy as np
import pytest

from ajit._gpu.staging import STAGED_FROM_BYTES
from tests.gpu.support import cpu_device, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

MiB = 1 << 20
OUT_OF_MEMORY = 2


@asynccontextmanager
async def staging_device(**settings):
    """A device that stages its copies."""
    async with cpu_device(**settings) as device:
        device._transfers.stages = True
        yield device


@pytest.mark.parametrize("nbytes", [1, STAGED_FROM_BYTES, STAGED_FROM_BYTES + 1, 5 * MiB + 3])
async def test_staged_copies_are_exact(nbytes):
    """Bytes that go through the pool arrive unchanged, in both directions, whatever the size."""
    source = np.random.default_rng(nbytes).integers(0, 256, nbytes, dtype=np.uint8)
    async with staging_device() as device:
        buffer = await device.upload(source)
        out = np.zeros_like(source)
        await device.download(buffer, out)

        assert np.array_equal(out, source)
        assert bytes(await device.download(buffer)) == source.tobytes()
        assert (device._transfers.pool.held_bytes > 0) == (nbytes > STAGED_FROM_BYTES)


async def test_the_pool_is_bounded_and_used_again():
    """Many copies at once wait for the pool instead of growing it."""
    source = bytes(range(256)) * 4096
    async with staging_device(pinned_pool_bytes=2 * MiB) as device:
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(_round_trip, device, source)

        assert device._transfers.pool.held_bytes <= 2 * MiB
        assert device.statistics().allocations <= 8 + 2


async def _round_trip(device, source):
    buffer = await device.upload(source)
    assert bytes(await device.download(buffer)) == source


async def test_other_sizes_make_room_for_each_other():
    """Memory of one size that lies idle is given up for another size."""
    async with staging_device(pinned_pool_bytes=MiB) as device:
        for nbytes in (MiB, MiB // 2, MiB // 4, MiB):
            buffer = await device.upload(bytes(nbytes))
            assert bytes(await device.download(buffer)) == bytes(nbytes)
            assert device._transfers.pool.held_bytes <= MiB


async def test_a_copy_too_large_for_the_pool_is_not_staged(faults):
    """A copy larger than the pool, or a driver without page-locked memory, is no error."""
    async with staging_device(pinned_pool_bytes=STAGED_FROM_BYTES) as device:
        buffer = await device.upload(bytes(MiB))
        assert bytes(await device.download(buffer)) == bytes(MiB)
        assert device._transfers.pool.held_bytes == 0
    async with staging_device() as device:
        faults.inject("cuMemHostAlloc", OUT_OF_MEMORY)
        buffer = await device.upload(bytes(MiB))
        assert device._transfers.pool.held_bytes == 0


async def test_a_cancelled_copy_returns_its_loan_when_the_device_is_done(faults):
    """Page-locked memory is not lent again while the device may still touch it."""
    async with staging_device() as device:
        await device.upload(bytes(MiB))
        pool = device._transfers.pool
        with faults.held(), anyio.move_on_after(0.1) as scope:
            await device.upload(bytes(MiB))

        assert scope.cancelled_caught
        await until(lambda: len(pool._free[MiB]) == 1)
        assert pool.held_bytes == MiB
