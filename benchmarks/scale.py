"""Many kernels, many processes, many entries: what it takes, and what it must not depend on.

1. 1 000 kernels are asked for by 16 processes at the same moment, in a cold cache. The whole way of
   `rt.resolve`, but for the compiler, in whose place a pause of 20 ms stands: compiles are not what
   is measured.
2. A look-up, and planning an eviction, in a cache of 100 000 entries beside one of 100.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import anyio

import ajit
from ajit._cache.entries.collector import Collector, Limits
from ajit._cache.entries.disk import DiskStore, Found
from ajit._cache.files.directory import CacheDirectory, open_cache_directory
from ajit._cache.leases.table import LeaseTable
from ajit._compile.pool.pool import CompilePool
from ajit._core.entry import Artifact
from ajit._core.job import CompileJob, CompileOutput
from benchmarks.harness import Racers, Row, Sample, race, seconds

KERNELS = 1000
PROCESSES = 16
COMPILE_SECONDS = 0.02
ENTRIES = (100, 100_000)
ROUNDS = 10
LINKS = 30_000
"""Names of one file: file systems allow some ten thousand."""
MB = 1e6


def rows() -> list[Row]:
    """Measure."""
    return [*_crowd_rows(), *_size_rows()]


# --- many processes ---


def _crowd_rows() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="ajit-bench-") as cache_dir:
        racers = race("benchmarks.scale", PROCESSES, cache_dir)
        entries = sum(1 for _ in DiskStore(open_cache_directory(cache_dir)).entries())
    compiles = sum(report["compiles"] for report in racers.reports)
    most = {
        what: max(report[what] for report in racers.reports)
        for what in ("seconds", "threads", "lock_threads", "descriptors", "grown_bytes")
    }
    asked = f"{KERNELS} kernels asked by {PROCESSES} processes at once"
    return [
        Row(f"{asked}: compiles", f"{compiles} for {entries} entries", str(KERNELS),
            compiles == KERNELS),
        Row("the same: slowest process", seconds(most["seconds"]), beside=_share(racers)),
        Row("the same: CPU time of all", seconds(sum(r["cpu_seconds"] for r in racers.reports)),
            beside=f"of {seconds(most['seconds'] * len(os.sched_getaffinity(0)))} there were"),
        Row("the same: threads that wait for locks, most", str(most["lock_threads"]), "9",
            most["lock_threads"] <= 9, f"{most['threads']} threads in all"),
        Row("the same: open descriptors, most", str(most["descriptors"])),
        Row("the same: growth of a process", f"{most['grown_bytes'] / MB:.0f} MB"),
    ]  # fmt: skip


def _share(racers: Racers) -> str:
    """What the slowest process did, and what it waited for."""
    slowest = max(racers.reports, key=lambda report: report["seconds"])
    longest, cpu = seconds(slowest["longest_wait"]), seconds(slowest["cpu_seconds"])
    return (
        f"it compiled {slowest['compiles']}, waited for others for {slowest['waited']} kernels, "
        f"at most {longest}, and used {cpu} of CPU"
    )


class _Watch(threading.Thread):
    """Notes the most threads and descriptors that this process has at any time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = {"threads": 0, "lock_threads": 0, "descriptors": 0}
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.02):
            now = {
                "threads": threading.active_count(),
                "lock_threads": LeaseTable.statistics().threads,
                "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
            }
            self.most = {what: max(most, now[what]) for what, most in self.most.items()}


def _pause_instead_of_compiling() -> list[str]:
    """Put a pause in the compilers' place; return the list of the keys that are then compiled."""
    compiled: list[str] = []

    async def compile_(_pool: CompilePool, job: CompileJob, **_options: object) -> CompileOutput:
        compiled.append(job.key)
        await anyio.sleep(COMPILE_SECONDS)
        return CompileOutput(
            kind="cubin", data=bytes(5000), lowered={"put": "put"}, log="", command=(),
            seconds=COMPILE_SECONDS,
        )  # fmt: skip

    CompilePool.compile = compile_  # type: ignore[method-assign,assignment]
    return compiled


