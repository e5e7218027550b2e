"""Metrics for Prometheus, by its own client library.

They are that library's ordinary counters, gauges and histograms, so that its mode for several
processes (``PROMETHEUS_MULTIPROC_DIR``: gunicorn, uvicorn with workers) has them as well. Durations
come from events, as they happen. All else is read from the statistics once a second: so the hot
path counts nothing twice, and a scrape costs the runtime nothing.
"""

from __future__ import annotations

import os
import re
import weakref
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import prometheus_client as prom
from prometheus_client import multiprocess
from prometheus_client.exposition import choose_encoder

from ajit._system.own_block import open_in_own_task
from ajit._system.process import is_gone
from ajit.errors import AjitError
from ajit.instrumentation.metrics import COUNTERS, GAUGES, HISTOGRAMS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
    from contextlib import AbstractAsyncContextManager

    from prometheus_client.registry import CollectorRegistry

    from ajit import Runtime
    from ajit.events import Event
    from ajit.instrumentation.metrics import Histogram, Metric

__all__ = ["asgi_app", "instrument"]

Scope: TypeAlias = "MutableMapping[str, Any]"
Send: TypeAlias = "Callable[[MutableMapping[str, Any]], Awaitable[None]]"
ASGIApp: TypeAlias = "Callable[[Scope, Any, Send], Awaitable[None]]"

REFRESH_SECONDS = 1.0
"""How often the statistics are read. Far more often than Prometheus scrapes."""

_LIVE_GAUGES = re.compile(r"gauge_live[a-z]+_([0-9]{1,10})\.db")
"""The library's file of the gauges of one process, with its process id."""


def instrument(
    rt: Runtime, *, registry: CollectorRegistry = prom.REGISTRY
) -> AbstractAsyncContextManager[None]:
    """Export a runtime's metrics while the block runs.

    Several runtimes of a process may share a registry: what they count is added up.

    Args:
        rt: The runtime; of this event loop.
        registry: Where the metrics are; the library's own by default, where other metrics of the
            process are, too.

    At the end the counters keep what they have, and the gauges lose this runtime's part. What the
    block raises comes out of it as it is, and any task may leave it.
    """
    return open_in_own_task(partial(_exporting, rt, registry), "metrics for Prometheus")


@asynccontextmanager
async def _exporting(rt: Runtime, registry: CollectorRegistry) -> AsyncIterator[None]:
    exporter = _Exporter(rt, _instruments_of(registry))
    stop = rt.subscribe(exporter)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(exporter.run)
            yield
            group.cancel_scope.cancel()
    finally:
        stop()
        exporter.close()


def asgi_app(registry: CollectorRegistry = prom.REGISTRY) -> ASGIApp:
    """Return an ASGI application that answers a scrape; to be mounted under ``/metrics``.

    The text is made in a thread: with several processes that reads their files.

    Args:
        registry: As for `instrument`. Where ``PROMETHEUS_MULTIPROC_DIR`` is set, the metrics of all
            processes that write there are served in its place, and the gauges of those that are
            gone are removed: who was killed has taken nothing back.
    """

    def text(encode: Callable[[CollectorRegistry], bytes]) -> bytes:
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if not folder:
            return encode(registry)
        _forget_the_dead(Path(folder))
        of_all = prom.CollectorRegistry()
        multiprocess.MultiProcessCollector(of_all)  # type: ignore[no-untyped-call]  # it has no types
        return encode(of_all)

    async def answer(scope: Scope, _receive: object, send: Send) -> None:
        if scope["type"] != "http":
            return
        wanted = {name: value for name, value in scope["headers"] if name == b"accept"}
        encode, content_type = choose_encoder(wanted.get(b"accept", b"").decode("latin-1"))
        found = scope["method"] in ("GET", "HEAD")
        body = await anyio.to_thread.run_sync(text, encode) if found else b""
        headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
        status = 200 if found else 405
        await send({"type": "http.response.start", "status": status, "headers": headers})
        shown = body if scope["method"] == "GET" else b""
        await send({"type": "http.response.body", "body": shown})

    return answer


