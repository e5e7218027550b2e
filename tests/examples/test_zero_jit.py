"""The example of a server that compiles nothing while it serves, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.zero_jit.kernels import WIDTHS
from examples.zero_jit.scenario import UNSEEN
from tests.examples.interrupting import interrupt_until_ended

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "examples.zero_jit", "--own", "--json"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With a temporary folder that can be looked into afterwards."""
    return os.environ | {"TMPDIR": str(tmp_path)}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_second_start_elsewhere_compiles_nothing(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Recorded, carried, replayed, frozen; and what was never asked for is served and told.

    Slow: two servers, and five kernels by the host compiler.
    """
    ran = subprocess.run(
        COMMAND, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    result = json.loads(ran.stdout)
    used = len(WIDTHS) + 2
    assert result["problems"] == []
    assert (result["cold"]["compiled"], result["second"]["compiled"]) == (used, 0)
    assert (result["carried"]["entries"], result["carried"]["recorded"]) == (used, used)
    ready = result["second"]["ready"]
    assert (ready["total"], ready["from_disk"], ready["unresolved"]) == (used, used, [])
    answer, told = result["unseen"]
    assert (answer["fallback"], answer["ok"]) == (True, True)
    assert told["told"]["name"] == f"rms_norm {UNSEEN}"
    assert told["told"]["differences"][0][0] == "define WIDTH"
    assert not list(tmp_path.iterdir())


def test_it_can_be_broken_off(environment: dict[str, str], tmp_path: Path) -> None:
    """It ends its server, removes its folder and says so."""
    with subprocess.Popen(
        COMMAND, cwd=ROOT, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert "first start" in process.stderr.readline()
        interrupt_until_ended(process)
        output, _ = process.communicate()

    assert process.returncode == 1
    assert "broken off by SIGINT" in json.loads(output)["problems"]
    assert not list(tmp_path.iterdir())
