"""Spans and metrics through OpenTelemetry's API; what exports them is the application's affair.

A span of a request has what it took apart: the key, the read of an entry, the wait for another
process, the compile. Its parent is the span that was current in the task which asked first, since
requests at the same time share the work. Nothing is told before the answer: a span that is under
way when its process dies is lost anyway.

Device work that is submitted where a recorded span is current is a span below it: launches, copies,
loads and saves of KV pages. Elsewhere it makes none, so that a server is not flooded.

Names of attributes are ``ajit.*``; units are seconds and bytes.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from opentelemetry import context as otel_context
from opentelemetry import metrics as otel_metrics
from opentelemetry import trace
from opentelemetry.metrics import CallbackOptions, Observation

from ajit import NoDevice, __version__, events
from ajit._system.own_block import open_in_own_task
from ajit.instrumentation.metrics import COUNTERS, GAUGES, HISTOGRAMS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from opentelemetry.metrics import Meter, MeterProvider
    from opentelemetry.trace import Tracer, TracerProvider

    from ajit import Runtime, RuntimeStatistics
    from ajit._gpu.completion.state import TicketState
    from ajit.instrumentation.metrics import Metric

__all__ = ["instrument"]

REFRESH_SECONDS = 1.0
"""How often the statistics are read."""

MOST_PENDING = 1000
"""Requests whose parts are kept until their answer; beyond it the oldest are forgotten."""


def instrument(
    rt: Runtime,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> AbstractAsyncContextManager[None]:
    """Make spans and metrics of a runtime while the block runs.

    Args:
        rt: The runtime; of this event loop.
        tracer_provider: Where spans go; the global one by default.
        meter_provider: Where metrics go; likewise.

    What the block raises comes out of it as it is, and any task may leave it.
    """
    exporting = partial(_exporting, rt, tracer_provider, meter_provider)
    return open_in_own_task(exporting, "spans and metrics for OpenTelemetry")


@asynccontextmanager
async def _exporting(
    rt: Runtime, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None
) -> AsyncIterator[None]:
    spans = _Spans(trace.get_tracer("ajit", __version__, tracer_provider))
    meter = otel_metrics.get_meter("ajit", __version__, meter_provider)
    figures = _Figures(rt, meter)
    stops = [rt.subscribe(spans), rt.subscribe(figures)]
    with suppress(NoDevice):
        stops.append(rt.device._watch_tickets(spans.take_ticket, _recorded_context))  # noqa: SLF001  # of ajit
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(figures.run)
            yield
            group.cancel_scope.cancel()
    finally:
        for stop in stops:
            stop()


_PARTS: dict[type[events.Event], tuple[str, Callable[[Any], float]]] = {
    events.KeyMade: ("ajit.key", lambda e: e.seconds),
    events.EntryRead: ("ajit.read", lambda e: e.seconds),
    events.WaitEnded: ("ajit.wait", lambda e: e.waited_seconds),
    events.CompileFinished: ("ajit.compile", lambda e: e.seconds),
    events.CompileFailed: ("ajit.compile", lambda e: e.seconds),
    events.CompileCancelled: ("ajit.compile", lambda e: e.seconds),
}


class _Spans:
    """Makes spans of events. Called in the task that does the work, with its caller's context."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._pending: dict[str, list[events.Event]] = {}

    def __call__(self, event: events.Event) -> None:
        """Keep a part until its request is answered, then tell both."""
        if type(event) in _PARTS:
            self._pending.setdefault(event.key, []).append(event)
            while len(self._pending) > MOST_PENDING:
                del self._pending[next(iter(self._pending))]
        if isinstance(event, events.KernelReady | events.BundleReady):
            self._request(event, event.seconds, error="")
        elif isinstance(event, events.CompileFailed | events.CompileCancelled):
            first = self._pending[event.key][0]
            since = event.unix_seconds - (first.unix_seconds - _seconds_of(first))
            self._request(event, since, error=_error_of(event))
        elif isinstance(event, events.ModuleLoaded):
            self._span("ajit.load", event, event.seconds, None)

    def take_ticket(self, ticket: TicketState[Any], context: Any) -> None:
        """Tell of device work that has ended; its context is that of its submission."""
        name = _name_of_work(ticket.operation)
        if context is None or not name:
            return
        ended = time.time_ns()
        span = self._tracer.start_span(
            name,
            context=context,
            start_time=ended - ticket.nanoseconds,
            attributes={"ajit.operation": ticket.operation, "ajit.outcome": ticket.outcome_name},
        )
        if ticket.outcome_name != "done":
            span.set_status(trace.StatusCode.ERROR, ticket.outcome_name)
        span.end(ended)

    def _request(self, event: events.Event, seconds: float, *, error: str) -> None:
        parts = self._pending.pop(event.key, [])
        kind = "build" if isinstance(event, events.BundleReady) else "kernel"
        span = self._tracer.start_span(
            f"ajit.{kind}",
            start_time=_nanoseconds(event.unix_seconds - seconds),
            attributes=_attributes(event),
        )
        if error:
            span.set_status(trace.StatusCode.ERROR, error)
        inside = trace.set_span_in_context(span)
        for part in parts:
            self._span(_PARTS[type(part)][0], part, _seconds_of(part), inside)
        span.end(_nanoseconds(event.unix_seconds))

    def _span(self, name: str, event: events.Event, seconds: float, context: Any) -> None:
        begun = _nanoseconds(event.unix_seconds - seconds)
        span = self._tracer.start_span(
            name, context=context, start_time=begun, attributes=_attributes(event)
        )
        if error := _error_of(event):
            span.set_status(trace.StatusCode.ERROR, error)
        span.end(_nanoseconds(event.unix_seconds))


