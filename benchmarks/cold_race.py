"""8 processes want one cold kernel that takes seconds to compile: CUB, by NVRTC, for sm_90a."""

from __future__ import annotations

import statistics
import tempfile

from benchmarks.harness import Racers, Row, race, seconds

PROCESSES = 8


def rows() -> list[Row]:
    """Measure, beside cuda.core's cache in the same run."""
    alone, together = _measure("ajit", 1), _measure("ajit", PROCESSES)
    peer_alone, peer = _measure("cuda.core", 1), _measure("cuda.core", PROCESSES)
    ratio = together.wall_seconds / alone.wall_seconds
    peer_ratio = peer.wall_seconds / peer_alone.wall_seconds
    return [
        Row(
            f"{PROCESSES} processes, one cold kernel: compiles",
            str(_compiles(together)),
            "1",
            _compiles(together) == 1,
            f"cuda.core FileStreamProgramCache: {_compiles(peer)}",
        ),
        Row(
            f"{PROCESSES} processes, one cold kernel: wall time over one process's",
            f"{ratio:.2f} ({seconds(together.wall_seconds)} / {seconds(alone.wall_seconds)})",
            "1.1",
            ratio <= 1.1,
            f"cuda.core: {peer_ratio:.2f} "
            f"({seconds(peer.wall_seconds)} / {seconds(peer_alone.wall_seconds)})",
        ),
        Row(
            "the others get the kernel after the one that compiled it",
            seconds(_lag(together)),
            "10 ms",
            _lag(together) <= 0.010,
        ),
    ]


def _measure(peer: str, processes: int) -> Racers:
    with tempfile.TemporaryDirectory(prefix="ajit-bench-") as cache_dir:
        return race("benchmarks.racer", processes, peer, cache_dir)


def _compiles(racers: Racers) -> int:
    return sum(report["compiled"] for report in racers.reports)


def _lag(racers: Racers) -> float:
    """Median of the waiters' times minus the compiling process's."""
    compiler = max(report["seconds"] for report in racers.reports if report["compiled"])
    others = [report["seconds"] for report in racers.reports if not report["compiled"]]
    return max(0.0, statistics.median(others) - compiler) if others else 0.0
