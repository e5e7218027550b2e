"""How the demo's result is printed."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from examples.kv_engine.demonstration.client import Beats
    from examples.kv_engine.demonstration.scenario import Result

__all__ = ["as_json", "print_tables"]


def as_json(result: Result) -> str:
    """Return the result as one JSON object."""
    beats = result.beats
    return json.dumps({
        "device": result.device,
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "prompt_tokens": result.prompt_tokens,
        "rows": [asdict(row) for row in result.rows],
        "beside": None if beats is None else {
            "answered": len(beats.seconds),
            "from_the_store": beats.loaded,
            "slowest_seconds": max(beats.seconds, default=None),
        },
        "logits_equal": result.equal,
        "problems": result.problems,
        "seconds": round(result.seconds, 3),
    })  # fmt: skip


def print_tables(result: Result) -> None:
    """Print what was measured, for people."""
    console = Console(highlight=False)
    if result.rows:
        console.print(_table(result))
    if result.beats is not None:
        console.print(_beside(result.beats))
    for problem in result.problems:
        console.print(f"[bold red]problem[/]: {escape(problem)}", soft_wrap=True)
    answers = sum(row.times for row in result.rows)
    if result.beats is not None:
        answers += len(result.beats.seconds)
    equal = "[bold green]yes[/]" if result.equal else "[bold red]no[/]"
    console.print(f"logits equal: {equal} ({answers} answers, compared bit for bit)")
    device, load = result.device or "nothing", os.getloadavg()[0]
    console.print(
        f"measured on {escape(device)}, {os.cpu_count()} CPUs, load average {load:.0f}, "
        f"in {result.seconds:.0f} s"
    )


def _table(result: Result) -> Table:
    title = f"\nTime to the first token of a prompt of {result.prompt_tokens} tokens"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for name in ("engine", "times", "loaded", "seconds", "equal"):
        table.add_column(name, justify="right")
    for row in result.rows:
        table.add_row(
            row.what, row.engine, str(row.times), str(row.loaded), f"{row.first_seconds:.3f}",
            "yes" if row.equal else "[bold red]no[/]",
        )  # fmt: skip
    return table


def _beside(beats: Beats) -> str:
    slowest = max(beats.seconds, default=0)
    return (
        f"Beside the faults, {len(beats.seconds)} requests of {len(beats.prompt)} tokens were "
        f"answered,\n{beats.loaded} of them from the store, the slowest in {slowest:.2f} s."
    )
