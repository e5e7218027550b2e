"""``await rt.kernel(spec)`` for a kernel that is loaded: what a server pays on every request."""

from __future__ import annotations

import tempfile
import time

import anyio

import ajit
from benchmarks.harness import Row, Sample

SOURCE = 'extern "C" __global__ void nothing(int n) {}'
CALLS = 2000
ROUNDS = 50


def rows() -> list[Row]:
    """Measure, beside a hop through a thread, which is what a blocking look-up would need."""
    kernel, hop, launch = anyio.run(_measure)
    return [
        Row("rt.kernel() of a loaded kernel", str(kernel), "1 µs median", kernel.median <= 1e-6,
            f"asyncio.to_thread of nothing: {hop}"),
        Row("kernel.launch(), the submitting side", str(launch)),
    ]  # fmt: skip


async def _measure() -> tuple[Sample, Sample, Sample]:
    spec = ajit.Spec(SOURCE, "nothing", params="int n")
    with tempfile.TemporaryDirectory(prefix="ajit-bench-") as cache_dir:
        async with ajit.open_runtime(device="cpu", cache_dir=cache_dir) as rt:
            kernel = await rt.kernel(spec)
            calls = Sample(tuple([await _calls(rt, spec) for _ in range(ROUNDS)]))
            hops = Sample(tuple([await _hop() for _ in range(500)]))
            launches = []
            for _ in range(500):
                begun = time.perf_counter()
                ticket = kernel.launch(1, 1, 7)
                launches.append(time.perf_counter() - begun)
                await ticket
    return calls, hops, Sample(tuple(launches))


async def _calls(rt: ajit.Runtime, spec: ajit.Spec) -> float:
    begun = time.perf_counter()
    for _ in range(CALLS):
        await rt.kernel(spec)
    return (time.perf_counter() - begun) / CALLS


async def _hop() -> float:
    begun = time.perf_counter()
    await anyio.to_thread.run_sync(int)
    return time.perf_counter() - begun
