"""Numbers and things in words, for the headline."""

from __future__ import annotations

__all__ = ["counted", "duration", "process"]


_MOST_SECONDS = 1e10
"""Three hundred years: whatever says more is wrong anyhow."""


def counted(number: int, one: str, many: str) -> str:
    """``1 kernel``, ``3 kernels``."""
    return f"{number} {one if number == 1 else many}"


def duration(seconds: float) -> str:
    """``0.4 s``, ``48 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = int(min(seconds, _MOST_SECONDS))
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 172_800:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def process(pid: int, host: str) -> str:
    """``pid 7 on node3``."""
    if not pid:
        return "another process"
    return f"pid {pid} on {host}" if host else f"pid {pid}"
