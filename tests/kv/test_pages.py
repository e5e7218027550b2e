"""Pages: an engine's cache saved to chunks and loaded from them, on a device."""

from __future__ import annotations

import gc

import anyio
import anyio.lowlevel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ajit import kv
from ajit.errors import ArgumentError, DeviceError, RuntimeClosed, UsageError
from tests.gpu.support import GRACE_SECONDS, ON_GPU, cpu_device
from tests.kv.model import (
    chunks_of,
    layouts,
    scaled_chunks,
    scaled_layouts,
    seen,
    seen_scaled,
    tensors_of,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left"), pytest.mark.both]

INVALID_VALUE = 1
LAYOUT = kv.Layout(layers=4, heads=2, dim=8, dtype="float16", page_tokens=4, chunk_tokens=16)
PAGES = 12


async def uploaded(device, tensors):
    """Tensors of an engine, on the device."""
    return [await device.upload(tensor) for tensor in tensors]


async def pinned_chunks(device, layout, count, data=None):
    """Chunks in pinned memory, and that memory."""
    memory = await device.alloc_pinned(count * layout.chunk_bytes)
    memory.view().data[:] = bytes(memory.nbytes) if data is None else data
    return kv.Chunks(memory, [index * layout.chunk_bytes for index in range(count)]), memory


@st.composite
def caches(draw):
    """A layout, a number of pages, and blocks, of which some are gaps."""
    layout, pages = draw(layouts()), draw(st.integers(1, 6))
    order = draw(st.permutations(range(pages)))
    gaps = draw(st.sets(st.integers(0, pages - 1), max_size=2))
    return layout, pages, [-1 if block in gaps else block for block in order], draw(st.booleans())


@given(caches())
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_what_was_saved_is_loaded_into_other_pages(cache):
    """Any layout, by pages and by slots: chunks and pages hold what the model says, to the byte."""
    layout, pages, blocks, by_slot = cache
    tensors = tensors_of(layout, pages)
    expected = chunks_of(layout, seen(layout, tensors, pages), blocks)
    tokens = range(layout.page_tokens)
    ids = [max(block, -1) * layout.page_tokens + token if block >= 0 else -1
           for block in blocks for token in tokens] if by_slot else blocks  # fmt: skip
    async with cpu_device() as device:
        buffers = await uploaded(device, tensors)
        chunks, memory = await pinned_chunks(device, layout, len(expected))
        async with kv.open_pages(device, layout, buffers, pages=pages) as opened:
            await (await opened.save(ids, chunks, slots=by_slot))
            assert expected.tobytes() == bytes(memory.view())
            for buffer in buffers:
                device.fill(buffer, 0x5A)
            await (await opened.load(chunks, ids, slots=by_slot, after=device.mark()))
        found = [np.asarray(await device.download(buffer)) for buffer in buffers]

    blank = [np.full_like(tensor, 0x5A) for tensor in tensors]
    before, after = seen(layout, tensors, pages), seen(layout, found, pages)
    assert all((after[:, :, block] == before[:, :, block]).all() for block in blocks if block >= 0)
    others = sorted(set(range(pages)) - set(blocks))
    assert (after[:, :, others] == seen(layout, blank, pages)[:, :, others]).all()


@given(scaled_layouts(), st.integers(1, 5), st.integers(0, 2**32), st.booleans())
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_scales_are_saved_and_loaded_with_the_values(layout, pages, seed, by_slot):
    """In one submission; a layer is there with both."""
    # Not drawn in here: what Hypothesis raises to stop an example must not come out of a task.
    tensors, blocks = (
        tensors_of(layout, pages),
        np.random.default_rng(seed).permutation(pages).tolist(),
    )
    expected = scaled_chunks(layout, seen_scaled(layout, tensors, pages), blocks)
    tokens = range(layout.page_tokens)
    ids = [block * len(tokens) + t for block in blocks for t in tokens] if by_slot else blocks
    async with cpu_device() as device:
        buffers = await uploaded(device, tensors)
        chunks, memory = await pinned_chunks(device, layout, len(expected))
        async with kv.open_pages(device, layout, buffers, pages=pages) as opened:
            before = device.statistics().dispatched
            save = await opened.save(ids, chunks, slots=by_slot)
            assert device.statistics().dispatched <= before + 1
            await save
            assert save.nbytes == pages * layout.tensor_bytes(1) * layout.tensors or layout.strides
            assert expected.tobytes() == bytes(memory.view())
            for buffer in buffers:
                device.fill(buffer, 0x5A)
            load = await opened.load(chunks, ids, slots=by_slot, after=device.mark(), gates=True)
            for layer in range(layout.layers):
                await load.layer(layer)
        found = [np.asarray(await device.download(buffer)) for buffer in buffers]

    before, after = seen_scaled(layout, tensors, pages), seen_scaled(layout, found, pages)
    assert all((one == other).all() for one, other in zip(before, after, strict=True))


async def test_a_request_is_one_submission():
    """However many pages and layers it has, with its steps, gates and what it waits for."""
    async with cpu_device() as device:
        buffers = await uploaded(device, tensors_of(LAYOUT, PAGES))
        chunks, _ = await pinned_chunks(device, LAYOUT, 3)
        event = await device.create_event(timing=False)
        async with kv.open_pages(device, LAYOUT, buffers) as pages:
            await event.record()
            await (await pages.load(chunks, list(range(PAGES)), gates=True))  # makes events
            before = device.statistics().dispatched
            await (await pages.load(chunks, list(range(PAGES)), after=event, gates=True))

            assert device.statistics().dispatched == before + 1
            assert pages.statistics() == kv.PagesStatistics(2, 0, 2 * 12 * 4 * 2 * 128, 0, 128)


async def test_layers_are_awaited_one_by_one_and_gate_streams(faults):
    """A layer is there for a task, or for a stream, before the whole is."""
    async with cpu_device() as device:
        buffers = await uploaded(device, tensors_of(LAYOUT, PAGES))
        computing = await device.create_stream()
        chunks, memory = await pinned_chunks(device, LAYOUT, 3)
        async with kv.open_pages(device, LAYOUT, buffers) as pages:
            with faults.held():
                transfer = await pages.load(
                    chunks, list(range(PAGES)), layers_per_step=2, gates=True
                )
                gated = await device.submit(transfer.gate, computing, 3)
                assert not any(each.done for each in (transfer, transfer.layer(0), gated))
            with anyio.fail_after(GRACE_SECONDS):
                for layer in range(4):
                    await transfer.layer(layer)
                await gated
                await transfer
            for wrong in (-1, 4):
                with pytest.raises(IndexError, match="no layer"):
                    transfer.layer(wrong)
                with pytest.raises(IndexError, match="no layer"):
                    transfer.gate(computing, wrong)

        assert transfer.done
        assert transfer.seconds > 0
        assert bytes(await device.download(buffers[3])) == bytes(buffers[3].nbytes)
        del memory


async def test_a_gate_orders_streams_of_other_libraries(faults):
    """Their handle is enough; and None is the device's own stream."""
    async with cpu_device() as device:
        buffers = await uploaded(device, tensors_of(LAYOUT, PAGES))
        stream = await device.create_stream()

        class Foreign:
            def __cuda_stream__(self):
                return 0, stream.handle

        chunks, _ = await pinned_chunks(device, LAYOUT, 3)
        async with kv.open_pages(device, LAYOUT, buffers) as pages:
            with faults.held():
                transfer = await pages.load(chunks, list(range(PAGES)), gates=True)
                for waiting in (Foreign(), None):
                    transfer.gate(waiting, 3)
                copy = device.fill(buffers[3], 7, stream=Foreign())
                assert not copy.done
            await copy
            await device.synchronize()

            assert bytes(await device.download(buffers[3])) == bytes([7]) * buffers[3].nbytes


async def test_events_are_used_again():
    """Gates of one request after another cost no new events."""
    async with cpu_device() as device:
        buffers = await uploaded(device, tensors_of(LAYOUT, PAGES))
        chunks, _ = await pinned_chunks(device, LAYOUT, 3)
        async with kv.open_pages(device, LAYOUT, buffers) as pages:
            await (await pages.load(chunks, list(range(PAGES)), gates=True))
            gc.collect()
            before = device.statistics().live_resources
            for _ in range(5):
                await (await pages.load(chunks, list(range(PAGES)), gates=True))
                gc.collect()

            assert device.statistics().live_resources == before


async def test_a_gate_has_to_be_asked_for():
    """Events cost the device something."""
    async with cpu_device() as device:
        buffers = await uploaded(device, tensors_of(LAYOUT, PAGES))
        chunks, _ = await pinned_chunks(device, LAYOUT, 3)
        async with kv.open_pages(device, LAYOUT, buffers) as pages:
            transfer = await pages.load(chunks, list(range(PAGES)))
            with pytest.raises(UsageError, match="gates=True"):
                transfer.gate(None, 0)
            await transfer


async def test_what_is_wrong_is_refused_before_it_is_submitted():
    """Pages that are not there or come twice, chunks that do not fit, steps of no layer."""
    async with cpu_device() as device:
        buffers = await uploaded(device, tensors_of(LAYOUT, PAGES))
        chunks, memory = await pinned_chunks(device, LAYOUT, 3)
        async with kv.open_pages(device, LAYOUT, buffers) as pages:
            before = device.statistics().dispatched
            for blocks, how, says in [
                ([PAGES], {}, f"not below {PAGES}"),
                ([PAGES * 4], {"slots": True}, f"not below {PAGES * 4}"),
                ([1, 1], {}, "there already"),
                ([1, 2], {}, "2 ids for 3 chunks"),
                (np.arange(24)[::2], {}, r"contiguous; pass numpy.ascontiguousarray\(blocks\)"),
                (np.zeros((12, 2), int)[:, 0], {}, "blocks must be contiguous"),
                (list(range(PAGES)), {"layers_per_step": 0}, "layers_per_step is 0"),
                (list(range(PAGES)), {"after": object()}, "expected a stream"),
            ]:
                with pytest.raises(ArgumentError, match=says):
                    await pages.load(chunks, blocks, **how)
            overlapping = kv.Chunks(memory, [0, 1, 2])
            with pytest.raises(ArgumentError, match="overlap"):
                await pages.save(list(range(PAGES)), overlapping)

            assert device.statistics().dispatched == before


async def test_nothing_is_submitted_once_pages_are_closed(faults):
    """Leaving the block waits for transfers in flight, so that the engine may free its cache."""
    async with cpu_device() as device:
        buffers = await uploaded(device, tensors_of(LAYOUT, PAGES))
        chunks, _ = await pinned_chunks(device, LAYOUT, 3)
        faults.inject("device:copy", delay=0.1)
        async with kv.open_pages(device, LAYOUT, buffers, check=False) as pages:
            transfer = await pages.save(list(range(PAGES)), chunks)
        assert transfer.done
        with pytest.raises(RuntimeClosed):
            await pages.save(list(range(PAGES)), chunks)


async def test_a_cancelled_submission_or_wait_leaves_nothing(faults):
    """A cancelled wait only leaves; other tasks go on, and the pages are as if none had waited."""
    async with cpu_device() as device:
        buffers = await uploaded(device, tensors_of(LAYOUT, PAGES))
        chunks, memory = await pinned_chunks(device, LAYOUT, 3)
        async with kv.open_pages(device, LAYOUT, buffers) as pages:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await pages.load(chunks, list(range(PAGES)), gates=True)
            with faults.held():
                transfer = await pages.save(list(range(PAGES)), chunks)
                for waiting in (transfer, transfer.layer(0)):
                    with anyio.move_on_after(0.01) as scope:
                        await waiting
                    assert scope.cancelled_caught
                memory.free()  # the ticket keeps it
            await transfer


async def test_a_refused_copy_fails_the_transfer(faults):
    """With the driver's code; the next one is not touched by it."""
    async with cpu_device() as device:
        buffers = await uploaded(device, tensors_of(LAYOUT, PAGES))
        chunks, _ = await pinned_chunks(device, LAYOUT, 3)
        async with kv.open_pages(device, LAYOUT, buffers) as pages:
            faults.inject("cuMemcpyBatchAsync_v2", INVALID_VALUE)
            transfer = await pages.load(chunks, list(range(PAGES)))
            with pytest.raises(DeviceError):
                await transfer.layer(0)
            with pytest.raises(DeviceError):
                await transfer
            await (await pages.load(chunks, list(range(PAGES))))


async def test_many_requests_cancelled_at_random_copy_all_or_nothing():
    """Each chunk holds its pages, or was never submitted; nothing stays in flight."""
    requests, random = 150, np.random.default_rng(3)
    tensors = tensors_of(LAYOUT, PAGES)
    cache = seen(LAYOUT, tensors, PAGES)
    async with cpu_device() as device:
        buffers = await uploaded(device, tensors)
        chunks, memory = await pinned_chunks(device, LAYOUT, requests)
        blocks = [random.permutation(PAGES)[:4].tolist() for _ in range(requests)]
        submitted = []

        async def request(pages, number, seconds):
            with anyio.move_on_after(seconds):
                if number % 3 == 0:
                    await anyio.lowlevel.checkpoint()
                chunk = kv.Chunks(memory, [chunks.offsets[number]])
                transfer = await pages.save(blocks[number], chunk, gates=bool(number % 2))
                submitted.append(number)
                await transfer.layer(number % LAYOUT.layers)
                await transfer

        with anyio.fail_after(GRACE_SECONDS):
            async with kv.open_pages(device, LAYOUT, buffers) as pages:
                async with anyio.create_task_group() as tasks:
                    for number in range(requests):
                        tasks.start_soon(request, pages, number, random.choice([0, 1e-4, 1e-3, 1]))
                saves = pages.statistics().saves
        await device.synchronize()
        found = np.asarray(memory.view()).reshape(requests, -1).copy()

    assert len(submitted) == saves > requests // 8
    for number in range(requests):
        expected = chunks_of(LAYOUT, cache, blocks[number]).tobytes()
        whole = expected if number in submitted else bytes(LAYOUT.chunk_bytes)
        assert whole == found[number].tobytes()


# --- opening -------------------------------------------------------------------------------------


async def test_opening_leaves_the_pages_as_they_were():
    """The pattern of the check is taken back."""
    tensors = tensors_of(LAYOUT, PAGES)
    async with cpu_device() as device:
        buffers = await uploaded(device, tensors)
        async with kv.open_pages(device, LAYOUT, buffers) as pages:
            assert pages.count == PAGES
        for tensor, buffer in zip(tensors, buffers, strict=True):
            assert tensor.tobytes() == bytes(await device.download(buffer))


async def test_a_tensor_that_stands_for_two_layers_is_found():
    """A pattern does not come back from memory that is written twice; and is taken back."""
    tensors = tensors_of(LAYOUT, PAGES)[:3]
    async with cpu_device() as device:
        buffers = await uploaded(device, tensors)
        with pytest.raises(ArgumentError, match="does not come back"):
            async with kv.open_pages(device, LAYOUT, [*buffers, buffers[1]]):
                pass
        for tensor, buffer in zip(tensors, buffers, strict=True):
            assert tensor.tobytes() == bytes(await device.download(buffer))


async def test_tensors_that_are_not_as_declared_are_refused():
    """Their number, type, shape and size: what LMCache reads as another type or shape (#4467)."""
    shape = LAYOUT.shape(PAGES)
    async with cpu_device() as device:
        good = [await device.alloc(shape, "float16") for _ in range(4)]
        other = await device.alloc(shape, "bfloat16")
        turned = await device.alloc((PAGES, 2, *shape[2:]), "float16")
        longer = await device.alloc((2, PAGES + 1, *shape[2:]), "float16")
        for tensors, says in [
            (good[:3], "3 tensors; the layout has 4"),
            ([*good[:3], other], "tensor 3 is bfloat16, the layout says float16"),
            ([*good[:3], turned], r"tensor 3 has the shape \(12, 2, 4, 2, 8\)"),
            ([*good[:3], longer], "say pages="),
            ([*good[:3], object()], "does not tell its size"),
        ]:
            with pytest.raises(ArgumentError, match=says):
                async with kv.open_pages(device, LAYOUT, tensors):
                    pass
        with pytest.raises(ArgumentError, match=f"smallest tensor has room for {PAGES}"):
            async with kv.open_pages(device, LAYOUT, good, pages=PAGES + 1):
                pass
        with pytest.raises(ArgumentError, match="0 pages"):
            async with kv.open_pages(device, LAYOUT, good, pages=0):
                pass


@pytest.mark.skipif(ON_GPU, reason="memory of the host is no device memory there")
async def test_on_the_cpu_driver_the_cache_may_be_an_array():
    """So a server that keeps its cache in NumPy or torch on the CPU can be tried without a GPU."""
    tensors = [
        tensor.view(np.float16).reshape(LAYOUT.shape(PAGES)) for tensor in tensors_of(LAYOUT, PAGES)
    ]
    async with cpu_device() as device:
        chunks, memory = await pinned_chunks(device, LAYOUT, 3)
        async with kv.open_pages(device, LAYOUT, tensors) as pages:
            await (await pages.save(np.arange(PAGES), chunks))
        expected = chunks_of(LAYOUT, np.stack(tensors).view(np.uint16), list(range(PAGES)))

        assert expected.tobytes() == bytes(memory.view())
