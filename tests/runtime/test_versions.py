"""Two versions of ajit share one cache in peace: neither meets an entry of the other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

PROGRAM = """
import json, sys
given = json.loads(sys.argv[1])
for module, name, value in given["patched"]:
    __import__(module)
    setattr(sys.modules[module], name, value)
import ajit
from tests.runtime.sources import ARCH, saxpy

async def main(rt):
    return [(await rt.resolve(saxpy(n), arch=ARCH)).tier for n in (1, 2)], rt.statistics()

tiers, statistics = ajit.run(main, device="none", **given["settings"])
print(json.dumps([tiers, statistics.disk.rejected]))
"""

OTHER_VERSIONS = {
    "format of entries": ["ajit._core.entry", "FORMAT_VERSION", 99],
    "schema of keys": ["ajit._core.key", "KEY_SCHEMA", 99],
}


def start(settings: dict, *patched: list) -> tuple[list[str], int]:
    """One start of a server: where its kernels came from, and how many entries it rejected."""
    given = json.dumps({"patched": patched, "settings": settings})
    command = [sys.executable, "-c", PROGRAM, given]
    answer = subprocess.run(command, cwd=PROJECT, capture_output=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr.decode()
    tiers, rejected = json.loads(answer.stdout)
    return tiers, rejected


@pytest.mark.parametrize("other", OTHER_VERSIONS.values(), ids=OTHER_VERSIONS.keys())
def test_a_deployment_rolls_forth_and_back_without_a_compile(options, compiler, other):
    """Three starts of each in turn: only the first one of each compiles, and rejects nothing."""
    settings = {name: options[name] for name in ("cache_dir", "host_compiler")}
    starts = [start(settings, *patched) for patched in 3 * ([], [other])]

    assert starts == [(["compiled"] * 2, 0)] * 2 + [(["disk"] * 2, 0)] * 4
    assert compiler.started == 4
