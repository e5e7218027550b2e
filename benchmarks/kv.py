"""Pages of a KV cache saved and loaded: speed to the end of the device's work, and the loop's time.

Every byte that was copied is compared with what NumPy makes of the same pages, outside of the
times. Beside it, in the same run and of the same size: one memmove, and ``numpy.take`` of the pages
of each layer, which is what a program without a device would write.
"""

from __future__ import annotations

import ctypes
import importlib
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
import numpy as np

import ajit
from ajit import kv
from benchmarks.harness import GB, Row, Sample

PARTS = ("kv_pieces", "kv_ping", "kv_peers")
"""More of it: pieces of many sizes, pings of the service, and LMCache where it is installed."""
RUNS = 15
MEMMOVE_SHARE = 0.7
LOOP_SECONDS = 1e-3
MANY_PAGES = 8192
SHAPES = {
    "256 MiB, 32 layers, pages of 16 tokens, fp16": (
        kv.Layout(layers=32, heads=8, dim=128, dtype="float16", page_tokens=16), 128,
    ),
    "266 MiB of MLA, 61 layers, pages of 64 tokens, bf16": (
        kv.Layout(layers=61, planes=1, heads=1, dim=576, dtype="bfloat16", page_tokens=64,
                  axes="BTHD"), 62,
    ),
}  # fmt: skip


@dataclass
class Times:
    """What one shape took."""

    nbytes: int
    load: list[float]
    save: list[float]
    first_layer: list[float]
    memmove: list[float]
    take: list[float]


def rows() -> list[Row]:
    """Measure."""
    found = [row for what in SHAPES for row in _rows(what, anyio.run(measure, *SHAPES[what]))]
    found += [*anyio.run(_loop_time), *anyio.run(_small_pieces)]
    for name in PARTS:
        found += importlib.import_module(f"benchmarks.{name}").rows()
    return found


def _rows(what: str, times: Times) -> list[Row]:
    speed = {name: times.nbytes / statistics.median(getattr(times, name)) / GB
             for name in ("load", "save", "memmove", "take")}  # fmt: skip
    beside = f"memmove {speed['memmove']:.1f}, numpy.take {speed['take']:.1f} GB/s"
    share = statistics.median(times.first_layer) / statistics.median(times.load)
    found = []
    for name in ("save", "load"):
        met = speed[name] >= MEMMOVE_SHARE * speed["memmove"]
        budget = f"{MEMMOVE_SHARE:.0%} of memmove"
        found.append(Row(f"{name} {what}", f"{speed[name]:.1f} GB/s", budget, met, beside))
    first = Row(f"load {what}: first layer there after", f"{share:.1%} of the whole")
    return [*found, first]


