"""From submitting device work to the task that goes on, beside a hop through a thread.

On the CPU driver: what is measured is ajit's own way there and back, and a driver that does next to
nothing. A GPU adds its own microseconds.
"""

from __future__ import annotations

import asyncio  # the peer is asyncio.to_thread itself
import tempfile
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio

import ajit
from benchmarks.harness import Row, Sample, seconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

SOURCE = 'extern "C" __global__ void nothing(float* x, int n) {}'
RUNS = 3000
HOPS = 500
BUSY_RUNS = 150
PAUSE_SECONDS = 0.001
"""Before each measurement beside a busy thread. Back to back, the loop and its helper thread pass
the GIL to one another many times before the busy thread gets it again, and nearly all hops look
free; a server's requests come to a loop that was asleep, with the busy thread at work."""
BATCH = 64
BACKENDS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("asyncio", "asyncio", {"use_uvloop": False}),
    ("uvloop", "asyncio", {"use_uvloop": True}),
    ("trio", "trio", {}),
)


def rows() -> list[Row]:
    """Measure on every loop."""
    made = []
    for name, backend, options in BACKENDS:
        made += anyio.run(_measure, name, backend=backend, backend_options=options)
    return made


async def _measure(name: str) -> list[Row]:
    spec = ajit.Spec.of(SOURCE, "nothing", "float* x, int n")
    with tempfile.TemporaryDirectory(prefix="ajit-bench-") as cache_dir:
        async with ajit.open_runtime(device="cpu", cache_dir=cache_dir) as rt:
            kernel = await rt.kernel(spec)
            buffer = await rt.device.alloc(4)

            async def launch() -> None:
                await kernel.launch(1, 1, buffer, 1)

            hop: Callable[[], Awaitable[object]] = anyio.to_thread.run_sync
            hop_name = "anyio.to_thread" if name == "trio" else "asyncio.to_thread"

            async def to_thread() -> None:
                await (hop(int) if name == "trio" else asyncio.to_thread(int))  # type: ignore[call-arg]

            idle, hops = await _times(launch, RUNS), await _times(to_thread, HOPS)
            with _busy_thread():
                busy = await _times(launch, BUSY_RUNS, PAUSE_SECONDS)
                busy_hops = await _times(to_thread, BUSY_RUNS, PAUSE_SECONDS)
            made = [
                _row(f"submit to resume, idle, {name}", idle, hops, hop_name, 8),
                _row(f"the same beside a busy thread, {name}", busy, busy_hops, hop_name, 100),
            ]
            if name == "asyncio":
                made += await _submitting(rt.device, kernel, buffer)
            return made


def _row(what: str, sample: Sample, hops: Sample, hop_name: str, factor: int) -> Row:
    ratio = hops.median / sample.median
    asked = f"{factor} times faster"
    met = ratio >= factor
    if factor == 8 and "asyncio" in what:
        asked, met = f"10 µs median, {asked}", met and sample.median <= 10e-6
    return Row(what, str(sample), asked, met, f"{hop_name}: {hops}: {ratio:.3g} times ajit's")


async def _times(
    operation: Callable[[], Awaitable[object]], runs: int, pause_seconds: float = 0.0
) -> Sample:
    for _ in range(runs // 10):
        await operation()
    values = []
    for _ in range(runs):
        if pause_seconds:
            await anyio.sleep(pause_seconds)
        begun = time.perf_counter()
        await operation()
        values.append(time.perf_counter() - begun)
    return Sample(tuple(values))


async def _submitting(device: Any, kernel: Any, buffer: Any) -> list[Row]:
    launched, added, single = [], [], []
    bound = kernel.bind(1, 1, buffer, 1)
    for _ in range(200):
        batch = device.batch()
        begun = time.perf_counter()
        for _ in range(BATCH):
            batch.launch(kernel, 1, 1, buffer, 1)
        ticket = batch.submit()
        launched.append((time.perf_counter() - begun) / BATCH)
        await ticket
        begun = time.perf_counter()
        for _ in range(BATCH):
            batch.add(bound)
        ticket = batch.submit()
        added.append((time.perf_counter() - begun) / BATCH)
        await ticket
        begun = time.perf_counter()
        ticket = kernel.launch(1, 1, buffer, 1)
        single.append(time.perf_counter() - begun)
        await ticket
    batched = Sample(tuple(launched))
    beside = f"bound launches: {seconds(Sample(tuple(added)).median)}; "
    beside += f"one launch by itself: {seconds(Sample(tuple(single)).median)}"
    what = f"one launch in a batch of {BATCH}, submitting side"
    return [Row(what, str(batched), "1 µs", batched.median <= 1e-6, beside)]


@contextmanager
def _busy_thread() -> Iterator[None]:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
