"""`import ajit` has no effect: nothing heavy is loaded, started or made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]

LOOK = """
import json, os, sys, threading
threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
import ajit
print(json.dumps({
    "modules": sorted(sys.modules),
    "threads": threading.active_count() - threads,
    "descriptors": len(os.listdir("/proc/self/fd")) - descriptors,
    "names": dir(ajit),
}))
"""


def look(tmp_path):
    """The modules of a fresh interpreter after `import ajit`."""
    environ = os.environ | {"PYTHONPATH": str(PROJECT), "HOME": str(tmp_path)}
    environ.pop("XDG_CACHE_HOME", None)
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=environ, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_import_loads_neither_cuda_nor_numpy_nor_an_event_loop(tmp_path):
    """A server that imports ajit and does not use it pays nothing for it."""
    loaded = {name.partition(".")[0] for name in look(tmp_path)["modules"]}

    assert not loaded & {"cuda", "numpy", "anyio", "asyncio", "trio", "msgspec", "click", "rich"}


def test_import_starts_and_makes_nothing(tmp_path):
    """No thread, no open file, no directory."""
    seen = look(tmp_path)

    assert seen["threads"] == 0
    assert seen["descriptors"] == 0
    assert list(tmp_path.iterdir()) == []


def test_public_names_are_listed_before_they_are_loaded(tmp_path):
    """`dir(ajit)` shows what a user may take from it, although it is imported lazily."""
    assert {"open_runtime", "Spec", "Settings", "CompileError"} <= set(look(tmp_path)["names"])
