"""A cell of `benchmarks.completion`: ajit, and a hop through a thread that does nothing.

Arguments: the loop, the number of busy threads, the device, the effort.
"""

from __future__ import annotations

import asyncio  # the peer is asyncio.to_thread itself
import json
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import anyio

import ajit
from benchmarks.completion_work import (
    BURSTS,
    LOOPS,
    SOURCE,
    Effort,
    Measured,
    bursts,
    busy_threads,
    single,
    times,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BATCHES = (1, 10, 200)
SUBMITTED = 64
IDLE_SECONDS = 10.0
HOP = "a hop through a thread"


async def measure(loop: str, busy: int, device: str, effort: Effort) -> list[Measured]:
    """Measure everything on one loop."""
    spec = ajit.Spec(SOURCE, "nothing", params="float* x, int n")
    with tempfile.TemporaryDirectory(prefix="ajit-bench-") as cache_dir:
        async with ajit.open_runtime(device=device, cache_dir=cache_dir) as rt:
            kernel = await rt.kernel(spec)
            buffer = await rt.device.alloc(4)
            with busy_threads(busy):
                made = await _measure(loop, rt.device, kernel, buffer, effort)
            if not busy:
                made += await _submitting(rt.device, kernel, buffer)
                made.append(await _idle(effort))
    return made


async def _measure(
    loop: str, device: Any, kernel: Any, buffer: Any, effort: Effort
) -> list[Measured]:
    async def launch() -> None:
        await kernel.launch(1, 1, buffer, 1)

    async def in_order(count: int) -> None:
        for ticket in [kernel.launch(1, 1, buffer, 1) for _ in range(count)]:
            await ticket

    hop = _hop(loop)
    made = await single("ajit", launch, effort) + await single(HOP, hop, effort)
    made += await bursts("ajit", launch, effort) + await bursts(HOP, hop, effort)
    for count in effort.in_flight:
        values = await times(lambda n=count: in_order(n), BURSTS, effort.seconds, pause=True)
        made.append(Measured.of("ajit", "one task awaits all", count, values))
    return made + await _batches(device, kernel, buffer, effort)


async def _batches(device: Any, kernel: Any, buffer: Any, effort: Effort) -> list[Measured]:
    bound = kernel.bind(1, 1, buffer, 1)
    made = []
    for count in BATCHES:

        async def batch(count: int = count) -> None:
            batch = device.batch()
            for _ in range(count):
                batch.add_bound(bound)
            await batch.submit()

        values = await times(batch, BURSTS * 5, effort.seconds, pause=True)
        made.append(Measured.of("ajit", "a batch", count, values))
    return made


def _hop(loop: str) -> Callable[[], Awaitable[object]]:
    if loop == "trio":
        return lambda: anyio.to_thread.run_sync(int)
    return lambda: asyncio.to_thread(int)


async def _submitting(device: Any, kernel: Any, buffer: Any) -> list[Measured]:
    """What submitting costs the loop, without the waiting."""
    bound = kernel.bind(1, 1, buffer, 1)
    batched, added, alone = [], [], []
    for _ in range(200):
        batch, begun = device.batch(), time.perf_counter()
        for _ in range(SUBMITTED):
            batch.add_launch(kernel, 1, 1, buffer, 1)
        ticket = batch.submit()
        batched.append(time.perf_counter() - begun)
        await ticket
        batch, begun = device.batch(), time.perf_counter()
        for _ in range(SUBMITTED):
            batch.add_bound(bound)
        ticket = batch.submit()
        added.append(time.perf_counter() - begun)
        await ticket
        begun = time.perf_counter()
        ticket = kernel.launch(1, 1, buffer, 1)
        alone.append(time.perf_counter() - begun)
        await ticket
    return [
        Measured.of("ajit", "submitting launches in a batch", SUBMITTED, batched),
        Measured.of("ajit", "submitting bound launches in a batch", SUBMITTED, added),
        Measured.of("ajit", "submitting one launch", 1, alone),
    ]


async def _idle(effort: Effort) -> Measured:
    """Processor time that an idle open runtime takes."""
    used = time.process_time()
    seconds = min(IDLE_SECONDS, effort.seconds * 5)
    await anyio.sleep(seconds)
    share = (time.process_time() - used) / seconds
    return Measured.of("ajit", "processor seconds per second, open and unused", 1, [share])


def main(arguments: list[str]) -> None:
    """Print what was measured."""
    loop, busy, device, effort = arguments
    backend, options = LOOPS[loop]
    made = anyio.run(
        measure, loop, int(busy), device, Effort.named(effort),
        backend=backend, backend_options=options,
    )  # fmt: skip
    print(json.dumps([measured.to_json() for measured in made]))


if __name__ == "__main__":
    main(sys.argv[1:])
