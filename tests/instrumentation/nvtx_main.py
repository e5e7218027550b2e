"""A server that compiles one kernel, finds it, and fails with another one, under NVTX."""

from __future__ import annotations

import contextlib
import sys

import anyio

import ajit
from ajit import events
from ajit.instrumentation import nvtx

GOOD = ajit.Spec('extern "C" __global__ void good(int *x) { *x = 1; }', "good")
BROKEN = ajit.Spec('extern "C" __global__ void broken(int *x) { oh', "broken")


async def main(cache_dir: str) -> None:
    """Use both, and stall in the end: a range that nothing ends but the block."""
    async with ajit.open_runtime(device="cpu", cache_dir=cache_dir) as rt:
        with nvtx.annotate(rt):
            await rt.kernel(GOOD)
            with contextlib.suppress(ajit.CompileError):
                await rt.kernel(BROKEN)
            begun = events.CompileStarted(name="cut", key="c", compiler="host", arch="cpu")
            rt._emitter.emit(begun)
            rt._emitter.emit(events.CompileCancelled(name="cut", key="c", seconds=1.0))
            stalled = events.DeviceStalled(
                name="cpu", key="", operation="launch", seconds=1.0, in_flight=0
            )
            rt._emitter.emit(stalled)  # a device that stalls takes 10 s


anyio.run(main, sys.argv[1], backend=sys.argv[2])
