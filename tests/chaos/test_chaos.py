"""A short chaos run: servers, killed and stopped, on a damaged cache, with edited headers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
FAULT_SECONDS = 30
LIMIT_SECONDS = 180
SEED = 4


@pytest.mark.slow  # faults come one after another, and half a minute has some of each kind
def test_chaos_finds_nothing():
    """No compile without a cause, no hang, no wrong result, nothing left; the output says what.

    On the machine's own disk: one that hangs takes a longer run to show anything.
    """
    command = [sys.executable, "-m", "benchmarks.chaos"]
    ended = subprocess.run(
        [*command, "--seconds", str(FAULT_SECONDS), "--seed", str(SEED), "--no-disk"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
