"""The metrics of a KV service: one table, which makes the text for Prometheus and the docs' table.

Names and units follow Prometheus' conventions: seconds and bytes, counters end in ``_total``. The
text is the exposition format 0.0.4, which every scraper reads. What is counted is
`ajit.kv.ServiceStatistics`, flat, as the service hands it to clients: so the text is made by
who has that, in the service or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CONTENT_TYPE", "METRICS", "Metric", "Sample", "metrics_table", "metrics_text"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a metric.

    Attributes:
        field: Of the statistics.
        minus: Another field that is taken from it; "" for none.
        labels: Names and values.
    """

    field: str
    minus: str = ""
    labels: tuple[tuple[str, str], ...] = ()

    def value(self, values: Mapping[str, object]) -> int | float:
        """What it is now. A text counts as whether there is one."""
        return _number(values[self.field]) - (_number(values[self.minus]) if self.minus else 0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: With its unit.
        help: What it is, in a sentence without the full stop.
        samples: Its lines.
    """

    name: str
    help: str
    samples: tuple[Sample, ...]

    @property
    def kind(self) -> str:
        """``counter`` or ``gauge``."""
        return "counter" if self.name.endswith("_total") else "gauge"


def _one(name: str, field: str, help: str, minus: str = "") -> Metric:  # noqa: A002  # as the format calls it
    return Metric(name, help, (Sample(field, minus),))


def _by_tier(name: str, field: str, help: str) -> Metric:  # noqa: A002  # the same
    return Metric(name, help, (Sample(field, labels=(("tier", "memory"),)),))


def _refused(field: str, request: str, reason: str) -> Sample:
    return Sample(field, labels=(("request", request), ("reason", reason)))


METRICS = (
    _one("ajit_kv_lookups_total", "lookups", "Lookups of a prompt"),
    _one("ajit_kv_wanted_chunks_total", "chunks_wanted", "Chunks that lookups asked for"),
    _by_tier("ajit_kv_found_chunks_total", "chunks_found", "Chunks that lookups found (hits)"),
    _one("ajit_kv_missed_chunks_total", "chunks_wanted", "Chunks that lookups did not find",
         minus="chunks_found"),
    _by_tier("ajit_kv_found_bytes_total", "found_bytes",
             "Bytes of the chunks that lookups found, for engines to load"),
    _one("ajit_kv_stored_chunks_total", "chunks_stored", "Chunks that were committed"),
    _one("ajit_kv_stored_bytes_total", "stored_bytes", "Bytes of the chunks that were committed"),
    _one("ajit_kv_evicted_chunks_total", "chunks_evicted", "Chunks that gave way to others"),
    _one("ajit_kv_discarded_chunks_total", "chunks_discarded",
         "Chunks that did not verify, and those after them"),
    _one("ajit_kv_abandoned_chunks_total", "chunks_abandoned",
         "Chunks that were reserved and never committed"),
    Metric("ajit_kv_refusals_total", "Requests that were refused, by what was asked and why", (
        _refused("refused", "reserve", "busy"),
        _refused("refused_pending", "reserve", "pending"),
        _refused("refused_parent", "reserve", "parent"),
        _refused("refused_stored", "reserve", "stored"),
        _refused("refused_size", "open", "size"),
        _refused("leases_refused", "find", "leases"),
        _refused("waits_refused", "any", "waiting"),
    )),
    _one("ajit_kv_used_bytes", "used_bytes", "Memory of chunks, those being written included"),
    _one("ajit_kv_slab_bytes", "slab_bytes", "Memory that is taken from the system"),
    _one("ajit_kv_limit_bytes", "limit_bytes", "Most memory for chunks"),
    _one("ajit_kv_chunks", "chunks", "Chunks that are here"),
    _one("ajit_kv_leases", "leases", "Leases that are held"),
    _one("ajit_kv_reservations", "reservations", "Reservations that are not over"),
    _one("ajit_kv_memory_problem", "problem",
         "1 if no more memory can be taken though its limit allows"),
    _one("ajit_kv_clients", "clients", "Clients that are connected"),
    _one("ajit_kv_lingering_clients", "lingering",
         "Ended connections of processes that live and may still copy"),
    _one("ajit_kv_joined_clients_total", "joined_clients", "Clients that have connected"),
    _one("ajit_kv_lost_clients_total", "lost_clients",
         "Connections that ended while something was held"),
    _one("ajit_kv_refused_clients_total", "refused_clients",
         "Connections of other users, or too many at once"),
    _one("ajit_kv_unread_clients_total", "unread_clients",
         "Connections that were closed, for their client did not read its answers"),
    _one("ajit_kv_protocol_errors_total", "protocol_errors",
         "Connections that were closed for what they sent"),
    _one("ajit_kv_requests_total", "requests", "Requests that were done, or failed"),
    _one("ajit_kv_queued_requests", "queued", "Requests that wait in line"),
    _one("ajit_kv_loop_lag_seconds", "lag_seconds",
         "How much too late the event loop was at its last beat, of ten in a second"),
    _one("ajit_kv_longest_loop_lag_seconds", "longest_lag_seconds",
         "The most that the event loop was ever too late"),
    _one("ajit_kv_uptime_seconds", "up_seconds", "Time since the service was started"),
)  # fmt: skip


def metrics_text(values: Mapping[str, object]) -> str:
    """Return the metrics as Prometheus reads them.

    Args:
        values: What `StoreClient.service_statistics` returns.

    A field that is not there, of a service of another version, is left out.
    """
    lines = []
    for metric in METRICS:
        samples = [each for each in metric.samples if each.field in values]
        if samples:
            lines += [f"# HELP {metric.name} {metric.help}.", f"# TYPE {metric.name} {metric.kind}"]
        lines += [f"{metric.name}{_labels(each)} {each.value(values)!r}" for each in samples]
    return "\n".join(lines) + "\n"


def metrics_table() -> str:
    """Return the table of docs/kv-service.md."""
    lines = ["| metric | labels | what it is |", "| --- | --- | --- |"]
    for metric in METRICS:
        labels = dict.fromkeys(name for each in metric.samples for name, _ in each.labels)
        named = ", ".join(f"`{name}`" for name in labels)
        lines.append(f"| `{metric.name}` | {named} | {metric.help} |")
    return "\n".join(lines)


def _labels(sample: Sample) -> str:
    pairs = ",".join(f'{name}="{value}"' for name, value in sample.labels)
    return f"{{{pairs}}}" if pairs else ""


def _number(value: object) -> int | float:
    return value if isinstance(value, (int, float)) else int(bool(value))
