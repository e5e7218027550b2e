"""How soon waiting processes have a kernel after the holder of its lease has published it.

Measured with a glance under the lock. Beside it the way through the event loops, one process after
another: the lease, a thread for the entry, a thread for the release.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import anyio

from ajit._cache.entries.disk import DiskStore, Found
from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases.table import Glimpse, Lease, LeaseTable
from ajit._core.entry import Artifact
from benchmarks.harness import ROOT, Row, Sample

ROUNDS = 5
SIZES = (8, 32)
KEY = "ab" * 32
CODE_BYTES = 50_000


def rows() -> list[Row]:
    """Measure."""
    return [_row(count) for count in SIZES]


def _row(count: int) -> Row:
    measured, beside = _chain(count, "glance"), _chain(count, "loop")
    return Row(
        f"a published kernel at the median waiter of {count} processes",
        str(Sample(tuple(measured))), "10 ms", Sample(tuple(measured)).median <= 0.010,
        f"{Sample(tuple(beside))} through the event loop",
    )  # fmt: skip


def _chain(count: int, mode: str) -> list[float]:
    """Seconds from publishing to each waiter, of all rounds."""
    with tempfile.TemporaryDirectory(prefix="ajit-bench-") as cache_dir:
        command = [sys.executable, "-m", "benchmarks.chain", cache_dir, mode]
        waiters = [
            subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(count)
        ]
        try:
            return [took for _ in range(ROUNDS) for took in _round(cache_dir, waiters)]
        finally:
            for waiter in waiters:
                waiter.communicate(timeout=30)


def _round(cache_dir: str, waiters: list[subprocess.Popen[str]]) -> list[float]:
    store = DiskStore(open_cache_directory(cache_dir))
    lease = LeaseTable(store.directory).try_acquire(KEY, "benchmark")
    assert isinstance(lease, Lease), lease
    for waiter in waiters:
        assert waiter.stdin
        waiter.stdin.write("wait\n")
        waiter.stdin.flush()
    _until_blocked({waiter.pid for waiter in waiters})
    begun = time.monotonic()
    store.publish(_artifact())
    lease.release()
    ends = [json.loads(waiter.stdout.readline()) for waiter in waiters if waiter.stdout]
    store.remove(KEY)
    return [end - begun for end in ends]


def _until_blocked(pids: set[int]) -> None:
    """Return when the kernel lists all processes as blocked on a lock."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        if pids <= {int(line[5]) for line in lines if line[1] == "->"}:
            return
        time.sleep(0.01)
    raise RuntimeError("some waiters never blocked")


def _artifact() -> Artifact:
    return Artifact(
        key=KEY, base=KEY, key_fields=(), name="benchmark", kind="cubin", arch="sm_90a",
        compiler="nvrtc", compiler_version="13.0", entries=("k",), lowered={"k": "k"},
        log="", command=(), created=time.time(), seconds=1.0, host="here", ajit_version="0",
        data=os.urandom(CODE_BYTES),
    )  # fmt: skip


def _glance(store: DiskStore) -> Found | None:
    lookup = store.read(KEY)
    return lookup if isinstance(lookup, Found) else None


async def _wait(cache_dir: str, mode: str) -> None:
    store = DiskStore(open_cache_directory(cache_dir))
    table = LeaseTable(store.directory)
    glance = partial(_glance, store) if mode == "glance" else None
    while await anyio.to_thread.run_sync(sys.stdin.readline):
        with table.wait(KEY, "benchmark", glance=glance) as waiting:
            won = await waiting.wait()
        if isinstance(won, Lease):
            assert await anyio.to_thread.run_sync(_glance, store)
            await anyio.to_thread.run_sync(won.release)
        else:
            assert isinstance(won, Glimpse), won
        print(time.monotonic(), flush=True)


if __name__ == "__main__":
    anyio.run(_wait, sys.argv[1], sys.argv[2])
