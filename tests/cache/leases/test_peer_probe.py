"""Two processes race each primitive: what excludes is found to, what does not is found out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ajit._cache.files.directory import CacheDirectory, open_cache_directory
from ajit._cache.leases.peer_probe import MEETING, race_with_peer

ROOT = Path(__file__).parents[3]

_PROBE = """
import dataclasses, fcntl, json, os, sys
from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases import peer_probe
if sys.argv[2] == "lies":
    fcntl.lockf = lambda *args: None
    make = os.mkdir
    def mkdir(name, *args, **kwargs):
        try: make(name, *args, **kwargs)
        except FileExistsError:
            if not name.endswith(".made"): raise
    os.mkdir = mkdir
peer, results = peer_probe.race_with_peer(open_cache_directory(sys.argv[1]), wait_seconds=60)
print(json.dumps({"peer": peer, **{one.primitive: one.excludes for one in results}}))
"""


def probes(*paths: Path, lies: bool = False) -> list[dict]:
    """What two processes find out together."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _PROBE, str(path), "lies" if lies else ""],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for path in paths
    ]
    ended = [process.communicate(timeout=100) for process in started]
    assert ["", ""] == [errors for _, errors in ended]
    return [json.loads(output) for output, _ in ended]


def test_on_a_local_disk_everything_excludes_and_nothing_is_left(path: Path):
    """Both come to the same result."""
    one, two = probes(path, path)

    assert one == two
    assert {"peer", "fcntl", "OFD lock", "flock", "O_EXCL", "link", "mkdir", "rename away"} == set(
        one
    )
    assert all(one.values())
    assert [] == list((path / "tmp").iterdir())


def test_what_does_not_exclude_is_found_out(path: Path):
    """Locks that are given to both, and a call that lets both win."""
    one, two = probes(path, path, lies=True)

    assert one == two
    assert [False, True, False, True] == [one[n] for n in ("fcntl", "flock", "mkdir", "link")]


def test_no_other_process_is_an_answer_and_leaves_nothing(directory: CacheDirectory):
    """Its wait is bounded."""
    with pytest.raises(TimeoutError, match="no other process came"):
        race_with_peer(directory, wait_seconds=0.1)
    assert [] == [
        place for place in Path(directory.path, "tmp").rglob("*") if place.name != "peer-probe"
    ]


def test_a_probe_that_died_is_not_met(path: Path):
    """Its place is old by the clock of the file system."""
    import os

    dead = path / "tmp" / "peer-probe" / "host.1.2.3.dead"
    open_cache_directory(path)
    dead.mkdir(parents=True)
    os.utime(dead, (1e9, 1e9))
    with pytest.raises(TimeoutError):
        race_with_peer(open_cache_directory(path), wait_seconds=0.1)


def test_a_peer_that_was_killed_is_not_met(directory: CacheDirectory) -> None:
    """What it has left says who it was; it would be waited for in vain, by all later ones."""
    program = "from ajit._system.process import this_process as p; print(p().file_prefix)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    left = Path(directory.path, MEETING, f"{done.stdout.strip()}.0123abcd")
    left.mkdir(parents=True)

    with pytest.raises(TimeoutError, match="no other process came"):
        race_with_peer(directory, wait_seconds=0.1)
