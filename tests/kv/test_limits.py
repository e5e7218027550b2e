"""A store in a process that gets no more memory, descriptors or threads: busy, and no more."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

TIMEOUT_SECONDS = 60


@pytest.mark.parametrize("served", ["served", "in process"])
@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_NOFILE", "RLIMIT_FSIZE"])
@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_a_slab_that_cannot_be_had_makes_the_store_busy(tmp_path, backend, limit, served):
    """What is there is served on; one warning and an event say so, and later there is more."""
    tmp_path.chmod(0o700)
    command = [sys.executable, "-m", "tests.kv.limited_main", backend, limit, served, str(tmp_path)]
    run = subprocess.run(
        command, check=True, timeout=TIMEOUT_SECONDS, capture_output=True, text=True
    )
    result = json.loads(run.stdout)

    assert result["first"] == result["again"] == 4
    assert result["refused"] == [0, "busy", 0, "busy"]
    assert result["found"] == [4, 4]
    assert result["told"] == ["SlabAdded", "SlabRefused", "SlabAdded"]
    assert result["problem"] == ""
    assert len([text for text in result["warned"] if "stays at 1 slabs" in text]) == 1
    assert run.stderr == ""
