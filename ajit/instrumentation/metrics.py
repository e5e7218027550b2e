"""The metrics of a runtime, as one table: exporters, the docs and the dashboard are made from it.

Names and units follow Prometheus' conventions: seconds and bytes, counters end in ``_total``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ajit import events

if TYPE_CHECKING:
    from ajit import RuntimeStatistics

__all__ = [
    "COUNTERS",
    "GAUGES",
    "HISTOGRAMS",
    "Histogram",
    "Metric",
    "Sample",
    "metrics_table",
]

Value: TypeAlias = "int | float | None"

FAST_BUCKETS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
"""Seconds, for what mostly takes milliseconds."""

SLOW_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
"""Seconds, for compiles and waits for them."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a metric.

    Attributes:
        of: Takes its value from the statistics; None if there is none, as without a device.
        label: Its value of the metric's label; "" if that has none.
    """

    of: Callable[[RuntimeStatistics], Value]
    label: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """A counter or gauge that is read from the statistics.

    Attributes:
        name: With its unit, and ``_total`` for a counter.
        help: What it is, in a sentence without the full stop.
        samples: Its lines.
        label: Name of their label, if they have one.
        join: What several processes make together: the ``sum``, or for the state of what they share
            the ``max``.
    """

    name: str
    help: str
    samples: tuple[Sample, ...]
    label: str = ""
    join: Literal["sum", "max"] = "sum"


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram of the durations that events tell.

    Attributes:
        name: With its unit.
        help: What it is, in a sentence without the full stop.
        event: Which events are taken.
        seconds: Takes the duration from one.
        buckets: Upper bounds in seconds.
        label: Name of its label, if it has one.
        of_label: Takes the label's value from an event.
    """

    name: str
    help: str
    event: type[events.Event]
    seconds: Callable[[Any], float]
    buckets: tuple[float, ...] = SLOW_BUCKETS
    label: str = ""
    of_label: Callable[[Any], str] = lambda _: ""


def _one(name: str, help: str, of: Callable[[RuntimeStatistics], Value]) -> Metric:  # noqa: A002  # as the format calls it
    return Metric(name, help, (Sample(of),))


def _shared(name: str, help: str, of: Callable[[RuntimeStatistics], Value]) -> Metric:  # noqa: A002  # the same
    return Metric(name, help, (Sample(of),), join="max")


def _device(name: str, help: str, field: str) -> Metric:  # noqa: A002  # the same
    return _one(name, help, lambda s: None if s.device is None else getattr(s.device, field))


def _by(name: str, help: str, label: str, **of: Callable[[RuntimeStatistics], Value]) -> Metric:  # noqa: A002  # the same
    return Metric(name, help, tuple(Sample(take, value) for value, take in of.items()), label)


COUNTERS = (
    _by("ajit_requests_total", "Requests for kernels that are loaded, and resolutions of others, "
        "which requests at the same time share; by what answered them", "answer",
        memory=lambda s: s.from_memory, disk=lambda s: s.from_disk,
        compiled=lambda s: s.compiled, error=lambda s: s.failed),
    _one("ajit_waits_total", "Resolutions that waited for another process", lambda s: s.waited),
    _one("ajit_handovers_total", "Waits that ended with the lease and without a result",
         lambda s: s.handovers),
    _one("ajit_fallbacks_total", "Requests that were answered with their fallback",
         lambda s: s.fallbacks),
    _one("ajit_late_compiles_total", "Compiles that were asked for while the runtime was frozen",
         lambda s: s.late),
    _one("ajit_compile_saved_seconds_total", "What the compiles had taken whose results were found "
         "in the cache", lambda s: s.saved_seconds),
    _by("ajit_jobs_total", "Compiles and builds that were started, by how they ended", "outcome",
        finished=lambda s: s.pool.finished, failed=lambda s: s.pool.failed,
        killed=lambda s: s.pool.killed),
    _one("ajit_workers_started_total", "Compiler processes that were started",
         lambda s: s.pool.workers_started),
    _by("ajit_cache_lookups_total", "Kernels that were looked for in the cache, by what was there",
        "result", found=lambda s: s.disk.found, missing=lambda s: s.disk.missing,
        rejected=lambda s: s.disk.rejected),
    _by("ajit_cache_writes_total", "Entries that were to be written: published, lost to another "
        "process that wrote the same, or failed", "result",
        published=lambda s: s.disk.published, lost=lambda s: s.disk.lost,
        failed=lambda s: s.disk.failed),
    _one("ajit_cache_evicted_entries_total", "Entries that this process evicted",
         lambda s: s.evicted_entries),
    _one("ajit_cache_evicted_bytes_total", "Bytes that this process evicted",
         lambda s: s.evicted_bytes),
    _one("ajit_background_errors_total", "Calls on the cache that failed where no request gets the "
         "error", lambda s: s.background_errors),
    _one("ajit_events_dropped_total", "Events that were lost because a subscriber raised",
         lambda s: s.events_dropped),
    _device("ajit_device_submissions_total", "Submissions that reached the driver", "dispatched"),
    _device("ajit_device_launches_total", "Kernel launches", "launches"),
    _device("ajit_device_copies_total", "Copies", "copies"),
    _device("ajit_device_failed_tickets_total", "Tickets that failed", "failed"),
    _device("ajit_device_expired_tickets_total", "Tickets that ran past their deadline", "expired"),
    _device("ajit_device_stalls_total", "Times that the CUDA thread was found stuck in one "
            "operation", "stalls"),
)  # fmt: skip

