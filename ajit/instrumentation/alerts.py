"""Alert rules for Prometheus, over the metrics of a runtime and of a KV service."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ALERTS", "Alert", "rules_text"]


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule.

    Attributes:
        name: In the style of Prometheus.
        expr: What is looked at.
        lasting: For how long it must hold, as Prometheus writes durations.
        severity: ``critical`` if it cannot wait, else ``warning``.
        summary: What is wrong, for a person, in one line.
        todo: What to look at first.
    """

    name: str
    expr: str
    lasting: str
    severity: str
    summary: str
    todo: str


ALERTS = (
    Alert(
        "AjitDeviceLost", "max by (instance) (ajit_device_lost) > 0", "0m", "critical",
        "The device's context is unusable, and every request fails",
        "End the process; the log of ajit.device has the driver's code.",
    ),
    Alert(
        "AjitDeviceStalled", "max by (instance) (ajit_device_busy_seconds) > 60", "0m", "critical",
        "The CUDA thread has been in one operation for more than a minute",
        "The log of ajit.device names the operation; rt.device.health() has its ticket.",
    ),
    Alert(
        "AjitLongWait", "max by (instance) (ajit_longest_wait_seconds) > 300", "0m", "warning",
        "A kernel has been waited for from another process for more than five minutes",
        "ajit locks shows which process compiles it, for how long, and who waits.",
    ),
    Alert(
        "AjitKernelsFail",
        'increase(ajit_requests_total{answer="error"}[10m]) > 0', "0m", "warning",
        "Kernels could not be made ready",
        "The log of ajit.compile has each kernel with its first error.",
    ),
    Alert(
        "AjitCacheProblem", "max by (instance) (ajit_cache_problem) > 0", "5m", "warning",
        "The kernel cache does not answer or cannot be written: each process compiles for itself",
        "ajit doctor, with the server's user and settings, says why.",
    ),
    Alert(
        "AjitEntriesRejected",
        'increase(ajit_cache_lookups_total{result="rejected"}[1h]) > 0', "0m", "warning",
        "Entries of the kernel cache do not verify, and are compiled again",
        "ajit cache verify says which; a disk that fails, or another program that writes there.",
    ),
    Alert(
        "AjitCompiledLate", "increase(ajit_late_compiles_total[10m]) > 0", "0m", "warning",
        "Kernels were compiled while serving that the warm-up does not know",
        "The log of ajit.compile names kernel, difference and caller; record the next start.",
    ),
    Alert(
        "AjitCompilesQueue", "sum by (instance) (ajit_jobs_queued) > 0", "10m", "warning",
        "Compiles have waited to start for ten minutes",
        "More compile_slots, or a record and a warm-up before the server is ready.",
    ),
    Alert(
        "AjitCacheTooSmall", "increase(ajit_cache_evicted_entries_total[1h]) > 0 and on (instance) "
        'increase(ajit_requests_total{answer="compiled"}[1h]) > 0', "0m", "warning",
        "The kernel cache evicts while kernels are compiled: its limit may be too small",
        "ajit cache stats, and the setting cache_limit_bytes.",
    ),
    Alert(
        "AjitKvLoopLag", "max by (instance) (ajit_kv_loop_lag_seconds) > 1", "1m", "critical",
        "The KV service's event loop is more than a second too late",
        "Engines miss meanwhile; look at the machine's load and memory first.",
    ),
    Alert(
        "AjitKvMemory", "max by (instance) (ajit_kv_memory_problem) > 0", "0m", "warning",
        "The KV service cannot take the memory that its limit allows",
        "The memory limit of its cgroup has to be above --limit.",
    ),
    Alert(
        "AjitKvProtocolErrors", "increase(ajit_kv_protocol_errors_total[10m]) > 0", "0m", "warning",
        "Connections of the KV service were closed for what they sent",
        "An engine with another version of ajit, or something that is none.",
    ),
)  # fmt: skip


def rules_text() -> str:
    """Return the rules as the YAML file that Prometheus reads."""
    lines = ["groups:", "- name: ajit", "  rules:"]
    for alert in ALERTS:
        lines += [
            f"  - alert: {alert.name}",
            f"    expr: {_quoted(alert.expr)}",
            f"    for: {alert.lasting}",
            "    labels:",
            f"      severity: {alert.severity}",
            "    annotations:",
            f"      summary: {_quoted(alert.summary + ' ({{ $labels.instance }})')}",
            f"      description: {_quoted(alert.todo)}",
        ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A text as YAML has it between single quotes, where nothing is special but they."""
    return "'" + text.replace("'", "''") + "'"
