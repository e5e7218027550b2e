"""Kernels for small pieces: the same bytes as the copy engine, chosen by what was measured."""

from __future__ import annotations

import mmap
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import numpy as np
import pytest

import ajit
from ajit import kv
from ajit._gpu.page_format import PageIds
from ajit._gpu.page_kernel import kernel_spec, launch_shape
from ajit.kv import kernels
from tests.gpu.support import ON_GPU
from tests.kv.model import chunks_of, seen, tensors_of
from tests.kv.test_pages import pinned_chunks, uploaded

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left"), pytest.mark.both]

PAGES = 7
LAYOUTS = {
    "heads outside": kv.Layout(
        layers=3, heads=2, dim=8, dtype="float16", page_tokens=4, chunk_tokens=16, axes="PBHTD"
    ),
    "fused, of single bytes, padded": kv.Layout(
        layers=2, heads=3, dim=3, dtype="float8_e4m3fn", page_tokens=2, chunk_tokens=6,
        axes="BTHPD", strides={"T": 19},
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kernels are compiled once for all tests here."""
    return tmp_path_factory.mktemp("kernels")


def opened_runtime(cache_dir):
    """A runtime on the device that a test has."""
    return ajit.open_runtime(device="cuda" if ON_GPU else "cpu", cache_dir=cache_dir)


@pytest.fixture
def by_kernel(monkeypatch):
    """Kernels serve, whatever was measured."""
    monkeypatch.setattr(kernels, "GAIN", 0.0)


@pytest.mark.parametrize("by_slot", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.usefixtures("by_kernel")
async def test_a_kernel_copies_the_same_bytes(cache_dir, name, by_slot):
    """Both directions, gaps, pages and slots, a chunk in part, steps and gates."""
    layout, blocks = LAYOUTS[name], [5, -1, 0, 3, 6]
    tensors = tensors_of(layout, PAGES)
    expected = chunks_of(layout, seen(layout, tensors, PAGES), blocks)
    ids = blocks
    if by_slot:
        tokens = layout.page_tokens
        ids = [block * tokens + t if block >= 0 else -1 for block in blocks for t in range(tokens)]
    async with opened_runtime(cache_dir) as rt:
        device = rt.device
        buffers, computing = await uploaded(device, tensors), await device.create_stream()
        chunks, memory = await pinned_chunks(device, layout, len(expected))
        async with kv.open_pages(rt, layout, buffers, pages=PAGES) as pages:
            await pages.wait_for_kernels()
            await (await pages.save(ids, chunks, slots=by_slot))
            assert expected.tobytes() == bytes(memory.view())
            for buffer in buffers:
                device.fill(buffer, 0x5A, stream=computing)
            load = await pages.load(chunks, ids, slots=by_slot, after=computing, gates=True)
            load.gate(computing, layout.layers - 1)
            await computing.synchronize()
            for layer in range(layout.layers):
                await load.layer(layer)
            await load
            statistics = pages.statistics()
        found = [np.asarray(await device.download(buffer)) for buffer in buffers]

    before, after = seen(layout, tensors, PAGES), seen(layout, found, PAGES)
    assert all((after[:, :, block] == before[:, :, block]).all() for block in blocks if block >= 0)
    assert set(after[:, :, [1, 2, 4]].tobytes()) == {0x5A}
    assert statistics.by_kernel == 2
    assert len(statistics.ways) == 4
    assert all(way.by_kernel for way in statistics.ways)


@pytest.mark.usefixtures("by_kernel")
async def test_chunks_that_a_kernel_cannot_reach_are_copied_by_the_driver(cache_dir):
    """Memory that is not pinned, or lies at odd addresses: a GPU's thread could not read it."""
    layout, blocks = LAYOUTS["heads outside"], [0, 1, 2, 3]
    tensors = tensors_of(layout, PAGES)
    expected = chunks_of(layout, seen(layout, tensors, PAGES), blocks).tobytes()
    async with opened_runtime(cache_dir) as rt:
        buffers = await uploaded(rt.device, tensors)
        pinned = await rt.device.alloc_pinned(layout.chunk_bytes + 1)
        plain = bytearray(layout.chunk_bytes)
        async with kv.open_pages(rt, layout, buffers) as pages:
            await pages.wait_for_kernels()
            await (await pages.save(blocks, [plain]))
            await (await pages.save(blocks, kv.Chunks(pinned, [1])))
            assert pages.statistics().by_kernel == 0
            await (await pages.save(blocks, [pinned.view()[: layout.chunk_bytes]]))
            assert pages.statistics().by_kernel == 1
            shared = mmap.mmap(-1, mmap.PAGESIZE)
            await (await pages.save(blocks, kv.Chunks(shared, [16])))
            assert pages.statistics().by_kernel == 1
            registration = await rt.device.register_host(shared)
            await (await pages.save(blocks, kv.Chunks(shared, [16])))
            assert pages.statistics().by_kernel == 2
        await registration.aclose()

        assert expected == shared[16 : 16 + layout.chunk_bytes] == bytes(plain)
        assert expected == bytes(pinned.view())[: layout.chunk_bytes]


@pytest.mark.usefixtures("by_kernel")
async def test_memory_given_back_before_the_submission_is_copied_by_the_driver(
    cache_dir, monkeypatch
):
    """A kernel would touch what the driver knows no more: an illegal address, on a GPU."""
    layout, blocks = LAYOUTS["heads outside"], [0, 1, 2, 3]
    tensors = tensors_of(layout, PAGES)
    expected = chunks_of(layout, seen(layout, tensors, PAGES), blocks).tobytes()
    async with opened_runtime(cache_dir) as rt:
        buffers, shared = await uploaded(rt.device, tensors), mmap.mmap(-1, mmap.PAGESIZE)
        registration = await rt.device.register_host(shared)
        async with kv.open_pages(rt, layout, buffers) as pages:
            await pages.wait_for_kernels()
            submit = rt.device.submit

            async def later(function, **how):
                await registration.aclose()
                return await submit(function, **how)

            monkeypatch.setattr(rt.device, "submit", later)
            before = rt.device.statistics().launches
            await (await pages.save(blocks, kv.Chunks(shared, [16])))
            assert rt.device.statistics().launches == before

        assert expected == shared[16 : 16 + layout.chunk_bytes]


async def test_a_layout_with_scales_is_copied_by_the_driver(cache_dir):
    """And the statistics say why."""
    layout = kv.Layout(
        layers=2, heads=1, dim=8, dtype="uint8", page_tokens=4, chunk_tokens=8, planes=1,
        axes="BTHD", scales=kv.Scales(block=4),
    )  # fmt: skip
    async with opened_runtime(cache_dir) as rt:
        buffers = await uploaded(rt.device, tensors_of(layout, PAGES))
        async with kv.open_pages(rt, layout, buffers) as pages:
            await pages.wait_for_kernels()
            statistics = pages.statistics()

    assert "without a kernel" in statistics.kernel_problem
    assert statistics.ways == ()


async def test_the_faster_way_is_taken(cache_dir):
    """What was measured says which, for each direction and kind of number."""
    layout = LAYOUTS["heads outside"]
    async with opened_runtime(cache_dir) as rt:
        buffers = await uploaded(rt.device, tensors_of(layout, PAGES))
        chunks, _ = await pinned_chunks(rt.device, layout, 1)
        async with kv.open_pages(rt, layout, buffers) as pages:
            await pages.wait_for_kernels()
            await (await pages.load(chunks, [0]))
            statistics = pages.statistics()

    way = next(way for way in statistics.ways if not (way.to_host or way.by_slot))
    assert way.by_kernel == (way.kernel_seconds * 1.25 < way.copy_seconds)
    assert statistics.by_kernel == int(way.by_kernel)
    assert way.piece_bytes == statistics.piece_bytes == 16


async def test_without_a_kernel_the_copy_engine_serves(tmp_path):
    """A runtime that may not compile any more: no request fails, and the statistics say why."""
    layout = LAYOUTS["heads outside"]
    async with opened_runtime(tmp_path) as rt:
        rt.freeze("error")
        buffers = await uploaded(rt.device, tensors_of(layout, PAGES))
        chunks, _ = await pinned_chunks(rt.device, layout, 1)
        async with kv.open_pages(rt, layout, buffers) as pages:
            await pages.wait_for_kernels()
            await (await pages.load(chunks, [0]))

            assert "copy_pages" in pages.statistics().kernel_problem
            assert pages.statistics().by_kernel == 0


async def test_leaving_does_not_wait_for_a_compiler(tmp_path):
    """And an error of the block comes out as it is."""
    layout = LAYOUTS["heads outside"]
    async with opened_runtime(tmp_path) as rt:
        buffers = await uploaded(rt.device, tensors_of(layout, PAGES))
        with anyio.fail_after(30), pytest.raises(KeyError):
            async with kv.open_pages(rt, layout, buffers):
                raise KeyError


async def test_another_task_may_close_what_one_opened(cache_dir):
    """As fixtures, engines and notebooks do (anyio #304)."""
    layout = LAYOUTS["heads outside"]
    async with opened_runtime(cache_dir) as rt, anyio.create_task_group() as tasks:
        buffers = await uploaded(rt.device, tensors_of(layout, PAGES))
        stack = AsyncExitStack()

        pages = await stack.enter_async_context(kv.open_pages(rt, layout, buffers))
        tasks.start_soon(stack.aclose)
    assert "closed" in repr(pages)


async def test_large_pieces_need_no_kernel(cache_dir):
    """Nothing is compiled where the copy engine is as fast as the bus."""
    layout = kv.Layout(layers=1, heads=8, dim=128, dtype="float32", page_tokens=16, axes="PBTHD")
    async with opened_runtime(cache_dir) as rt:
        buffers = await uploaded(rt.device, tensors_of(layout, 2))
        async with kv.open_pages(rt, layout, buffers) as pages:
            await pages.wait_for_kernels()

            assert not any(way for way in pages.statistics().ways if not way.by_slot)


@pytest.mark.parametrize("name", LAYOUTS)
async def test_it_compiles_for_a_gpu(cache_dir, name):
    """Where there is none: NVRTC takes what the CPU driver runs."""
    layout = LAYOUTS[name]
    format_ = layout.format(PAGES)
    async with ajit.open_runtime(device="none", cache_dir=cache_dir) as rt:
        for form in (format_.by_page, format_.by_slot):
            for word_bytes in (1, 2, 4, 8, 16):
                if form.piece_bytes % word_bytes == 0:
                    spec = kernel_spec(form, word_bytes, to_host=True)
                    assert (await rt.compile(spec, arch="sm_90a")).entries == ("copy_pages",)


def test_a_block_is_full_whatever_the_size_of_a_page():
    """Small pages share a block; the grid is capped, so that the engine keeps the device."""
    none = (1, 0, 0), (1, 0, 0)
    for piece_bytes, expected in [(16, (32, 32)), (4096, (256, 4)), (1 << 16, (1024, 1))]:
        form = PageIds(4, 4, piece_bytes, none, piece_bytes)

        assert (expected, 12) == launch_shape(form, 16, "cuda")
        assert ((1, 1), 16) == launch_shape(form, 16, "cpu")
