"""What it costs to have every exporter on: the hot path beside the same without, and an event."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import prometheus_client
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import ajit
from ajit import events
from ajit.instrumentation import opentelemetry, prometheus
from benchmarks.harness import Row, Sample

SPEC = ajit.Spec('extern "C" __global__ void nothing(int n) {}', "nothing", params="int n")
CALLS = 2000
ROUNDS = 40
EVENTS = 5000


def rows() -> list[Row]:
    """Measure both in turn, in one process, so that a busy machine is busy for both."""
    kernel, launch, event = anyio.run(_measure)
    return [
        _row("rt.kernel() of a loaded kernel, all exporters on", *kernel),
        _row("kernel.launch(), likewise", *launch),
        Row("an event, to the log alone", str(event[0])),
        Row("an event, to all exporters, a span for each", str(event[1])),
    ]


def _row(what: str, without: list[float], having: list[float]) -> Row:
    ratio = statistics.median(b / a for a, b in zip(without, having, strict=True))
    plain, full = Sample(tuple(without)), Sample(tuple(having))
    return Row(what, f"{ratio:.3f} times: {full}", "1.05 times", ratio <= 1.05, f"without: {plain}")


Pair = tuple[list[float], list[float]]


async def _measure() -> tuple[Pair, Pair, tuple[Sample, Sample]]:
    with tempfile.TemporaryDirectory(prefix="ajit-bench-") as folder:
        async with (
            ajit.open_runtime(device="cpu", cache_dir=Path(folder) / "cache") as plain,
            AsyncExitStack() as stack,
        ):
            full = await _instrumented(stack, Path(folder))
            kernels = [await rt.kernel(SPEC) for rt in (plain, full)]

            async def look(rt: ajit.Runtime) -> None:
                await rt.kernel(SPEC)

            async def launch(rt: ajit.Runtime) -> None:
                kernels[rt is full].launch(1, 1, 7)
                if rt.device.statistics().in_flight > 500:
                    await rt.device.synchronize()

            looks = await _in_turn(plain, full, look)
            launches = await _in_turn(plain, full, launch)
            emitted = _events_to(plain), _events_to(full)
    return looks, launches, emitted


async def _instrumented(stack: AsyncExitStack, folder: Path) -> ajit.Runtime:
    opened = ajit.open_runtime(
        device="cpu", cache_dir=folder / "cache", trace=folder / "trace.json"
    )
    rt = await stack.enter_async_context(opened)
    registry = prometheus_client.CollectorRegistry()
    await stack.enter_async_context(prometheus.instrument(rt, registry=registry))
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    metering = MeterProvider([InMemoryMetricReader()])
    await stack.enter_async_context(
        opentelemetry.instrument(rt, tracer_provider=tracing, meter_provider=metering)
    )
    return rt


async def _in_turn(
    plain: ajit.Runtime, full: ajit.Runtime, call: Callable[[ajit.Runtime], Awaitable[None]]
) -> Pair:
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for index, rt in enumerate((plain, full)):
            begun = time.perf_counter()
            for _ in range(CALLS):
                await call(rt)
            seconds[index].append((time.perf_counter() - begun) / CALLS)
            await rt.device.synchronize()
    return seconds


def _events_to(rt: ajit.Runtime) -> Sample:
    """What it takes the event loop to emit one."""
    emitter = rt._emitter  # noqa: SLF001  # no event is emitted by itself
    taken = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for number in range(EVENTS // ROUNDS):
            about = {"name": "nothing", "key": f"{number:064x}", "entry_key": "", "tier": "disk"}
            emitter.emit(events.KernelReady(**about, seconds=0.001, size_bytes=1))
        taken.append((time.perf_counter() - begun) / (EVENTS // ROUNDS))
    return Sample(tuple(taken))
