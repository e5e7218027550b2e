"""What the benchmarks share: numbers with a spread, tables, and processes that start together."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["GB", "Racers", "Row", "Sample", "environment", "print_rows", "race", "timed"]

GB = 1e9
ROOT = Path(__file__).resolve().parent.parent
console = Console(width=max(100, Console().width))

RACER_SECONDS = 300.0


@dataclass(frozen=True)
class Sample:
    """Several measurements of one thing, in seconds."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        ordered = sorted(self.values)
        if len(ordered) == 1:
            return seconds(ordered[0])
        p99 = ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]
        return f"{seconds(self.median)} (min {seconds(ordered[0])}, p99 {seconds(p99)})"


@dataclass(frozen=True)
class Row:
    """One line of the table of budgets."""

    what: str
    measured: str
    budget: str = ""
    met: bool | None = None
    beside: str = ""


def seconds(value: float) -> str:
    """Write a time with a unit that fits."""
    for limit, scale, unit in ((1e-6, 1e9, "ns"), (1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if value < limit:
            return f"{value * scale:.3g} {unit}"
    return f"{value:.3g} s"


def timed(function: Callable[[], object], runs: int) -> Sample:
    """Time a function."""
    values = []
    for _ in range(runs):
        begun = time.perf_counter()
        function()
        values.append(time.perf_counter() - begun)
    return Sample(tuple(values))


def environment() -> str:
    """Describe the machine, in one line."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return (
        f"{model}, {len(os.sched_getaffinity(0))} CPUs, Linux {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def print_rows(title: str, rows: Sequence[Row]) -> None:
    """Print a table of budgets."""
    table = Table(title=title, title_justify="left", show_lines=False)
    for column in ("what", "measured", "budget", "met", "beside it, in the same run"):
        table.add_column(column, overflow="fold")
    for row in rows:
        met = {True: "yes", False: "[bold]no[/bold]", None: ""}[row.met]
        table.add_row(row.what, row.measured, row.budget, met, row.beside)
    console.print(table)


@dataclass
class Racers:
    """What processes that started together reported."""

    reports: list[dict[str, Any]]
    wall_seconds: float


def race(module: str, count: int, *arguments: str, asked: int | None = None) -> Racers:
    """Run ``python -m module`` in several processes that begin at the same moment.

    Each prints ``ready`` once it has imported and opened everything, waits for a line, does its
    work, prints one JSON object, and ends.

    Args:
        module: What each of them runs.
        count: How many there are.
        *arguments: Their arguments.
        asked: How many are raced; the others are there, and do their work afterwards. None: all.
    """
    command = [sys.executable, "-m", module, *arguments]
    processes = [
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(count)
    ]
    try:
        for process in processes:
            line = _stdout(process).readline()
            if line.strip() != "ready":
                raise RuntimeError(f"{module} did not become ready: {line!r}")
        begun = time.perf_counter()
        for process in processes[:asked]:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        reports = [json.loads(_stdout(process).readline()) for process in processes[:asked]]
        wall = time.perf_counter() - begun
        for process in processes:
            process.communicate(timeout=RACER_SECONDS)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    return Racers(reports, wall)


def _stdout(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return process.stdout
