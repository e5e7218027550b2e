"""OpenTelemetry: the spans and metrics of a real runtime, in the SDK's own exporters."""

from __future__ import annotations

import anyio
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

import ajit
from ajit import kv
from ajit.instrumentation import opentelemetry
from tests.runtime.sources import ARCH, SAXPY, SYNTAX_ERROR

pytestmark = pytest.mark.anyio


@pytest.fixture
def exporter():
    """Keeps the spans."""
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter):
    """A tracer provider that exports at once."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider
    provider.shutdown()


async def test_request_is_a_span_below_the_callers_with_its_parts_inside(
    with_device, exporter, tracing
):
    """Key, compile and load; each lies within what it is a part of."""
    tracer = tracing.get_tracer("server")
    async with (
        ajit.open_runtime(**with_device) as rt,
        opentelemetry.instrument(rt, tracer_provider=tracing),
    ):
        with tracer.start_as_current_span("POST /v1/infer") as caller:
            await rt.kernel(SAXPY)

    spans = {span.name: span for span in exporter.get_finished_spans()}
    request = spans["ajit.kernel"]
    assert request.parent.span_id == caller.get_span_context().span_id
    assert spans["ajit.load"].parent.span_id == caller.get_span_context().span_id
    for name in ("ajit.key", "ajit.compile"):
        assert spans[name].parent.span_id == request.context.span_id
        assert request.start_time <= spans[name].start_time + 1_000_000
        assert spans[name].end_time <= request.end_time + 1_000_000
    assert request.attributes["ajit.tier"] == "compiled"
    assert request.attributes["ajit.kernel"] == request.attributes["ajit.entry"] == "saxpy"
    assert spans["ajit.compile"].attributes["ajit.arch"] == ARCH


async def test_failed_compile_is_a_span_with_an_error(options, exporter, tracing):
    """With the compiler's first line."""
    async with (
        ajit.open_runtime(**options) as rt,
        opentelemetry.instrument(rt, tracer_provider=tracing),
    ):
        with pytest.raises(ajit.CompileError):
            await rt.compile(SYNTAX_ERROR, arch=ARCH)

    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert spans["ajit.kernel"].status.status_code is StatusCode.ERROR
    assert "broken" in spans["ajit.kernel"].status.description
    assert spans["ajit.compile"].parent.span_id == spans["ajit.kernel"].context.span_id


async def test_cancelled_compile_is_a_span_with_an_error(options, compiler, exporter, tracing):
    """Its parts are told with it, and not with the next request for the key."""
    compiler.hold()
    options["abandoned"] = "cancel"
    async with (
        ajit.open_runtime(**options) as rt,
        opentelemetry.instrument(rt, tracer_provider=tracing),
    ):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: rt.compile(SAXPY, arch=ARCH))
            await compiler.wait_started()
            group.cancel_scope.cancel()
        compiler.let_go()
        await rt.compile(SAXPY, arch=ARCH)

    kernels = [s for s in exporter.get_finished_spans() if s.name == "ajit.kernel"]
    compiles = [s for s in exporter.get_finished_spans() if s.name == "ajit.compile"]
    descriptions = [(s.status.status_code, s.status.description) for s in kernels]
    assert descriptions == [(StatusCode.ERROR, "cancelled"), (StatusCode.UNSET, None)]
    assert [s.parent.span_id for s in compiles] == [s.context.span_id for s in kernels]


async def test_hit_is_a_span_with_the_read_inside(options, exporter, tracing):
    """No compile in it."""
    async with ajit.open_runtime(**options) as rt:
        await rt.compile(SAXPY, arch=ARCH)
        async with opentelemetry.instrument(rt, tracer_provider=tracing):
            await rt.compile(SAXPY, arch=ARCH)

    names = sorted(span.name for span in exporter.get_finished_spans())
    assert names == ["ajit.kernel", "ajit.key", "ajit.read"]


async def test_metrics_have_units_and_the_same_figures(options):
    """Counters and gauges by callback, durations as histograms."""
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    async with (
        ajit.open_runtime(**options) as rt,
        opentelemetry.instrument(rt, meter_provider=provider),
    ):
        await rt.compile(SAXPY, arch=ARCH)
        data = reader.get_metrics_data()
    (resource,) = data.resource_metrics
    found = {each.name: each for scope in resource.scope_metrics for each in scope.metrics}
    provider.shutdown()

    compiles = found["ajit.compile_duration"]
    (point,) = compiles.data.data_points
    assert (compiles.unit, point.count, dict(point.attributes)) == ("s", 1, {"compiler": "host"})
    assert found["ajit.cache_limit"].unit == "By"
    (slots,) = found["ajit.compile_slots"].data.data_points
    assert slots.value == 2


async def test_device_work_is_a_span_below_that_of_its_task(with_device, exporter, tracing):
    """Launch and copies, with their outcome; without a recorded span there is none."""
    tracer = tracing.get_tracer("server")
    async with (
        ajit.open_runtime(**with_device) as rt,
        opentelemetry.instrument(rt, tracer_provider=tracing),
    ):
        kernel = await rt.kernel(SAXPY)
        with tracer.start_as_current_span("POST /v1/infer") as caller:
            x = await rt.device.upload(bytes(64))
            await kernel.launch(1, 16, 2.0, x, x, 16)
            await rt.device.download(x)
        await rt.device.download(x)

    spans = exporter.get_finished_spans()
    work = [span for span in spans if span.name in ("ajit.launch", "ajit.transfer")]
    assert [span.attributes["ajit.operation"] for span in work] == [
        "upload 64 bytes", "launch saxpy", "download 64 bytes",
    ]  # fmt: skip
    assert {span.parent.span_id for span in work} == {caller.get_span_context().span_id}
    assert {span.attributes["ajit.outcome"] for span in work} == {"done"}
    assert all(span.start_time <= span.end_time for span in work)


async def test_kv_transfer_is_a_span(with_device, exporter, tracing):
    """Of its own name, with its size; one that failed has an error."""
    tracer = tracing.get_tracer("server")
    layout = kv.Layout(layers=2, heads=1, dim=8, dtype="float16", page_tokens=4, chunk_tokens=8)
    async with (
        ajit.open_runtime(**with_device) as rt,
        opentelemetry.instrument(rt, tracer_provider=tracing),
    ):
        tensors = [await rt.device.alloc(layout.shape(4), "float16") for _ in range(2)]
        async with kv.open_pages(rt.device, layout, tensors) as pages:
            with tracer.start_as_current_span("POST /v1/infer"):
                await (await pages.load([bytearray(layout.chunk_bytes)], [2, 3]))

    (span,) = [each for each in exporter.get_finished_spans() if each.name == "ajit.kv.transfer"]
    assert span.attributes["ajit.operation"] == f"load pages, {layout.chunk_bytes} bytes"


async def test_error_of_the_block_comes_out_as_it_is(options):
    """Not as a group."""
    async with ajit.open_runtime(**options) as rt:
        with pytest.raises(KeyError):
            async with opentelemetry.instrument(rt):
                raise KeyError("what the server raised")
