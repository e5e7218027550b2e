"""From submitting device work to the task that goes on, beside threads and polling.

``python -m benchmarks.completion [--json FILE] [--effort full|brief|quick] [--device cpu|cuda]``
measures all, and ``python -m benchmarks.completion_page FILE`` makes tables and plots of that.

On the CPU driver what is measured is ajit's own way there and back, and a driver that does next to
nothing. A GPU adds its own microseconds. Each loop, with 0, 1 and 2 busy Python threads beside it,
is a separate process, and so are the peers that call the driver themselves.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio

import ajit
from ajit._gpu.driver import CPU_LIBRARY
from ajit._gpu.wire import NATIVE
from benchmarks.completion_work import LOOPS, PAUSED, SINGLE, SOURCE
from benchmarks.harness import ROOT, Row, console, environment, seconds

BUSY = (0, 1, 2)
HOP = "a hop through a thread"
CELL_SECONDS = 600.0
IMAGE = "image"
AJIT, PEERS = "benchmarks.completion_ajit", "benchmarks.completion_peers"
WHERE = {
    "cpu": "the CPU driver: a model of NVIDIA's that runs on this processor, no GPU",
    "cuda": "NVIDIA's driver",
}


def measure(device: str, effort: str, *, busy: tuple[int, ...] = BUSY, peers: bool = True) -> Any:
    """Run every cell, and return one object with all that was measured, and which cells failed."""
    cells: list[dict[str, Any]] = []
    failures: list[str] = []
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="ajit-bench-") as name:
        folder = Path(name)
        programs = [[AJIT, device]]
        if peers:
            anyio.run(_compile, device, folder)
            programs.append([PEERS, str(folder / IMAGE)])
        for loop, threads, (module, argument) in itertools.product(LOOPS, busy, programs):
            console.print(f"[dim]{module}: {loop}, {threads} busy threads ...[/dim]")
            found = {"LD_LIBRARY_PATH": name} if module == PEERS and device == "cpu" else {}
            try:
                made = _cell([module, loop, str(threads), argument, effort], found)
            except subprocess.SubprocessError as error:
                failures.append(str(error))
            else:
                cells += [{"loop": loop, "busy": threads, **measured} for measured in made]
    return {
        "machine": environment(),
        "driver": WHERE[device],
        "load": load,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "effort": effort,
        "cells": cells,
        "failures": failures,
    }


def _cell(arguments: list[str], environ: dict[str, str]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=os.environ | environ,
        stdout=subprocess.PIPE, check=True, timeout=CELL_SECONDS,
    )  # fmt: skip
    measured: list[dict[str, Any]] = json.loads(done.stdout)
    return measured


async def _compile(device: str, folder: Path) -> None:
    """Leave the kernel for the peers and, on the CPU, the driver under the name they look for."""
    spec = ajit.Spec(SOURCE, "nothing", params="float* x, int n")
    async with ajit.open_runtime(device=device, cache_dir=folder / "cache") as rt:
        (folder / IMAGE).write_bytes((await rt.compile(spec)).data)
    if device == "cpu":
        (folder / "libcuda.so.1").symlink_to(NATIVE / CPU_LIBRARY)


def rows() -> list[Row]:
    """Measure what has a budget, for the table of budgets."""
    result = measure("cpu", "budgets", busy=(0, 1), peers=False)
    made = []
    if result["failures"]:
        raise OSError("; ".join(result["failures"]))
    for loop in LOOPS:
        idle, hop = (_find(result, loop, 0, who, SINGLE) for who in ("ajit", HOP))
        made.append(_row(f"submit to resume, idle, {loop}", idle, hop, 8))
        busy, hop = (_find(result, loop, 1, who, PAUSED) for who in ("ajit", HOP))
        made.append(_row(f"the same beside a busy thread, {loop}", busy, hop, 100))
    return [*made, *_others(result)]


def _row(what: str, measured: Any, hop: Any, factor: int) -> Row:
    ratio = hop["median"] / measured["median"]
    asked = f"{factor} times faster"
    met = ratio >= factor
    if measured["loop"] == "asyncio" and not measured["busy"]:
        asked, met = f"10 µs median, {asked}", met and measured["median"] <= 10e-6
    return Row(what, _text(measured), asked, met, f"{HOP}: {_text(hop)}: {ratio:.3g} times ajit's")


def _others(result: Any) -> list[Row]:
    batch, bound, alone, idle = (
        _find(result, "asyncio", 0, "ajit", what)
        for what in (
            "submitting launches in a batch", "submitting bound launches in a batch",
            "submitting one launch", "processor seconds per second, open and unused",
        )
    )  # fmt: skip
    each = batch["median"] / batch["count"]
    beside = f"bound launches: {seconds(bound['median'] / bound['count'])}; one launch by itself: "
    beside += seconds(alone["median"])
    what = f"one launch in a batch of {batch['count']}, submitting side"
    used = idle["median"]
    return [
        Row(what, seconds(each), "1 µs", each <= 1e-6, beside),
        Row("processor time of an open, unused runtime", f"{used:.3%}", "1 %", used <= 0.01),
    ]


def _find(result: Any, loop: str, busy: int, who: str, what: str) -> Any:
    return next(
        cell
        for cell in result["cells"]
        if (cell["loop"], cell["busy"], cell["who"], cell["what"]) == (loop, busy, who, what)
    )


def _text(measured: Any) -> str:
    least, p90, p99 = (seconds(measured[which]) for which in ("least", "p90", "p99"))
    return f"{seconds(measured['median'])} (min {least}, p90 {p90}, p99 {p99})"


def main(arguments: list[str]) -> int:
    """Measure, and write or print the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.completion", description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write it; default: standard output")
    parser.add_argument("--effort", choices=("full", "brief", "quick"), default="full")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args(arguments)
    result = measure(options.device, options.effort)
    cells = ",\n  ".join(json.dumps(cell) for cell in result["cells"])  # one in a line, for diffs
    text = json.dumps({**result, "cells": []}, indent=1) + "\n"
    text = text.replace('"cells": []', f'"cells": [\n  {cells}\n ]')
    if options.json:
        options.json.write_text(text)
    else:
        print(text)
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
