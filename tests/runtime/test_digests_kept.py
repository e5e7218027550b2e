"""A node keeps its digests: a second process reads neither compilers nor headers to hash them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

PROGRAM = """
import json, sys
import anyio, ajit
from ajit._compile.recorder.digests import digests
from ajit._compile.toolchains.toolchains import Toolchains
from ajit.settings import Settings

hashed, compute = [], digests._compute
digests._compute = lambda path: hashed.append(path) or compute(path)

def look():
    toolchain = Toolchains(Settings()).find("host")
    return toolchain.identity.fingerprint, [digests.get(path) for path in sys.argv[3:]]

async def main():
    async with ajit.open_runtime(device="none", cache_dir=sys.argv[2]) as rt:
        found = await anyio.to_thread.run_sync(look)
    assert not digests._sources, "a closed runtime is told nothing more"
    print(json.dumps({"found": found, "hashed": hashed}))

anyio.run(main, backend=sys.argv[1])
"""


def run(*args: str) -> dict[str, Any]:
    """Run the program in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, *args]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_second_process_hashes_no_file_that_the_first_one_has(backend: str, tmp_path: Path):
    """What it uses is what the first one has found: it was written when its runtime closed."""
    files = [str(anyio.__file__), str(msgspec.__file__)]
    first, second = (run(backend, str(tmp_path / "cache"), *files) for _ in range(2))

    assert set(files) < set(first["hashed"])
    assert second["hashed"] == []
    assert second["found"] == first["found"]
