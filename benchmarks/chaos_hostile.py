"""A member of the group that shares the cache, without the secret, and with bad intentions.

``python -m benchmarks.chaos_hostile ORDER``, where ORDER is a JSON object made by
`benchmarks.chaos`. It holds the locks of kernels and of compile permits, beats as a living holder
would, and plants records of failures that never were. It ends when its standard input does.

It can cost the others their patience. It must not cost more, and must not make them believe
anything.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ajit._cache.entries.failures import FailureStore
from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases.table import Lease, LeaseTable
from ajit.errors import CompileError
from benchmarks.chaos_journal import Journal

PAUSE_SECONDS = (0.2, 2.0)
HELD_SECONDS = (0.5, 8.0)
"""Shorter than the patience, and longer."""
BEAT_SECONDS = 0.3
PLANTED_SHARE = 0.4

Order = dict[str, Any]


class Hostile:
    """One such process."""

    def __init__(self, order: Order) -> None:
        self._rng = random.Random(order["seed"])  # noqa: S311 - chaos, not secrets
        self._journal = Journal(Path(order["journals"]))
        self._cache_dir = Path(order["cache_dir"])
        directory = open_cache_directory(self._cache_dir)
        self._leases = LeaseTable(directory)
        self._failures = FailureStore(directory)
        self._ended = threading.Event()

    def run(self) -> None:
        """Do harm until told to end."""
        threading.Thread(target=self._listen, daemon=True).start()
        while not self._ended.wait(self._rng.uniform(*PAUSE_SECONDS)):
            locks = sorted(self._cache_dir.glob("locks/*/*.lock"))
            if not locks:
                continue
            name = self._rng.choice(locks).stem
            with contextlib.suppress(OSError):
                if self._rng.random() < PLANTED_SHARE:
                    self._plant(name)
                else:
                    self._hold(name)

    def _listen(self) -> None:
        sys.stdin.read()
        self._ended.set()

    def _plant(self, key: str) -> None:
        """Say that a kernel does not compile."""
        begun = time.monotonic()
        error = CompileError(name="planted", key=key, compiler="none", log="it never failed")
        self._failures.record(error, ())
        self._journal.note("damaged", kind="failure", keys=[key], begun=begun)

    def _hold(self, name: str) -> None:
        """Hold a lock, and beat, for a while."""
        begun = time.monotonic()
        lease = self._leases.try_acquire(name, "hostile 1.0")
        if not isinstance(lease, Lease):
            return
        self._journal.note("hostile_took", name=name, begun=begun)
        with lease:
            end = time.monotonic() + self._rng.uniform(*HELD_SECONDS)
            while time.monotonic() < end and not self._ended.wait(BEAT_SECONDS):
                lease.beat("compiling")
        self._journal.note("hostile_left", name=name)


if __name__ == "__main__":
    Hostile(json.loads(sys.argv[1])).run()