def _forget_the_dead(folder: Path) -> None:
    """Remove the gauges of processes that are gone. What they have counted stays counted."""
    names = (_LIVE_GAUGES.fullmatch(file.name) for file in folder.glob("gauge_live*.db"))
    for pid in {int(name[1]) for name in names if name}:
        if is_gone(pid, 0):
            with suppress(OSError):  # another process was quicker, or the file is another user's
                multiprocess.mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]  # likewise


class _Instruments:
    """The library's objects, one for each metric of the table, in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counters = [(each, _counter(each, registry)) for each in COUNTERS]
        self.gauges = [(each, _gauge(each, registry)) for each in GAUGES]
        self.all: list[tuple[Metric, prom.Counter | prom.Gauge]] = [*counters, *self.gauges]
        self.histograms = [(each, _histogram(each, registry)) for each in HISTOGRAMS]


_known: weakref.WeakKeyDictionary[CollectorRegistry, _Instruments] = weakref.WeakKeyDictionary()


def _instruments_of(registry: CollectorRegistry) -> _Instruments:
    """A registry refuses a name that it has: so the second runtime gets what the first one made."""
    known = _known.get(registry)
    if known is None:
        known = _known[registry] = _Instruments(registry)
    return known


def _counter(metric: Metric, registry: CollectorRegistry) -> prom.Counter:
    return prom.Counter(metric.name, f"{metric.help}.", _labels(metric), registry=registry)


def _gauge(metric: Metric, registry: CollectorRegistry) -> prom.Gauge:
    mode: Any = "livesum" if metric.join == "sum" else "livemax"
    name, help_text = metric.name, f"{metric.help}."
    return prom.Gauge(name, help_text, _labels(metric), registry=registry, multiprocess_mode=mode)


def _histogram(metric: Histogram, registry: CollectorRegistry) -> prom.Histogram:
    name, help_text = metric.name, f"{metric.help}."
    return prom.Histogram(
        name, help_text, _labels(metric), registry=registry, buckets=metric.buckets
    )


def _labels(metric: Metric | Histogram) -> tuple[str, ...]:
    return (metric.label,) if metric.label else ()


class _Exporter:
    """Brings one runtime's figures into the instruments. Belongs to its event loop."""

    def __init__(self, rt: Runtime, instruments: _Instruments) -> None:
        self._rt = rt
        self._instruments = instruments
        self._last: dict[tuple[str, str], float] = {}
        self._by_event: dict[type[Event], list[tuple[Histogram, prom.Histogram]]] = {}
        for metric, made in instruments.histograms:
            self._by_event.setdefault(metric.event, []).append((metric, made))

    def __call__(self, event: Event) -> None:
        """Observe an event's durations."""
        for metric, made in self._by_event.get(type(event), ()):
            target = made.labels(metric.of_label(event)) if metric.label else made
            target.observe(metric.seconds(event))

    async def run(self) -> None:
        """Read the statistics at intervals, until cancelled."""
        while True:
            self.refresh()
            await anyio.sleep(REFRESH_SECONDS)

    def refresh(self) -> None:
        """Read them once."""
        statistics = self._rt.statistics()
        for metric, made in self._instruments.all:
            for sample in metric.samples:
                value = sample.of(statistics)
                if value is not None:
                    self._bring(metric, made, sample.label, float(value))

    def _bring(
        self, metric: Metric, made: prom.Counter | prom.Gauge, label: str, value: float
    ) -> None:
        target = made.labels(label) if label else made
        place = (metric.name, label)
        if metric.join == "max":
            assert isinstance(target, prom.Gauge)
            target.set(value)
        else:  # by differences, for other runtimes of the process add theirs
            target.inc(value - self._last.get(place, 0.0))
        self._last[place] = value

    def close(self) -> None:
        """Count what has happened since the last look, and take the gauges back."""
        with suppress(AjitError):  # closed before: what its last moment has counted is lost
            self.refresh()
        for metric, made in self._instruments.gauges:
            for sample in metric.samples:
                if (metric.name, sample.label) in self._last:
                    self._bring(metric, made, sample.label, 0.0)
