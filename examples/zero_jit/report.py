"""How the result is printed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from examples.zero_jit.scenario import UNSEEN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from examples.zero_jit.scenario import Result
    from examples.zero_jit.start import Start

__all__ = ["as_json", "print_tables"]

DEVICE = "own kernels on the CPU driver; Triton's and FlashInfer's compiled for sm_90(a), not run"


def as_json(result: Result) -> str:
    """Return the result as one JSON object."""
    return json.dumps({
        "measured_on": DEVICE,
        "peers": list(result.peers),
        "left_out": {name: list(lacking) for name, lacking in result.left_out.items()},
        "cold": _facts(result.cold),
        "carried": result.carried,
        "second": _facts(result.warm) | {"compiled": result.compiled_warm},
        "fraction": result.fraction,
        "unseen": None if result.late is None else [dict(each.says) for each in result.late],
        "problems": result.problems(),
    })  # fmt: skip


def print_tables(result: Result) -> None:
    """Print what was measured, for people."""
    console = Console(highlight=False)
    if result.cold and result.warm:
        console.print(_starts(result.cold, result.warm, result))
        console.print(_requests(result.cold, result.warm))
    if result.carried:
        console.print(f"\nCarried: {_carried(result.carried)}")
    for line in result.warm.ready["unresolved"] if result.warm else ():
        console.print(f"Not replayed: {escape(line)}", soft_wrap=True)
    if result.late is not None:
        console.print(_late(result))
    for name, lacking in result.left_out.items():
        console.print(
            f"Left out: {name}, for {', '.join(lacking)} is not installed (make integrations)"
        )
    if result.fraction is not None and result.cold is not None:
        console.print(
            f"\nReady in {result.fraction:.0%} of the {result.cold.all_seconds:.1f} s that the "
            f"cold start took. All times are of this machine: {DEVICE}."
        )
    for problem in result.problems():
        console.print(f"[bold red]problem[/]: {escape(problem)}")


def _starts(cold: Start, warm: Start, result: Result) -> Table:
    table = _table("Two starts", "", "first, cold", "second, carried")
    rows = [
        (
            "seconds until it says that it is ready",
            *(f"{s.ready_seconds:.2f}" for s in (cold, warm)),
        ),
        ("seconds until all was answered once", *(f"{s.all_seconds:.2f}" for s in (cold, warm))),
        ("slowest first answer, seconds", *(f"{s.slowest.seconds:.3f}" for s in (cold, warm))),
        ("compiles and builds", str(cold.end["compiled"]), str(result.compiled_warm)),
        (
            "replayed of the record",
            "",
            f"{warm.ready['from_disk']} of {warm.ready['total']} from disk",
        ),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _requests(cold: Start, warm: Start) -> Table:
    table = _table("First answers, in milliseconds", "request", "first, cold", "second, carried")
    for before, after in zip(cold.answers, warm.answers, strict=True):
        times = (f"{1000 * answer.seconds:,.1f}" for answer in (before, after))
        table.add_row(_label(before.request), *times)
    return table


def _carried(carried: Mapping[str, Any]) -> str:
    return (
        f"{carried['entries']} entries and {carried['reading_lists']} reading lists, "
        f"{carried['bytes']:,} bytes in an archive of {carried['archive_bytes']:,}; "
        f"{carried['recorded']} lines of a record; the gate lacks {carried['lacking']}"
    )


def _late(result: Result) -> str:
    assert result.late is not None  # it is printed
    answer, told = result.late
    event = told.says["told"]
    differs = ", ".join(f"{part}: {a} there, {b} here" for part, a, b in event["differences"])
    return (
        f"\nFrozen, and asked for width {UNSEEN}: answered by {answer.says['kernel']!r} after "
        f"{1000 * answer.seconds:.1f} ms, and right.\nTold: {event['name']!r} is compiled late; "
        f"nearest is {event['nearest'][:16]}, and differs in {differs}"
    )


def _facts(start: Start | None) -> dict[str, Any]:
    if start is None:
        return {}
    return {
        "ready_seconds": start.ready_seconds,
        "all_answered_seconds": start.all_seconds,
        "compiled": start.end.get("compiled"),
        "ready": dict(start.ready),
        "answers": [
            {"request": dict(each.request), "seconds": each.seconds, **each.says}
            for each in start.answers
        ],
    }


def _label(request: Mapping[str, Any]) -> str:
    if "rms_norm" in request:
        return f"rms_norm {request['rms_norm'] or 'of any width'}"
    return " ".join(str(value) for value in request.values())


def _table(title: str, *columns: str) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left")
    return table