def _error_of(event: events.Event) -> str:
    """Why there was no kernel; "" where this event does not say so."""
    match event:
        case events.CompileFailed():
            return event.error.partition("\n")[0]
        case events.CompileCancelled():
            return "cancelled"
    return ""


def _recorded_context() -> Any:
    """The context of the caller, if its span is recorded."""
    return otel_context.get_current() if trace.get_current_span().is_recording() else None


def _name_of_work(operation: str) -> str:
    """What is done, without to what; "" of what has no span, or one by its event."""
    return next((name for words, name in _WORK if operation.startswith(words)), "")


_WORK = (
    ("launch", "ajit.launch"),
    (("load pages", "save pages"), "ajit.kv.transfer"),
    (("upload", "download", "copy", "fill"), "ajit.transfer"),
)


def _seconds_of(event: events.Event) -> float:
    return _PARTS[type(event)][1](event)


def _nanoseconds(unix_seconds: float) -> int:
    return int(unix_seconds * 1e9)


def _attributes(event: events.Event) -> dict[str, str | int | float]:
    made: dict[str, str | int | float] = {
        "ajit.kernel": event.name,
        "ajit.key": event.key,
    }
    for name in ("entry", "entry_key", "compiler", "arch", "tier", "outcome", "size_bytes"):
        value = getattr(event, name, "")
        if value != "":
            made[f"ajit.{name}"] = value
    holder = getattr(event, "holder", None)
    if holder is not None:
        made |= {"ajit.holder.host": holder.host, "ajit.holder.pid": holder.pid}
    return made


class _Figures:
    """The metrics. The library's threads read what was seen last; the loop looks once a second."""

    def __init__(self, rt: Runtime, meter: Meter) -> None:
        self._rt = rt
        self._seen: RuntimeStatistics = rt.statistics()
        for metric in COUNTERS:
            facts = _name(metric.name), [self._reader(metric)], _unit(metric.name)
            meter.create_observable_counter(*facts, f"{metric.help}.")
        for metric in GAUGES:
            facts = _name(metric.name), [self._reader(metric)], _unit(metric.name)
            meter.create_observable_gauge(*facts, f"{metric.help}.")
        self._histograms = [
            (each, meter.create_histogram(_name(each.name), "s", f"{each.help}."))
            for each in HISTOGRAMS
        ]

    def __call__(self, event: events.Event) -> None:
        """Record an event's durations."""
        for metric, made in self._histograms:
            if isinstance(event, metric.event):
                labels = {metric.label: metric.of_label(event)} if metric.label else {}
                made.record(metric.seconds(event), labels)

    async def run(self) -> None:
        """Look at the statistics at intervals, until cancelled."""
        while True:
            self._seen = self._rt.statistics()
            await anyio.sleep(REFRESH_SECONDS)

    def _reader(self, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(_options: CallbackOptions) -> Iterable[Observation]:
            for sample in metric.samples:
                value = sample.of(self._seen)
                if value is not None:
                    labels = {metric.label: sample.label} if metric.label else {}
                    yield Observation(value, labels)

        return read


def _name(name: str) -> str:
    """``ajit_cache_lookups_total`` as OpenTelemetry calls it: the unit is told apart."""
    short = name.removesuffix("_total").removesuffix("_seconds").removesuffix("_bytes")
    return short.replace("ajit_", "ajit.", 1)


def _unit(name: str) -> str:
    short = name.removesuffix("_total")
    return {"seconds": "s", "bytes": "By"}.get(short.rpartition("_")[2], "1")
