"""How the demo's result is printed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from examples.model_server.demonstration.counts import KernelCount, count_kernels
from examples.model_server.demonstration.scenario import CUBIN_ARCH

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import ajit
    from examples.model_server.demonstration.load import Latencies, Load
    from examples.model_server.demonstration.scenario import Result

__all__ = ["print_json", "print_tables"]

MAX_PROBLEMS = 10
"""One cause may make every kernel fail: more lines would only hide the first ones."""


def print_tables(result: Result) -> None:
    """Tables for a person, then the verdict."""
    console = Console(highlight=False)
    if result.cold is not None and result.restart is not None:
        console.print(_kernel_table(result.cold, result.restart))
        console.print(_latency_table(result))
    if result.cubins:
        console.print(_cubin_table(result.cubins))
    problems = Counter(result.problems())
    for problem, times in problems.most_common(MAX_PROBLEMS):
        console.print("[bold red]failed[/] " + (f"{times} times: " if times > 1 else ""), end="")
        console.print(problem, markup=False)
    if len(problems) > MAX_PROBLEMS:
        console.print(f"... and {len(problems) - MAX_PROBLEMS} more; --json prints them all")
    if problems:
        console.print(f"[bold red]The demo failed[/], in {result.seconds:.0f} s")
    else:
        console.print(_good_news(result))


def print_json(result: Result) -> None:
    """The same as one JSON object."""
    content = {
        "problems": result.problems(),
        "seconds": round(result.seconds, 3),
        "latencies": {name: _summary(each) for name, each in _latencies(result)},
        "cold": [asdict(kernel) for kernel in _counts(result.cold)],
        "restart": [asdict(kernel) for kernel in _counts(result.restart)],
        "cubins": [
            {"name": cubin.name, "key": cubin.key, "size_bytes": cubin.size_bytes}
            for cubin in result.cubins
        ],
    }
    print(json.dumps(content, indent=2))


def _kernel_table(cold: Load, restart: Load) -> Table:
    devices = {stats["device"] for stats in cold.stats.values()}
    table = _table(f"Kernels on {', '.join(devices)}, by number of worker processes")
    table.add_column("kernel", no_wrap=True)
    _add_numbers(table, "asked", "compiled", "waited", "on\ndisk", "seconds")
    _add_numbers(table, "restart:\ncompiled", "on\ndisk")
    later = {kernel.name: kernel for kernel in count_kernels(restart)}
    for kernel in count_kernels(cold):
        again = later.get(kernel.name, KernelCount(kernel.name))
        table.add_row(
            kernel.name,
            str(kernel.asked),
            _red_unless(kernel.compiles, 1),
            str(kernel.waited),
            str(kernel.disk),
            f"{kernel.seconds:.2f}",
            _red_unless(again.compiles, 0),
            str(again.disk),
        )
    return table


def _latency_table(result: Result) -> Table:
    table = _table("Latency in milliseconds")
    table.add_column("")
    _add_numbers(table, "answers", "median", "p99", "maximum")
    for name, latencies in _latencies(result):
        summary = _summary(latencies)
        table.add_row(name, str(summary.pop("count")), *(f"{v:.1f}" for v in summary.values()))
    return table


def _cubin_table(cubins: Sequence[ajit.Artifact]) -> Table:
    compiler = f"{cubins[0].compiler} {cubins[0].compiler_version}"
    table = _table(f"The same kernels as cubins for {CUBIN_ARCH}, by {compiler}")
    table.add_column("kernel", no_wrap=True)
    _add_numbers(table, "bytes", "seconds")
    table.add_column("key", no_wrap=True)
    for cubin in sorted(cubins, key=lambda cubin: cubin.name):
        table.add_row(
            cubin.name, f"{cubin.size_bytes:,}", f"{cubin.seconds:.2f}", f"{cubin.key[:16]}..."
        )
    return table


def _table(title: str) -> Table:
    return Table(
        title=f"\n{title}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),  # so that the widest table fits into 80 columns
    )


def _add_numbers(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="right")


def _latencies(result: Result) -> Iterator[tuple[str, Latencies]]:
    for name, load in (("cold", result.cold), ("restart", result.restart)):
        if load is not None:
            yield f"{name}: first requests", load.first
            yield f"{name}: health probes meanwhile", load.probes
            yield f"{name}: warm requests", load.warm


def _summary(latencies: Latencies) -> dict[str, Any]:
    if not latencies.seconds:
        return {"count": 0}
    return {
        "count": len(latencies.seconds),
        "median_ms": round(1000 * latencies.median, 3),
        "p99_ms": round(1000 * latencies.p99, 3),
        "maximum_ms": round(1000 * latencies.maximum, 3),
    }


def _counts(load: Load | None) -> list[KernelCount]:
    return [] if load is None else count_kernels(load)


def _good_news(result: Result) -> str:
    kernels = len(_counts(result.cold))
    return (
        f"[bold green]All well[/] in {result.seconds:.0f} s: {kernels} kernels compiled once each, "
        "every answer right, every probe in time, nothing compiled on the second start, "
        "nothing left behind."
    )


def _red_unless(value: int, wanted: int) -> str:
    return str(value) if value == wanted else f"[bold red]{value}[/]"
