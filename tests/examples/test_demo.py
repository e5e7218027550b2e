"""The demo as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.interrupting import interrupt_until_ended

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "examples.model_server.demo", "--json"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The demo on the CPU driver, with a temporary folder that can be looked into afterwards."""
    return os.environ | {"AJIT_DEVICE": "cpu", "TMPDIR": str(tmp_path)}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_ends_well(environment: dict[str, str], tmp_path: Path) -> None:
    """Two server starts and a compile for another GPU: nothing goes wrong, nothing stays behind.

    Slow, because it is the whole main job: 26 kernels by the host compiler, and again by NVRTC.
    """
    ran = subprocess.run(
        COMMAND, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    result = json.loads(ran.stdout)
    assert not result["problems"]
    assert {1} == {kernel["compiles"] for kernel in result["cold"]}
    assert {4} == {kernel["asked"] for kernel in result["cold"]}
    assert {4} == {kernel["disk"] for kernel in result["restart"]}
    assert len(result["cold"]) == len(result["cubins"])
    assert not list(tmp_path.iterdir())


def test_the_demo_can_be_broken_off(environment: dict[str, str], tmp_path: Path) -> None:
    """Told to end while its server runs, it ends the server, removes its folder and says so."""
    with subprocess.Popen(
        COMMAND,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stderr:
            if "workers answer" in line:
                break
        interrupt_until_ended(process)
        output, _ = process.communicate()

    assert process.returncode == 1
    assert "broken off by SIGINT" in json.loads(output)["problems"]
    assert not list(tmp_path.iterdir())


def test_a_server_that_does_not_start_is_reported_with_its_log(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """The demo does not wait for workers that will never come, and shows why they did not."""
    ran = subprocess.run(
        COMMAND,
        cwd=ROOT,
        env=environment | {"AJIT_DEVICE": "abacus"},
        capture_output=True,
        text=True,
        check=False,
    )

    (problem,) = json.loads(ran.stdout)["problems"]
    assert ran.returncode == 1
    assert "ServerFailed" in problem
    assert "abacus" in problem
    assert not list(tmp_path.iterdir())
