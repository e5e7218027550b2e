"""A fresh process wants 200 kernels that are on disk.

The entries are those of real compiles, under 200 keys. Three measures in one process that has just
been started, files in the page cache: reading the same bytes with open() and read(); reading and
verifying them (`DiskStore.read`); and the whole way of `rt.resolve` for 200 specs at once, which
adds key, include scan, tasks and threads.

The budget of 1.5 cannot be met with entries of some kilobytes in the page cache: SHA-256 alone
costs two thirds of the reading (it is measured beside), and a second thread is no way out, since
the two hand the GIL to each other at every system call (measured: 20 µs an entry with one thread,
44 with two).
"""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from benchmarks.harness import ROOT, Row, seconds

KERNELS = 200
RUNS = 7
ARCH = "sm_90a"
SOURCE = """
extern "C" __global__ void step(const float* x, float* y, int n) {
    __shared__ float tile[WIDTH + 32];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    tile[threadIdx.x] = i < n ? x[i] : 0.f;
    __syncthreads();
    float sum = 0.f;
    #pragma unroll
    for (int k = 0; k < 32; ++k) sum += tile[(threadIdx.x + k) % (WIDTH + 32)] * k;
    if (i < n) y[i] = sum;
}
"""


def rows() -> list[Row]:
    """Measure."""
    with tempfile.TemporaryDirectory(prefix="ajit-bench-") as cache_dir:
        anyio.run(_fill, cache_dir)
        reports = [_fresh(cache_dir) for _ in range(RUNS)]
    plain, verified, hashed, resolved = (
        statistics.median(report[what] for report in reports)
        for what in ("plain", "verified", "hashed", "resolved")
    )
    # Of each process's own ratios: on a shared machine, one may have had half of another's CPU.
    over = {
        what: statistics.median(report[what] / report["plain"] for report in reports)
        for what in ("verified", "resolved")
    }
    kilobytes = reports[0]["bytes"] / KERNELS / 1e3
    beside = f"open() and read(): {seconds(plain)}, {kilobytes:.1f} kB each"
    digests = f"{beside}; SHA-256 of the same bytes alone: {seconds(hashed)}"
    return [
        Row(
            f"fresh process, {KERNELS} entries read and verified, over plain reading",
            f"{over['verified']:.2f} ({seconds(verified)})",
            "1.5",
            over["verified"] <= 1.5,
            digests,
        ),
        Row(
            f"fresh process, {KERNELS} specs resolved at once, over plain reading",
            f"{over['resolved']:.2f} ({seconds(resolved)})",
            beside=beside,
        ),
    ]


def _specs() -> list[Any]:
    import ajit

    return [
        ajit.Spec(SOURCE, "step", name="step.cu", defines={"WIDTH": 32 + i}, arch=ARCH)
        for i in range(KERNELS)
    ]


async def _fill(cache_dir: str) -> None:
    import ajit

    async with ajit.open_runtime(device="none", cache_dir=cache_dir) as rt:
        await rt.warmup(_specs())


def _fresh(cache_dir: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.from_disk", cache_dir]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


async def _measure(cache_dir: str) -> dict[str, Any]:
    import ajit
    from ajit._cache.entries.disk import DiskStore, Found
    from ajit._cache.files.directory import open_cache_directory

    specs = _specs()
    async with ajit.open_runtime(device="none", cache_dir=cache_dir) as rt:
        # One request first: toolchain discovery is paid once per process and is not reading.
        await rt.resolve(specs[0].with_(defines=(("WIDTH", "32"),)))
        begun = time.perf_counter()
        async with anyio.create_task_group() as group:
            for spec in specs:
                group.start_soon(rt.resolve, spec)
        resolved = time.perf_counter() - begun
        assert rt.statistics().compiled == 0
    paths = sorted(Path(cache_dir, "entries").glob("*/*.ajit"))
    names = [str(path) for path in paths]
    keys = [path.stem for path in paths]
    store = DiskStore(open_cache_directory(cache_dir))
    reading = partial(_read_plain, names)
    reading()
    begun = time.perf_counter()
    size = reading()
    plain = time.perf_counter() - begun
    datas = [Path(name).read_bytes() for name in names]
    begun = time.perf_counter()
    for key in keys:
        assert isinstance(store.read(key), Found)
    verified = time.perf_counter() - begun
    begun = time.perf_counter()
    for data in datas:
        hashlib.sha256(data).digest()
    hashed = time.perf_counter() - begun
    return {
        "plain": plain,
        "verified": verified,
        "hashed": hashed,
        "resolved": resolved,
        "bytes": size,
    }


def _read_plain(names: list[str]) -> int:
    total = 0
    for name in names:
        with open(name, "rb", buffering=0) as file:
            total += len(file.read())
    return total


if __name__ == "__main__":
    print(json.dumps(anyio.run(_measure, sys.argv[1])))
