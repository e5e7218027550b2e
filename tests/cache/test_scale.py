"""Many keys, many processes, many entries. The benchmark ``scale`` has the large numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ajit._cache.entries.disk import DiskStore, Found
from ajit._cache.leases.lock_waiters import BLOCKING_LIMIT
from ajit._cache.leases.table import LeaseTable
from tests.cache.artifacts import a_key, an_artifact
from tests.cache.helpers import temporaries

PROCESSES, KEYS = 6, 150


def test_processes_that_want_everything_at_once_compile_each_key_once(store: DiskStore, path):
    """Each key once over all of them, in a handful of waiting threads each; nothing is left."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.cache.crowd_main", str(path), str(KEYS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    reports = [json.loads(process.communicate(timeout=100)[0]) for process in processes]

    assert sum(report["compiled"] for report in reports) == KEYS
    assert max(report["threads"] for report in reports) <= BLOCKING_LIMIT + 1
    assert [report["left"] for report in reports] == [0] * PROCESSES
    assert len(list(store.entries())) == KEYS
    assert temporaries(store) == []


def test_a_look_up_does_not_list_the_cache(store: DiskStore, monkeypatch):
    """One open and one read by name, however many entries there are; a miss is one failed open."""
    store.publish(an_artifact(a_key()))
    opened: list[object] = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda name, *a, **k: opened.append(name) or real(name, *a, **k)
    )
    monkeypatch.delattr(os, "scandir")
    monkeypatch.delattr(os, "listdir")

    assert isinstance(store.read(a_key()), Found)
    assert not isinstance(store.read(a_key("missing")), Found)
    assert len(opened) == 2


def test_a_lease_costs_one_descriptor_while_it_is_held(store: DiskStore):
    """And none before or after, however many lock files there are."""
    table = LeaseTable(store.directory)
    leases = [table.try_acquire(a_key(number), "nvrtc") for number in range(50)]
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for lease in leases:
        lease.release()

    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before - 50
