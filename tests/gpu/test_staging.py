"""Staging: large copies through page-locked memory, as on a GPU."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import numpy as np
import pytest

from ajit._gpu.staging import STAGED_FROM_BYTES
from ajit.errors import RuntimeClosed
from tests.gpu.support import GRACE_SECONDS, cpu_device, until

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


# --- the limit of all loops ----------------------------------------------------------------------


async def test_the_pools_of_a_device_have_one_limit():
    """Two loops that copy at once hold no more than one would; both get on."""
    source = bytes(range(256)) * 4096
    async with (
        staging_device(pinned_pool_bytes=2 * MiB) as one,
        staging_device() as other,
        anyio.create_task_group() as tasks,
    ):
        for device in [one, other] * 6:
            tasks.start_soon(_round_trip, device, source)
        budget = one._thread.pinned
    held = one._transfers.pool.held_bytes + other._transfers.pool.held_bytes

    assert budget.limit_bytes == 2 * MiB
    assert budget.held_bytes == held == 0


async def test_what_lies_idle_in_one_pool_makes_room_for_another():
    """A loop that copies no more does not keep others from it."""
    async with staging_device(pinned_pool_bytes=MiB) as one, staging_device() as other:
        await _round_trip(one, bytes(MiB))
        assert one._transfers.pool.held_bytes == MiB
        await _round_trip(other, bytes(MiB // 2))

        assert one._transfers.pool.held_bytes == 0
        assert other._transfers.pool.held_bytes == one._thread.pinned.held_bytes == MiB // 2


async def test_who_waits_is_not_overtaken():
    """A large one gets its turn before small ones that came later, for whom there would be room."""
    order = []

    async def borrow(pool, nbytes):
        loan = await pool.lend(nbytes)
        order.append(nbytes)
        del loan

    async with staging_device(pinned_pool_bytes=MiB) as one, staging_device() as other:
        pool = one._transfers.pool
        loan = await pool.lend(MiB // 2)
        async with anyio.create_task_group() as tasks:
            for each, nbytes in ((pool, MiB), (other._transfers.pool, MiB // 4), (pool, MiB // 2)):
                tasks.start_soon(borrow, each, nbytes)
                await anyio.wait_all_tasks_blocked()
            assert order == []
            del loan

    assert order[0] == MiB
    assert sorted(order) == [MiB // 4, MiB // 2, MiB]


async def test_nobody_waits_for_ever():
    """After the timeout of a ticket a copy goes without, and its bytes are right."""
    async with staging_device(pinned_pool_bytes=MiB) as device:
        pool, settings = device._transfers.pool, device._thread.settings
        assert pool._patience_seconds == settings.ticket_timeout_seconds
        pool._patience_seconds = 0.05
        loan = await pool.lend(MiB)
        await _round_trip(device, bytes(range(256)) * 2048)

        assert loan is not None
        assert not device._thread.pinned.crowded


async def test_who_leaves_the_line_takes_nothing_along():
    """Neither the place, nor room or memory that it was granted in the same moment."""
    async with staging_device(pinned_pool_bytes=MiB) as device:
        pool = device._transfers.pool
        for waited in (MiB, MiB // 2):  # memory is handed over, or room is granted
            loan = await pool.lend(MiB)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pool.lend, waited)
                await anyio.wait_all_tasks_blocked()
                del loan
                tasks.cancel_scope.cancel()
            assert not device._thread.pinned.crowded
            assert device._thread.pinned.held_bytes == pool.held_bytes
        assert await pool.lend(MiB) is not None


async def test_closing_sends_those_that_wait_away():
    """They do not wait for memory of a device that is closed."""
    async with staging_device(pinned_pool_bytes=MiB) as other, staging_device() as device:
        loan = await other._transfers.pool.lend(MiB)

        async def refused():
            with pytest.raises(RuntimeClosed):
                await device.upload(bytes(MiB))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(refused)
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(GRACE_SECONDS / 2):
                await device.aclose()
        assert loan is not None
        await other.aclose()

        assert device._thread.pinned.held_bytes == 0


async def test_loops_of_several_threads_share_the_limit(anyio_backend):
    """A loan that comes back in one loop wakes a task of another."""
    name, backend_options = anyio_backend
    waits = threading.Event()

    async def in_its_own_loop():
        async with staging_device() as device:

            async def tell():
                await until(lambda: device._thread.pinned.crowded)
                waits.set()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(tell)
                await _round_trip(device, bytes(MiB))

    def run():
        anyio.run(in_its_own_loop, backend=name, backend_options=backend_options)

    async with staging_device(pinned_pool_bytes=MiB) as device:
        loan = await device._transfers.pool.lend(MiB // 2)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, run)
            await until(waits.is_set)
            del loan

        assert device._thread.pinned.held_bytes == 0
