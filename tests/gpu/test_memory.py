"""Device and pinned memory: copies, lifetimes, and what happens when there is none left."""

from __future__ import annotations

import array
import gc

import anyio
import ml_dtypes
import numpy as np
import pytest

from ajit.errors import ArgumentError, DeviceError, OutOfMemory
from tests.gpu.support import cpu_device, kernels, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

OUT_OF_MEMORY = 2


@pytest.mark.parametrize(
    "obj",
    [
        b"bytes",
        bytearray(b"bytearray"),
        memoryview(b"view"),
        array.array("d", [1.0, 2.5]),
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.arange(5, dtype=np.float16),
        np.array(7, dtype=np.int64),
        np.arange(6, dtype=ml_dtypes.bfloat16),
        np.arange(4)[::1],
    ],
    ids=lambda obj: type(obj).__name__ + str(getattr(obj, "dtype", "")),
)
async def test_a_download_returns_the_uploaded_bytes(obj):
    """Anything with contiguous memory goes to the device and comes back the same."""
    expected = obj.tobytes() if hasattr(obj, "tobytes") else bytes(obj)
    async with cpu_device() as device:
        buffer = await device.upload(obj)
        actual = await device.download(buffer)

        assert actual.tobytes() == expected
        assert buffer.nbytes == len(expected)


async def test_nothing_is_a_size_like_any_other():
    """Buffers of zero bytes can be made, copied, filled and freed."""
    async with cpu_device() as device:
        empty, allocated = await device.upload(b""), await device.alloc(0)
        await device.fill(empty, 1)
        await device.copy(empty, allocated)
        await device.copy(empty, b"")

        assert bytes(await device.download(empty)) == b""
        assert empty.pointer == 0
        assert device.statistics().live_resources == 0
        empty.free()


async def test_a_copy_of_many_megabytes_is_exact():
    """Large copies arrive whole, in both directions, while launches go on between them."""
    source = np.random.default_rng(1).integers(0, 256, 48 << 20, dtype=np.uint8)
    async with cpu_device() as device:
        buffer = await device.upload(source)
        out = np.empty_like(source)
        await device.download(buffer, out)

        assert np.array_equal(out, source)


async def test_copies_on_the_device_and_fills():
    """Copies and fills run in the order of submission."""
    async with cpu_device() as device:
        first, second = await device.alloc(8), await device.upload(b"abcdefgh")
        device.fill(first, 0x2A)
        device.copy(second, first)
        device.copy(first, b"12345678")
        await device.synchronize()

        assert bytes(await device.download(first)) == b"12345678"
        assert bytes(await device.download(second)) == b"*" * 8


async def test_an_impossible_download_is_refused():
    """A wrong size, read-only memory and a freed buffer are refused before anything starts."""
    async with cpu_device() as device:
        buffer = await device.upload(b"12345678")
        for out, reason in ((bytearray(7), "7"), (bytes(8), "read-only")):
            with pytest.raises(ArgumentError, match=reason):
                await device.download(buffer, out)
        buffer.free()
        buffer.free()
        with pytest.raises(ArgumentError, match="freed"):
            await device.download(buffer)
        with pytest.raises(ArgumentError):
            await device.alloc(-1)
        with pytest.raises(ArgumentError, match="byte"):
            device.fill(await device.alloc(1), 256)


async def test_memory_is_freed_by_every_way_of_leaving_it():
    """free(), a with block and the garbage collector all give memory back."""
    async with cpu_device() as device:
        await device.alloc(1000)  # collected at once
        (await device.alloc(1000)).free()
        with await device.alloc(1000) as buffer:
            assert not buffer.freed
        gc.collect()
        await until(lambda: device.statistics().live_resources == 0)

        assert device.statistics().live_memory_bytes == 0
        assert device.statistics().allocations == 3


async def test_freeing_waits_for_launches_that_were_submitted_before(faults):
    """A buffer that is freed while a launch uses it stays until the launch is done."""
    async with cpu_device() as device:
        kernel = (await kernels(device))("add_one")
        used, other = await device.upload(bytes(400)), await device.upload(bytes(400))
        live = device.statistics().live_resources
        with faults.held():
            tickets = [kernel.launch(1, 100, used, 100) for _ in range(3)]
            used.free()
            ticket = device.mark()
            await anyio.sleep(0.12)  # two of the CUDA thread's looks
            dispatched = device.statistics().dispatched
            late = device.mark()
            # It is not waiting inside the driver's free either.
            await until(lambda: device.statistics().dispatched == dispatched + 1)

            assert device.statistics().live_resources == live
        for each in [*tickets, ticket, late]:
            await each
        await until(lambda: device.statistics().live_resources == live - 1)
        assert bytes(await device.download(other)) == bytes(400)


async def test_a_finalizer_never_enters_the_driver(faults):
    """Collecting buffers costs nothing even while the driver blocks in every free (R3)."""
    async with cpu_device() as device:
        buffers = [await device.alloc(64) for _ in range(50)]
        with faults.stopped("cuMemFreeAsync"):
            buffers.clear()
            gc.collect()  # does not return, if it enters the driver

            assert device.statistics().live_resources == 50
        await until(lambda: device.statistics().live_resources == 0)


async def test_running_out_of_memory(faults):
    """OutOfMemory has the driver's code, and memory that is being freed is waited for."""
    async with cpu_device() as device:
        with pytest.raises(OutOfMemory) as caught:
            await device.alloc(1 << 60)
        assert caught.value.code == OUT_OF_MEMORY
        assert device.statistics().live_resources == 0

        buffer = await device.alloc(64)
        faults.hold()
        device.fill(buffer, 1)
        buffer.free()
        faults.inject("cuMemAllocFromPoolAsync", OUT_OF_MEMORY, count=3)
        async with anyio.create_task_group() as tasks:

            async def allocate():
                await device.alloc(64)

            tasks.start_soon(allocate)
            await anyio.sleep(0.02)
            faults.let_go()


async def test_a_failed_upload_leaves_no_memory(faults):
    """When the copy is refused, the memory made for it is freed."""
    async with cpu_device() as device:
        faults.inject("cuMemcpyHtoDAsync_v2", 1)
        with pytest.raises(DeviceError, match="INVALID_VALUE"):
            await device.upload(b"12345678")
        await until(lambda: device.statistics().live_resources == 0)


async def test_a_cancelled_upload_leaves_no_memory(faults):
    """Cancelling leaves at once; the copy is finished and its memory freed in the background."""
    async with cpu_device() as device:
        with faults.held(), anyio.move_on_after(0.02) as scope:
            await device.upload(bytes(1000))

        assert scope.cancelled_caught
        await until(lambda: device.statistics().allocations == 1)
        await until(lambda: device.statistics().live_resources == 0)


async def test_closing_frees_what_is_still_held():
    """Buffers that outlive their device are freed by closing it."""
    async with cpu_device() as outer, cpu_device() as device:
        kept = [await device.alloc(100) for _ in range(5)]
        await device.aclose()

        assert all(buffer.freed for buffer in kept)
        assert outer.statistics().live_resources == 0
        with pytest.raises(ArgumentError, match="freed"):
            _ = kept[0].pointer


async def test_pinned_memory_is_shared_with_python():
    """The device copies what is written through the view."""
    async with cpu_device() as device:
        with await device.alloc_pinned(16) as pinned:
            pinned.view().data[:] = b"0123456789abcdef"
            buffer = await device.upload(pinned.view())

            assert bytes(await device.download(buffer)) == b"0123456789abcdef"
        assert "freed" in repr(pinned)