async def _ask(cache_dir: str) -> None:
    compiled = _pause_instead_of_compiling()
    source = 'extern "C" __global__ void put(int* x) { *x = NUMBER; }'
    specs = [
        ajit.Spec(source, "put", params="int* x", defines={"NUMBER": i}, arch="sm_90a")
        for i in range(KERNELS)
    ]
    async with ajit.open_runtime(device="none", cache_dir=cache_dir) as rt:
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        watch, before, begun = _Watch(), _peak_bytes(), time.perf_counter()
        watch.start()
        cpu, waits = time.process_time(), []

        async def resolve(spec: ajit.Spec) -> None:
            waited_for = (await rt.resolve(spec)).waited_for
            if waited_for is not None:
                waits.append(waited_for.seconds)

        async with anyio.create_task_group() as group:
            for spec in specs:
                group.start_soon(resolve, spec)
        took, cpu = time.perf_counter() - begun, time.process_time() - cpu
        watch.over.set()
    report = {
        "seconds": took, "cpu_seconds": cpu, "compiles": len(compiled), "waited": len(waits),
        "longest_wait": max(waits, default=0.0), "grown_bytes": _peak_bytes() - before,
    }  # fmt: skip
    print(json.dumps(report | watch.most), flush=True)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- many entries ---


def _size_rows() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="ajit-bench-") as root:
        stores = [DiskStore(open_cache_directory(f"{root}/{entries}")) for entries in ENTRIES]
        for store, entries in zip(stores, ENTRIES, strict=True):
            keys = fill(store.directory, entries)
        few, many = _look_up(stores, keys)
        begun = time.perf_counter()
        Collector(stores[1].directory, Limits(max_bytes=1)).plan()
        planned = time.perf_counter() - begun
    ratio = many.median / few.median
    return [
        Row(f"look-up among {ENTRIES[1]} entries over {ENTRIES[0]}", f"{ratio:.2f}", "1.2",
            ratio <= 1.2, f"{many} and {few}"),
        Row(f"planning an eviction among {ENTRIES[1]} entries", seconds(planned)),
    ]  # fmt: skip


def _look_up(stores: list[DiskStore], keys: list[str]) -> list[Sample]:
    """Look up the same keys in all stores in turn, so that a busy machine is as busy for all."""
    values: list[list[float]] = [[] for _ in stores]
    for key in keys * ROUNDS:
        for store, taken in zip(stores, values, strict=True):
            begun = time.perf_counter()
            assert isinstance(store.read(key), Found)
            taken.append(time.perf_counter() - begun)
    return [Sample(tuple(taken)) for taken in values]


def fill(directory: CacheDirectory, entries: int, *, real: int = 100) -> list[str]:
    """Fill a cache; return the keys of the entries in it that are real, and not only names."""
    store, keys = DiskStore(directory), [_key(number) for number in range(real)]
    for key in keys:
        store.publish(_artifact(key))
    root = Path(directory.path)
    for number in range(real, entries):
        if (number - real) % LINKS == 0:
            target = root / "tmp" / f"target-{number}"
            target.write_bytes(bytes(5000))
        key = _key(number)
        folder = root / "entries" / key[:2]
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / f"{key}.ajit").hardlink_to(target)
    return keys


def _key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def _artifact(key: str) -> Artifact:
    return Artifact(
        key=key, base=key, key_fields=(), name="benchmark", kind="cubin", arch="sm_90a",
        compiler="nvrtc", compiler_version="13.0", entries=("k",), lowered={"k": "k"},
        log="", command=(), created=time.time(), seconds=1.0, host="here", ajit_version="0",
        data=bytes(5000),
    )  # fmt: skip


if __name__ == "__main__":
    anyio.run(partial(_ask, sys.argv[1]))