GAUGES = (
    _one("ajit_resolutions", "Kernels that are being looked for, compiled or loaded",
         lambda s: s.in_progress),
    _one("ajit_waiting", "Resolutions that wait for another process", lambda s: len(s.waiting)),
    _shared("ajit_longest_wait_seconds", "For how long the oldest of them has waited",
            lambda s: max((wait.waited_seconds for wait in s.waiting), default=0.0)),
    _one("ajit_making_keys", "Requests whose key is not made after half a second",
         lambda s: len(s.making_keys)),
    _one("ajit_jobs_running", "Compiles and builds that run", lambda s: s.pool.running),
    _one("ajit_jobs_queued", "Compiles and builds that wait to start", lambda s: s.pool.queued),
    _one("ajit_compile_slots", "Compiles that may run at once", lambda s: s.pool.slots),
    _one("ajit_workers", "Compiler processes", lambda s: s.pool.workers),
    _one("ajit_loaded_modules", "Modules on the device", lambda s: s.loaded_modules),
    _shared("ajit_cache_problem", "1 if the cache does not answer, or cannot be written",
            lambda s: int(bool(s.cache_problem))),
    _shared("ajit_cache_entries", "Entries of the cache, when a process last looked",
            lambda s: s.cache_entries),
    _shared("ajit_cache_bytes", "Size of the cache, when a process last looked",
            lambda s: s.cache_bytes),
    _shared("ajit_cache_limit_bytes", "What the cache may hold; 0 is any number",
            lambda s: s.cache_limit_bytes),
    _device("ajit_device_in_flight_tickets", "Tickets that the device is at", "in_flight"),
    _device("ajit_device_memory_bytes", "Device memory in use", "live_memory_bytes"),
    _device("ajit_device_reserved_memory_bytes", "Device memory that is taken, with what the pool "
            "keeps", "reserved_memory_bytes"),
    _shared("ajit_device_busy_seconds", "For how long the CUDA thread has been in one operation",
            lambda s: None if s.device is None else s.device.busy_seconds),
    _shared("ajit_device_lost", "1 if the device's context is unusable",
            lambda s: None if s.device is None else int(bool(s.device.lost_code))),
)  # fmt: skip

HISTOGRAMS = (
    Histogram("ajit_compile_duration_seconds", "Compiles, by compiler", events.CompileFinished,
              lambda e: e.seconds, label="compiler", of_label=lambda e: e.compiler.split()[0]),
    Histogram("ajit_compile_queue_seconds", "For how long a compile waited to start",
              events.CompileFinished, lambda e: e.queued_seconds),
    Histogram("ajit_compile_failure_duration_seconds", "Compiles that failed",
              events.CompileFailed, lambda e: e.seconds),
    Histogram("ajit_wait_duration_seconds", "Waits for another process, by how they ended",
              events.WaitEnded, lambda e: e.waited_seconds, label="outcome",
              of_label=lambda e: e.outcome),
    Histogram("ajit_ready_duration_seconds", "From a request for a kernel that is not loaded to "
              "its answer, by tier", events.KernelReady, lambda e: e.seconds, label="tier",
              of_label=lambda e: e.tier),
    Histogram("ajit_bundle_duration_seconds", "The same for a build", events.BundleReady,
              lambda e: e.seconds, label="tier", of_label=lambda e: e.tier),
    Histogram("ajit_key_duration_seconds", "Making a key", events.KeyMade, lambda e: e.seconds,
              FAST_BUCKETS),
    Histogram("ajit_entry_read_duration_seconds", "Reading and verifying an entry",
              events.EntryRead, lambda e: e.seconds, FAST_BUCKETS),
    Histogram("ajit_module_load_duration_seconds", "Loading a module on the device",
              events.ModuleLoaded, lambda e: e.seconds, FAST_BUCKETS),
)  # fmt: skip


def metrics_table() -> str:
    """Return the table of docs/metrics.md."""
    lines = ["| metric | type | label | what it is |", "| --- | --- | --- | --- |"]
    rows: list[tuple[str, str, Metric | Histogram]] = [
        *(("counter", _values(each), each) for each in COUNTERS),
        *(("gauge", _values(each), each) for each in GAUGES),
        *(("histogram", "", each) for each in HISTOGRAMS),
    ]
    for kind, values, each in rows:
        label = f"`{each.label}`{values}" if each.label else ""
        lines.append(f"| `{each.name}` | {kind} | {label} | {each.help} |")
    return "\n".join(lines)


def _values(metric: Metric) -> str:
    values = ", ".join(sample.label for sample in metric.samples if sample.label)
    return f": {values}" if values else ""
