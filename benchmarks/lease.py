"""How long a lease takes from one process to the next, from release to the waiting task."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anyio

from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases.table import Lease, LeaseTable
from benchmarks.harness import ROOT, Row, Sample

ROUNDS = 100
KEY = "ab" * 32
POLLED_MEDIAN = "polling every 50 ms would add 25 ms on average"


def rows() -> list[Row]:
    """Measure."""
    with tempfile.TemporaryDirectory(prefix="ajit-bench-") as cache_dir:
        table = LeaseTable(open_cache_directory(cache_dir))
        times = _hand_over(table, cache_dir)
        free = _uncontended(table)
    return [
        Row("hand-over of a lease to a waiting task", str(times), "2 ms median",
            times.median <= 0.002, POLLED_MEDIAN),
        Row("uncontended lease, taken and given back", str(free)),
    ]  # fmt: skip


def _hand_over(table: LeaseTable, cache_dir: str) -> Sample:
    command = [sys.executable, "-m", "benchmarks.lease", cache_dir]
    waiter = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert waiter.stdin and waiter.stdout
    values = []
    try:
        for _ in range(ROUNDS):
            lease = table.try_acquire(KEY, "benchmark")
            assert isinstance(lease, Lease), lease
            waiter.stdin.write("wait\n")
            waiter.stdin.flush()
            _until_blocked(waiter.pid)
            released = time.monotonic()
            lease.release()
            values.append(float(waiter.stdout.readline()) - released)
            assert waiter.stdout.readline() == "released\n"
    finally:
        waiter.stdin.close()
        waiter.wait(timeout=10)
    return Sample(tuple(values))


def _until_blocked(pid: int) -> None:
    """Return when the kernel lists the process as blocked on a lock."""
    blocked = f" {pid} "
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        lines = Path("/proc/locks").read_text().splitlines()
        if any("->" in line and blocked in line for line in lines):
            return
    raise RuntimeError("the waiter never blocked")


def _uncontended(table: LeaseTable) -> Sample:
    values = []
    for _ in range(500):
        begun = time.perf_counter()
        lease = table.try_acquire(KEY, "benchmark")
        assert isinstance(lease, Lease)
        lease.release()
        values.append(time.perf_counter() - begun)
    return Sample(tuple(values))


async def _wait(cache_dir: str) -> None:
    table = LeaseTable(open_cache_directory(cache_dir))
    while await anyio.to_thread.run_sync(sys.stdin.readline):
        with table.wait(KEY, "benchmark") as waiting:
            lease = await waiting.wait()
            now = time.monotonic()
        assert isinstance(lease, Lease), lease
        lease.release()
        print(f"{now}\nreleased", flush=True)


if __name__ == "__main__":
    anyio.run(_wait, sys.argv[1])
