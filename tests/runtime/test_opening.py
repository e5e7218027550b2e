"""Opening the first runtime of a process: the event loop goes on while everything is imported."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys, threading
import anyio

class Imports:
    "Notes each module that is looked for, and whether the loop's thread looks for it."
    seen = []

    def find_spec(self, name, path=None, target=None):
        Imports.seen.append((name, threading.get_ident() == loop))

settings = json.loads(sys.argv[2])

async def main():
    import ajit
    await anyio.to_thread.run_sync(lambda: None)  # anyio has its own things to import
    sys.meta_path.insert(0, Imports())
    async with ajit.open_runtime(**settings) as rt:
        print(json.dumps(Imports.seen))

loop = threading.get_ident()
anyio.run(main, backend=sys.argv[1])
"""

PUBLIC = {"ajit._open", "ajit.errors"}
"""What it takes to find `ajit.open_runtime` by its name; they import next to nothing."""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("device", ["none", "cpu"])
def test_first_runtime_imports_nothing_in_the_loops_thread(backend, device, options):
    """Importing takes 0.1 to 0.2 s, in which every other task of a server would wait."""
    settings = json.dumps({**options, "device": device})
    command = [sys.executable, "-c", PROGRAM, backend, settings]

    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    looked_for = [tuple(pair) for pair in json.loads(ran.stdout)]

    in_loop = {name for name, by_loop in looked_for if by_loop}
    in_threads = {name for name, by_loop in looked_for if not by_loop}
    assert {"ajit._runtime", "ajit._parts"} <= in_threads
    assert ("ajit._gpu.device" in in_threads) == (device == "cpu")
    assert in_loop <= PUBLIC
