"""A dashboard for Grafana, over the metrics of a runtime and of a KV service."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["PANELS", "Panel", "dashboard_text"]

WIDTH, HEIGHT, COLUMNS = 8, 8, 3
"""Of a panel, in Grafana's grid of 24 columns."""

SCHEMA_VERSION = 39
"""Of the dashboard's form: Grafana 11 and newer read it, and bring it up to date."""

RATE = "$__rate_interval"


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        row: The row that it is in.
        title: What it shows.
        unit: Grafana's name of its unit.
        curves: Expression and legend of each.
    """

    row: str
    title: str
    unit: str
    curves: tuple[tuple[str, str], ...]


def _rate(metric: str, by: str = "", legend: str = "") -> tuple[str, str]:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}[{RATE}]))", legend or f"{{{{{by}}}}}"


def _quantile(quantile: float, metric: str) -> tuple[str, str]:
    rate = f"sum by (le) (rate({metric}_bucket[{RATE}]))"
    return f"histogram_quantile({quantile}, {rate})", f"p{quantile * 100:.0f}"


def _sum(metric: str, legend: str) -> tuple[str, str]:
    return f"sum({metric})", legend


def _durations(row: str, title: str, metric: str) -> Panel:
    return Panel(row, title, "s", (_quantile(0.5, metric), _quantile(0.99, metric)))


PANELS = (
    Panel("Kernels", "Requests by answer", "reqps", (_rate("ajit_requests_total", "answer"),)),
    _durations("Kernels", "From request to kernel", "ajit_ready_duration_seconds"),
    Panel("Kernels", "In progress", "short",
          (_sum("ajit_resolutions", "resolutions"), _sum("ajit_waiting", "wait for a process"),
           _sum("ajit_jobs_running", "compile"), _sum("ajit_jobs_queued", "queued"))),
    _durations("Compiles", "Compile", "ajit_compile_duration_seconds"),
    _durations("Compiles", "Queue before a compile", "ajit_compile_queue_seconds"),
    _durations("Compiles", "Wait for another process", "ajit_wait_duration_seconds"),
    Panel("Compiles", "Saved by the cache", "s",
          (_rate("ajit_compile_saved_seconds_total", legend="seconds a second"),)),
    Panel("Compiles", "Late, fallbacks, handovers", "short",
          (_rate("ajit_late_compiles_total", legend="late"),
           _rate("ajit_fallbacks_total", legend="fallback"),
           _rate("ajit_handovers_total", legend="handover"))),
    Panel("Cache", "Looked for", "ops", (_rate("ajit_cache_lookups_total", "result"),)),
    Panel("Cache", "Size", "bytes",
          (("max(ajit_cache_bytes)", "used"), ("max(ajit_cache_limit_bytes) > 0", "limit"))),
    Panel("Cache", "Evicted", "ops",
          (_rate("ajit_cache_evicted_entries_total", legend="entries"),)),
    Panel("Device", "Submissions", "ops", (_rate("ajit_device_submissions_total", "instance"),)),
    Panel("Device", "Tickets in flight", "short",
          (("ajit_device_in_flight_tickets", "{{instance}}"),)),
    Panel("Device", "Memory", "bytes",
          (("ajit_device_memory_bytes", "{{instance}} in use"),
           ("ajit_device_reserved_memory_bytes", "{{instance}} taken"))),
    Panel("Device", "CUDA thread in one operation", "s",
          (("ajit_device_busy_seconds", "{{instance}}"),)),
    Panel("KV cache", "Chunks by lookups", "ops",
          (_rate("ajit_kv_found_chunks_total", legend="found"),
           _rate("ajit_kv_missed_chunks_total", legend="missed"))),
    Panel("KV cache", "Memory", "bytes",
          (_sum("ajit_kv_used_bytes", "used"), _sum("ajit_kv_slab_bytes", "taken"),
           _sum("ajit_kv_limit_bytes", "limit"))),
    Panel("KV cache", "Refused", "ops", (_rate("ajit_kv_refusals_total", "reason"),)),
    Panel("KV cache", "Loop lag", "s", (("ajit_kv_loop_lag_seconds", "{{instance}}"),)),
)  # fmt: skip


def dashboard_text() -> str:
    """Return the dashboard as the JSON that Grafana imports; it asks for the source of its data."""
    source = {"type": "prometheus", "uid": "${source}"}
    variable = {
        "name": "source",
        "type": "datasource",
        "query": "prometheus",
        "label": "Prometheus",
    }
    dashboard = {
        "title": "ajit",
        "uid": "ajit",
        "schemaVersion": SCHEMA_VERSION,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [variable]},
        "panels": _placed(source),
    }
    return json.dumps(dashboard, indent=2) + "\n"


def _placed(source: dict[str, str]) -> list[dict[str, Any]]:
    """The panels, each row below its title."""
    placed: list[dict[str, Any]] = []
    y = 0
    for row in dict.fromkeys(panel.row for panel in PANELS):
        placed.append(_of_row(row, len(placed) + 1, y))
        y += 1
        panels = [panel for panel in PANELS if panel.row == row]
        for index, panel in enumerate(panels):
            down, right = divmod(index, COLUMNS)
            place = {"x": right * WIDTH, "y": y + down * HEIGHT, "w": WIDTH, "h": HEIGHT}
            placed.append(_of_panel(panel, len(placed) + 1, place, source))
        y += HEIGHT * -(-len(panels) // COLUMNS)
    return placed


def _of_row(title: str, number: int, y: int) -> dict[str, Any]:
    place = {"x": 0, "y": y, "w": 24, "h": 1}
    return {"type": "row", "title": title, "id": number, "gridPos": place, "panels": []}


def _of_panel(
    panel: Panel, number: int, place: dict[str, int], source: dict[str, str]
) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": panel.title,
        "id": number,
        "gridPos": place,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expr, "legendFormat": legend}
            for index, (expr, legend) in enumerate(panel.curves)
        ],
    }
