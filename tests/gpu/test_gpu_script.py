"""`make gpu` works without a GPU as far as it can: on the CPU driver, part by part."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from benchmarks.gpu.__main__ import MEASUREMENTS, STEPS, Step, run_step
from benchmarks.harness import ROOT

PEERS = {"launch cupy", "launch triton", "launch torch"}


def gpu(*arguments, **environ):
    """Run the script."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments], cwd=ROOT, env=os.environ | environ,
        check=False, capture_output=True, text=True, timeout=280,
    )  # fmt: skip


@pytest.mark.slow  # every part is a process or several, and three deadlocks are waited for
@pytest.mark.timeout(300)
def test_every_part_runs_on_the_cpu_driver(tmp_path):
    """One report, not of a GPU; no part failed, and only peers that need one are left out."""
    path = tmp_path / "report.json"
    done = gpu("--driver", "cpu", "--effort", "quick", "--report", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(path.read_text())
    parts = report["parts"]

    assert not report["of_a_gpu"]
    assert report["free_memory_bytes_after"] == report["device"]["free_memory_bytes"]
    assert list(parts) == [step.name for step in STEPS]
    assert {name for name, part in parts.items() if "skipped" in part} == PEERS
    assert parts["capture"]["result"]["by_the_driver"]["capture_code"] != 0
    assert parts["capture"]["result"]["by_ajit"]["capture_code"] == 0
    assert parts["tests"]["result"]["tests"] > 10


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path):
    """Exit code 4."""
    path = tmp_path / "report.json"
    done = gpu("--report", str(path), CUDA_VISIBLE_DEVICES="")

    assert done.returncode == 4
    assert "nothing is written" in done.stdout
    assert not path.exists()


@pytest.mark.parametrize("report", [[], ["--report", str(MEASUREMENTS / "cpu.json")]])
def test_a_report_of_the_cpu_driver_is_not_kept_with_those_of_gpus(report):
    """A report of the CPU driver goes anywhere but where those of GPUs are."""
    done = gpu("--driver", "cpu", *report)

    assert done.returncode == 2
    assert "docs/measurements" in done.stderr


def test_a_part_that_fails_or_hangs_leaves_the_others(tmp_path):
    """Its outcome says what happened, with the end of its log; nothing is raised."""
    missing = run_step(Step("missing", "no_such_part"), "cpu", "quick", tmp_path)
    hanging = run_step(Step("hanging", "million", seconds=0.05), "cpu", "full", tmp_path)

    assert missing["failed"] == "exit status 1"
    assert "no_such_part" in missing["log"][-1]
    assert hanging["failed"] == "not done after 0 s"
