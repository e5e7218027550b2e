"""What ajit keeps in memory: a server with 1 000 loaded kernels, and a compile worker at work.

The server's growth is measured in a fresh process, on the CPU driver, after one kernel has been
loaded (so that libraries are not counted), with everything on disk already. The 1 000 kernels are
1 000 specs with 1 000 modules on the device; they come from one compile each of a trivial source.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio

import ajit
from benchmarks.harness import ROOT, Row
from benchmarks.racer import ARCH
from benchmarks.racer import SOURCE as CUB_SOURCE

KERNELS = 1000
WORKER_JOBS = 12
MB = 1e6


def rows() -> list[Row]:
    """Measure."""
    with tempfile.TemporaryDirectory(prefix="ajit-bench-") as cache_dir:
        _child("fill", cache_dir)
        grown = _child("load", cache_dir)["grown_bytes"]
        worker = _child("worker", cache_dir)["worker_bytes"]
    return [
        Row(f"server process, growth over {KERNELS} loaded kernels", f"{grown / MB:.1f} MB",
            "30 MB", grown < 30 * MB),
        Row(f"NVRTC worker after {WORKER_JOBS} CUB compiles", f"{worker / MB:.0f} MB",
            "400 MB", worker < 400 * MB),
    ]  # fmt: skip


def _child(what: str, cache_dir: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.memory", what, cache_dir]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _specs() -> list[ajit.Spec]:
    source = 'extern "C" __global__ void put(int* x) { *x = NUMBER; }'
    return [
        ajit.Spec(source, "put", params="int* x", defines={"NUMBER": i}, options=["-O0"])
        for i in range(KERNELS)
    ]


async def _fill(cache_dir: str) -> dict[str, Any]:
    async with ajit.open_runtime(device="none", cache_dir=cache_dir) as rt:
        specs = [spec.with_(arch="x86_64") for spec in _specs()]
        report = await rt.warmup(specs)
    assert not report.failures, report.failures[0]
    return {}


async def _load(cache_dir: str) -> dict[str, Any]:
    async with ajit.open_runtime(device="cpu", cache_dir=cache_dir) as rt:
        specs = _specs()
        await rt.kernel(specs[0])
        before = _resident_bytes("self")
        for spec in specs:
            await rt.kernel(spec)
        assert rt.statistics().loaded_modules == KERNELS
        return {"grown_bytes": _resident_bytes("self") - before}


async def _worker(cache_dir: str) -> dict[str, Any]:
    async with ajit.open_runtime(device="none", cache_dir=cache_dir, compile_slots=1) as rt:
        for salt in range(WORKER_JOBS):
            await rt.compile(
                ajit.Spec(
                    CUB_SOURCE, "crunch", options=["-std=c++17"], arch=ARCH, defines={"SALT": salt}
                )
            )
        return {"worker_bytes": max(_resident_bytes(pid) for pid in _children())}


def _children() -> list[str]:
    return Path("/proc/thread-self/children").read_text().split() + [
        pid
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
    ]


def _resident_bytes(pid: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no resident size of process {pid}")


if __name__ == "__main__":
    doers = {"fill": _fill, "load": _load, "worker": _worker}
    print(json.dumps(anyio.run(doers[sys.argv[1]], sys.argv[2])))
