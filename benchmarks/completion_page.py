"""Tables and plots of what `benchmarks.completion` measured.

``python -m benchmarks.completion_page RESULT.json PAGE.md PLOT.svg``

Writes the plot, and puts the tables into the page, between its two marks. The rest of the page is
left as it is.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.completion_work import PAUSED, SINGLE
from benchmarks.harness import seconds
from benchmarks.plot import Line, plot

BEGIN, END = "<!-- completion: begin -->", "<!-- completion: end -->"
BUSY = ("idle", "beside one busy thread", "beside two busy threads")
HOP = "a hop through a thread"
IN_TASKS = "tasks in flight"
ROWS = (
    ("ajit", SINGLE), ("ajit", PAUSED), (HOP, SINGLE), (HOP, PAUSED),
    ("threads with cuda.bindings", SINGLE), ("threads with cuda.bindings", PAUSED),
    ("polling every 1 ms", PAUSED), ("polling every 5 ms", PAUSED),
)  # fmt: skip


class Result:
    """What was measured, to be asked."""

    def __init__(self, measured: dict[str, Any]) -> None:
        load = f"load average {measured['load']:.1f} before it"
        self.about = f"{measured['machine']}; on {measured['driver']}; {measured['date']}, {load}"
        self.cells: list[dict[str, Any]] = measured["cells"]
        self.loops = list(dict.fromkeys(cell["loop"] for cell in self.cells))

    def find(self, loop: str, busy: int, who: str, what: str) -> list[dict[str, Any]]:
        """Everything of one kind, by growing count."""
        wanted = {"loop": loop, "busy": busy, "who": who, "what": what}
        found = [cell for cell in self.cells if wanted.items() <= cell.items()]
        return sorted(found, key=lambda cell: cell["count"])


def tables(result: Result) -> str:
    """All tables, as Markdown."""
    parts = [f"Measured on: {result.about}."]
    for busy, title in enumerate(BUSY):
        parts.append(f"**One operation at a time, {title}** (median; 99th percentile in brackets)")
        parts.append(_singles(result, busy))
    for busy, title in enumerate(BUSY[:2]):
        parts.append(f"**Many in flight, {title}, asyncio** (median, each operation's share)")
        parts.append(_in_flight(result, busy))
    parts += ["**A batch as one submission, asyncio** (median of the whole batch)"]
    parts.append(_batches(result))
    return "\n\n".join(parts)


def _singles(result: Result, busy: int) -> str:
    rows = [["", *result.loops]]
    for who, what in ROWS:
        cells = [result.find(loop, busy, who, what) for loop in result.loops]
        rows.append([f"{who}, {what}", *(_single(found) for found in cells)])
    for loop_row in (SINGLE, PAUSED):
        ratios = [_ratio(result, loop, busy, loop_row) for loop in result.loops]
        rows.append([f"hop / ajit, {loop_row}", *ratios])
    return _markdown(rows)


def _single(found: list[dict[str, Any]]) -> str:
    return f"{seconds(found[0]['median'])} ({seconds(found[0]['p99'])})" if found else "-"


def _ratio(result: Result, loop: str, busy: int, what: str) -> str:
    ajit, hop = (result.find(loop, busy, who, what) for who in ("ajit", HOP))
    return f"{hop[0]['median'] / ajit[0]['median']:.3g}" if ajit and hop else "-"


def _in_flight(result: Result, busy: int) -> str:
    ways = _ways(result, busy)
    counts = sorted({cell["count"] for found in ways.values() for cell in found})
    rows = [["in flight", *map(str, counts)]]
    for name, found in ways.items():
        each = {cell["count"]: seconds(cell["median"] / cell["count"]) for cell in found}
        rows.append([name, *(each.get(count, "-") for count in counts)])
    return _markdown(rows)


def _ways(result: Result, busy: int) -> dict[str, list[dict[str, Any]]]:
    in_order = result.find("asyncio", busy, "ajit", "one task awaits all")
    ways = {"ajit, one task awaits all": in_order}
    for who in dict.fromkeys(who for who, _ in ROWS):
        ways[f"{who}, a task each"] = result.find("asyncio", busy, who, IN_TASKS)
    return {name: found for name, found in ways.items() if found}


def _batches(result: Result) -> str:
    found = [result.find("asyncio", busy, "ajit", "a batch") for busy in range(len(BUSY))]
    rows = [["operations", *(str(cell["count"]) for cell in found[0])]]
    for title, cells in zip(BUSY, found, strict=True):
        rows.append([title, *(seconds(cell["median"]) for cell in cells)])
    return _markdown(rows)


def _markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def picture(result: Result) -> str:
    """How the cost grows with the number in flight, as SVG."""
    panels = []
    for busy, title in enumerate(BUSY[:2]):
        lines = [
            Line(name, [(cell["count"], cell["median"] * 1e6) for cell in found])
            for name, found in _ways(result, busy).items()
        ]
        panels.append((title, lines))
    return plot(
        "All operations submitted at once until the last is resumed, asyncio", result.about,
        panels, x="operations in flight", y="microseconds",
    )  # fmt: skip


def main(arguments: list[str]) -> int:
    """Write plot and tables."""
    source, page, drawing = map(Path, arguments)
    result = Result(json.loads(source.read_text()))
    drawing.write_text(picture(result))
    before, rest = page.read_text().split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{tables(result)}\n\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