async def measure(layout: kv.Layout, count: int) -> Times:
    """Save and load so many pages in a random order, and compare every byte.

    Args:
        layout: Of the pages.
        count: How many there are.
    """
    random = np.random.default_rng(0)
    blocks = random.permutation(count).astype(np.int32)
    chunk_count = -(-count // layout.chunk_pages)
    async with ajit.open_runtime(device="cpu") as rt:
        alloc, shape = rt.device.alloc, layout.shape(count)
        tensors = [await alloc(shape, layout.dtype) for _ in range(layout.tensors)]
        memory = await rt.device.alloc_pinned(chunk_count * layout.chunk_bytes)
        host = np.asarray(memory.view())
        host[:] = random.integers(0, 256, host.size, np.uint8)
        chunks = kv.Chunks(memory, [i * layout.chunk_bytes for i in range(chunk_count)])
        async with kv.open_pages(rt.device, layout, tensors) as pages:
            times = await _transfers(pages, chunks, blocks, host)
            expected = _gathered(layout, host, count)
            await _verify(rt.device, layout, tensors, blocks, expected)
            host[:] = 0
            await (await pages.save(blocks, chunks))
            assert (_gathered(layout, host, count) == expected).all(), "wrong bytes were saved"
    return times


async def _transfers(pages: kv.Pages, chunks: kv.Chunks, blocks: Any, host: Any) -> Times:
    """All of it in turn, so that what else the machine does meets all alike."""
    times = Times(0, [], [], [], [], [])
    rows = pages.layout.layers * pages.layout.planes
    peers = Peers(host[: rows * len(blocks) * pages.layout.page_tokens * pages.layout.row_bytes])
    for _ in range(RUNS):
        load = await pages.load(chunks, blocks)
        await load.layer(0)
        await load
        times.first_layer.append(load.layer(0).seconds or 0.0)
        times.load.append(load.seconds or 0.0)
        save = await pages.save(blocks, chunks)
        await save
        times.save.append(save.seconds or 0.0)
        times.memmove.append(peers.memmove())
        times.take.append(peers.take(rows, blocks))
    times.nbytes = load.nbytes
    return times


class Peers:
    """What has the same bytes to move."""

    def __init__(self, source: Any, target: Any = None) -> None:
        self._source = source
        self._target = np.zeros_like(source) if target is None else target
        self._target[:] = 1  # its memory is there

    def memmove(self) -> float:
        target, source = self._target.ctypes.data, self._source.ctypes.data
        return _seconds(lambda: ctypes.memmove(target, source, self._source.size))

    def take(self, rows: int, blocks: Any) -> float:
        pages = self._source.reshape(rows, len(blocks), -1)
        out = self._target.reshape(pages.shape)
        return _seconds(lambda: np.take(pages, blocks, axis=1, out=out, mode="clip"))


def _gathered(layout: kv.Layout, host: Any, count: int) -> Any:
    """The chunks as pages: axes layer, plane, page in the order of the request, bytes."""
    page_bytes = layout.page_tokens * layout.row_bytes
    shape = (-1, layout.layers, layout.planes, layout.chunk_pages, page_bytes)
    pages = host.reshape(shape).transpose(1, 2, 0, 3, 4)
    return pages.reshape(layout.layers, layout.planes, -1, page_bytes)[:, :, :count].copy()


async def _verify(device: Any, layout: kv.Layout, tensors: Any, blocks: Any, expected: Any) -> None:
    for layer, tensor in enumerate(tensors):
        found = np.frombuffer((await device.download(tensor)).data, np.uint8)
        found = found.reshape(layout.planes, len(blocks), -1)[:, blocks]
        assert (found == expected[layer]).all(), f"wrong bytes were loaded into layer {layer}"


def _seconds(function: Callable[[], object]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


async def _loop_time() -> list[Row]:
    """How long the loop is busy with a request of many pages; and with as many pairs in Python."""
    layout = kv.Layout(layers=8, planes=1, heads=1, dim=64, dtype="float16", page_tokens=16,
                       axes="BTHD")  # fmt: skip
    blocks = np.random.default_rng(0).permutation(MANY_PAGES).astype(np.int32)
    count = MANY_PAGES // layout.chunk_pages
    async with ajit.open_runtime(device="cpu") as rt:
        device = rt.device
        tensors = [await device.alloc(layout.shape(MANY_PAGES), "float16") for _ in range(8)]
        memory = await device.alloc_pinned(count * layout.chunk_bytes)
        chunks = kv.Chunks(memory, [i * layout.chunk_bytes for i in range(count)])
        requests, pairs = [], []
        async with kv.open_pages(device, layout, tensors) as pages:
            for _ in range(RUNS):
                begun = time.perf_counter()
                load = await pages.load(chunks, blocks)
                requests.append(time.perf_counter() - begun)
                await load
        page_bytes = tensors[0].nbytes // MANY_PAGES
        there = tensors[0].view("uint8", (tensors[0].nbytes,))
        here = memory.view()
        for _ in range(3):
            batch = device.batch()
            begun = time.perf_counter()
            batch.add_copies(
                (
                    there[i * page_bytes : (i + 1) * page_bytes],
                    here[i * page_bytes : (i + 1) * page_bytes],
                )
                for i in blocks.tolist()
            )
            pairs.append(time.perf_counter() - begun)
    sample, beside = Sample(tuple(requests)), Sample(tuple(pairs))
    what = f"loop time of one load of {MANY_PAGES} pages, {count} chunks"
    met = sample.median < LOOP_SECONDS
    return [Row(what, str(sample), "1 ms", met, f"one layer by add_copies: {beside}")]


async def _small_pieces() -> list[Row]:
    """What is measured to choose between copies and a kernel, where heads come before tokens."""
    found = []
    for dim in (64, 128, 512):
        layout = kv.Layout(layers=1, heads=8, dim=dim, dtype="float16", page_tokens=16,
                           axes="PBHTD")  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="ajit-bench-") as cache_dir:
            async with ajit.open_runtime(device="cpu", cache_dir=cache_dir) as rt:
                tensor = await rt.device.alloc(layout.shape(32), "float16")
                async with kv.open_pages(rt, layout, [tensor]) as pages:
                    await pages.wait_for_kernels()
                    ways = pages.statistics().ways
        found += [_way(layout, way) for way in ways if not way.by_slot]
    return found


def _way(layout: kv.Layout, way: kv.PageWay) -> Row:
    copies, kernel = (
        layout.chunk_bytes / seconds / GB for seconds in (way.copy_seconds, way.kernel_seconds)
    )
    direction = "save" if way.to_host else "load"
    what = f"{direction} in pieces of {way.piece_bytes} B, a chunk that fits into the caches"
    chosen = "a kernel" if way.by_kernel else "copies"
    return Row(what, chosen, beside=f"copies {copies:.1f}, kernel {kernel:.1f} GB/s")
