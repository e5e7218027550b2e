"""How late the event loop is while both cores compile.

A task sleeps 1 ms at a time and notes by how much it woke too late: idle, while ajit compiles as
many kernels at once as there are CPUs, and while the same compiles run in processes that have
nothing to do with this one, at the same CPU priority.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

import ajit
from ajit.settings import Settings
from benchmarks.harness import ROOT, Row, Sample
from benchmarks.racer import ARCH, SOURCE

SECONDS = 6.0
TICK_SECONDS = 0.001


def rows() -> list[Row]:
    """Measure."""
    idle = anyio.run(_lag_idle)
    compiling = anyio.run(_lag_compiling)
    unrelated = anyio.run(_lag_unrelated)
    return [
        Row(
            "loop lag while every core compiles",
            str(compiling),
            "no more than unrelated load",
            compiling.median <= unrelated.median * 1.1,
            f"unrelated processes: {unrelated}; idle: {idle}",
        )
    ]


async def _lag_idle() -> Sample:
    return await _ticks()


async def _lag_compiling() -> Sample:
    with tempfile.TemporaryDirectory(prefix="ajit-bench-") as cache_dir:
        async with ajit.open_runtime(device="none", cache_dir=cache_dir) as rt:
            specs = [
                ajit.Spec(SOURCE, "crunch", options=["-std=c++17"], arch=ARCH, defines={"SALT": i})
                for i in range(64)
            ]
            async with anyio.create_task_group() as group:
                group.start_soon(rt.warmup, specs)
                while rt.statistics().pool.running < rt.settings.compile_slots:
                    await anyio.sleep(0.01)
                lag = await _ticks()
                group.cancel_scope.cancel()
    return lag


async def _lag_unrelated() -> Sample:
    async with _compilers(Settings().compile_slots):
        return await _ticks()


@asynccontextmanager
async def _compilers(count: int) -> AsyncIterator[None]:
    command = [sys.executable, "-m", "benchmarks.loop_lag"]
    compilers = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        for compiler in compilers:
            assert compiler.stdout
            if await anyio.to_thread.run_sync(compiler.stdout.readline) != "compiling\n":
                raise RuntimeError("the unrelated load did not start")
        yield
        if any(compiler.poll() is not None for compiler in compilers):
            raise RuntimeError("the unrelated load ended before the measurement did")
    finally:
        for compiler in compilers:
            compiler.kill()
            compiler.wait()


async def _ticks() -> Sample:
    late = []
    end = time.perf_counter() + SECONDS
    while (begun := time.perf_counter()) < end:
        await anyio.sleep(TICK_SECONDS)
        late.append(time.perf_counter() - begun - TICK_SECONDS)
    return Sample(tuple(late))


def _compile_for_ever() -> None:
    """Be a process that compiles, until killed; bounded in case it is not."""
    from cuda.core import Program

    from benchmarks.racer_peers import compile_options

    os.nice(Settings().compiler_niceness)
    options = compile_options()
    print("compiling", flush=True)
    end = time.monotonic() + 10 * SECONDS
    while time.monotonic() < end:
        Program(SOURCE, "c++", options).compile("cubin")


if __name__ == "__main__":
    _compile_for_ever()
