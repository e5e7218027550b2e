"""NVTX: what a profiler is told, recorded by a tool that NVTX itself loads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nvtx")

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def tool(tmp_path_factory) -> Path:
    """The recorder, compiled."""
    compiler = shutil.which("cc") or pytest.skip("no C compiler on PATH")
    library = tmp_path_factory.mktemp("nvtx") / "recorder.so"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, "-o", library, HERE / "nvtx_recorder.c"], check=True)
    return library


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_compiles_are_ranges_and_answers_are_marks(tool, tmp_path, backend):
    """In a domain of their own; what goes on when the block ends has an end, too."""
    recorded = tmp_path / "recorded"
    environment = os.environ | {
        "NVTX_INJECTION64_PATH": str(tool),
        "NVTX_RECORDED": str(recorded),
    }
    subprocess.run(
        [sys.executable, "-m", "tests.instrumentation.nvtx_main", tmp_path / "cache", backend],
        env=environment,
        check=True,
        timeout=120,
    )
    lines = recorded.read_text().splitlines()

    assert lines[0] == "domain ajit"
    expected = [
        "start compile good",
        "end compile good",
        "mark ready good",
        "mark loaded good",
        "start compile broken",
        "end compile broken",
        "mark compile failed broken",
        "start compile cut",
        "end compile cut",
        "mark compile cancelled cut",
        "start stall cpu",
        "end stall cpu",
    ]
    assert [line for line in lines if line in expected] == expected


def test_a_program_without_a_profiler_is_told_nothing(tmp_path):
    """And runs as well."""
    environment = {name: value for name, value in os.environ.items() if "NVTX" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "tests.instrumentation.nvtx_main", tmp_path / "cache", "asyncio"],
        env=environment,
        check=False,
        timeout=120,
    )

    assert done.returncode == 0
