"""The cell of `benchmarks.inversion` whose work is a KV cache: loads and saves, some cancelled.

Chunks are loaded into pages, and the pages are saved into other chunks when that is done, on the
device. What comes back is compared with what went out, of every window, with new bytes in each.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np

from ajit import kv
from ajit._gpu.device import open_device
from ajit.settings import Settings
from benchmarks.inversion_cell import Driver, _ok, foreign_library, python_callback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LAYOUT = kv.Layout(layers=2, heads=2, dim=8, dtype="float16", page_tokens=4, chunk_tokens=8)
PLACES = 64
"""Chunks at a time, each with pages of its own: as many loads and as many saves are in flight."""
CANCELLED_ONE_IN = 7


async def drive_kv(path: str, count: int, at: Callable[[int], None], beside: str) -> None:
    """Do so many transfers beside another library that uses the driver on a thread of its own.

    Args:
        path: Of the driver's library.
        count: How many loads and saves, together.
        at: Told how many are done.
        beside: ``foreign``: it enters the driver with the GIL held. ``callbacks``: its host
            functions are written in Python.
    """
    kind = "cuda" if path.startswith("libcuda") else "cpu"
    other = {"foreign": foreign_library, "callbacks": python_callbacks}[beside]
    async with open_device(Settings(environ={}, device=kind)) as device:
        pages_each = LAYOUT.chunk_pages
        tensors = [
            await device.alloc(LAYOUT.shape(PLACES * pages_each), LAYOUT.dtype)
            for _ in range(LAYOUT.tensors)
        ]
        out, back = [await _chunks(device) for _ in range(2)]
        async with kv.open_pages(device, LAYOUT, tensors) as pages:
            with other(path):
                done = 0
                while done < count:
                    await _window(pages, out, back, done)
                    done += 2 * PLACES
                    at(min(done, count))


async def _chunks(device: Any) -> tuple[list[kv.Chunks], Any]:
    memory = await device.alloc_pinned(PLACES * LAYOUT.chunk_bytes)
    chunks = [kv.Chunks(memory, [i * LAYOUT.chunk_bytes]) for i in range(PLACES)]
    return chunks, np.asarray(memory.view())


async def _window(pages: kv.Pages, out: Any, back: Any, done: int) -> None:
    """Load chunks, save them elsewhere, and compare."""
    (source, sent), (target, received) = out, back
    sent[:] = np.random.default_rng(done).integers(0, 256, sent.size, np.uint8)
    each = LAYOUT.chunk_pages
    transfers = []
    for i in range(PLACES):
        blocks = range(i * each, (i + 1) * each)
        load = await pages.load(source[i], list(blocks))
        save = await pages.save(list(blocks), target[i], after=load.ticket)
        transfers += [load, save]
    for i, transfer in enumerate(transfers):
        with anyio.CancelScope() as scope:
            if i % CANCELLED_ONE_IN == 0:
                scope.cancel()  # it only leaves
            await transfer
    for transfer in transfers:
        await transfer
    if not (sent == received).all():
        raise AssertionError(f"wrong bytes came back at transfer {done}")


@contextmanager
def python_callbacks(path: str) -> Iterator[None]:
    """Another library, on a separate thread, whose host functions take the GIL on the driver's."""
    stop = threading.Event()

    def work() -> None:
        driver = Driver(path, holds_gil=False)
        stream = driver.stream()
        function, wait = python_callback("")
        pointer = ctypes.cast(function, ctypes.c_void_p)
        while not stop.is_set():
            _ok(driver.library.cuLaunchHostFunc(stream, pointer, None))
            driver.enter()
            wait()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
