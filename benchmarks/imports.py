"""What starting costs: ``import ajit`` and commands of ``ajit``, as whole processes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

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
        *_commands(beside),
    ]


def _commands(beside: str) -> list[Row]:
    """Commands on a cache with one kernel, from disk. What they import is tested, not timed."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "k.cu")
        source.write_text('extern "C" __global__ void k(int* x) { *x = 1; }')
        compiled = ("compile", str(source), "--entry", "k", "--arch", "sm_90a")
        there = ("--cache-dir", f"{folder}/cache")
        commands = {
            "compile, from disk": compiled,
            "cache ls": ("cache", "ls"),
            "doctor": ("doctor",),
        }
        return [
            Row(f"ajit {name}", str(_whole("-m", "ajit", *command, *there)), beside=beside)
            for name, command in commands.items()
        ]


def _whole(*arguments: str) -> Sample:
    command = [sys.executable, *arguments]

    def run() -> None:
        subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)

    run()
    return timed(run, RUNS)
