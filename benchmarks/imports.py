"""What starting costs: ``import ajit`` and ``ajit --help``, as whole processes."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.harness import ROOT, Row, Sample, seconds, timed

RUNS = 15


def rows() -> list[Row]:
    """Measure, beside an interpreter that imports nothing."""
    bare = _whole("-c", "pass")
    imported = _whole("-c", "import ajit")
    opened = _whole("-c", "import ajit; ajit.open_runtime")
    shown = _whole("-m", "ajit", "--help")
    cost = imported.median - bare.median
    beside = f"python -c pass: {seconds(bare.median)}"
    return [
        Row("import ajit, above a bare interpreter", seconds(cost), "60 ms", cost < 0.060, beside),
        Row(
            "import ajit; ajit.open_runtime, above a bare interpreter",
            seconds(opened.median - bare.median),
        ),
        Row("ajit --help, whole process", str(shown), "150 ms", shown.median < 0.150, beside),
    ]


def _whole(*arguments: str) -> Sample:
    command = [sys.executable, *arguments]

    def run() -> None:
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

    run()
    return timed(run, RUNS)
