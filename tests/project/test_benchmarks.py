"""`python -m benchmarks` says what it can measure. Its figures are not tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def benchmarks(*args: str) -> subprocess.CompletedProcess[str]:
    """Run the command in the source folder."""
    command = [sys.executable, "-m", "benchmarks", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_lists_every_benchmark_with_its_subject() -> None:
    """Each name, and the first sentence of the module behind it; nothing is measured for it."""
    ended = benchmarks("--help")

    assert ended.returncode == 0
    assert "loop_lag    How late the event loop is" in ended.stdout
    assert "measuring" not in ended.stdout


def test_benchmark_that_is_not_there_is_a_usage_error_before_any_is_run() -> None:
    """The names that there are stand in the message."""
    ended = benchmarks("hot", "cold")

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "no such benchmark: cold; there are hot, from_disk" in ended.stderr
