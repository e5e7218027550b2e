"""The demo of engines that share a KV cache, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.interrupting import interrupt_until_ended

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "examples.kv_engine", "--json"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The toy model on the CPU driver, with a temporary folder that can be looked into."""
    return os.environ | {
        "AJIT_DEVICE": "cpu",
        "KV_ENGINE_MODEL": "toy",
        "TMPDIR": str(tmp_path),
    }


@pytest.mark.slow
@pytest.mark.timeout(110)
def test_the_demo_ends_well(environment: dict[str, str], tmp_path: Path) -> None:
    """An engine and the service are killed and started again: all logits are equal to the bit.

    Slow: four starts of engines, two of services, and the kernels by the host compiler.
    """
    ran = subprocess.run(
        COMMAND, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    result = json.loads(ran.stdout)
    whole = 6 * 16
    assert result["problems"] == []
    assert result["logits_equal"]
    assert [row["loaded"] for row in result["rows"]] == [0, *[whole] * 4, 0, 0, whole]
    assert [row["times"] for row in result["rows"]] == [1, 5, 5, 1, 1, 1, 1, 1]
    assert result["beside"]["answered"] > result["beside"]["from_the_store"] > 0
    assert not list(tmp_path.iterdir())


def test_the_demo_can_be_broken_off(environment: dict[str, str], tmp_path: Path) -> None:
    """Interrupted again and again, it ends all processes, removes its folder and says so."""
    with subprocess.Popen(
        COMMAND, cwd=ROOT, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if "engine A answers" in line:
                break
        interrupt_until_ended(process)
        output, _ = process.communicate()

    assert process.returncode == 1
    result = json.loads(output)
    assert result["problems"] == ["broken off by SIGINT"]
    assert not result["logits_equal"]
    assert not list(tmp_path.iterdir())
