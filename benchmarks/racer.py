"""One process of the cold race: gets one slow kernel through one of several caches.

``python -m benchmarks.racer PEER CACHE_DIR``; see `benchmarks.racer_protocol`.
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Any

import anyio

import ajit
from benchmarks.racer_kernel import ARCH, SOURCE
from benchmarks.racer_protocol import Run, timed


async def with_ajit(cache_dir: str, run: Run) -> None:
    """Resolve, without a device."""
    logging.getLogger("ajit").setLevel(logging.ERROR)  # that it waits is what is measured here
    spec = ajit.Spec(SOURCE, "crunch", name="crunch.cu", options=["-std=c++17"], arch=ARCH)
    # The peers compile in the process that asks, at its own priority; so that a busy machine is as
    # busy for all, ajit's compiler gets the same here. By default it gives way to the server.
    async with ajit.open_runtime(
        device="none", cache_dir=cache_dir, compiler_niceness=0
    ) as runtime:

        async def work() -> dict[str, Any]:
            resolution = await runtime.resolve(spec)
            return {"compiled": resolution.tier == "compiled"}

        await run(work)


PEERS = {
    "ajit": ("benchmarks.racer", "with_ajit"),
    "cuda.core": ("benchmarks.racer_peers", "with_cuda_core"),
    "filelock": ("benchmarks.racer_peers", "with_filelock"),
    "triton": ("benchmarks.racer_triton", "with_triton"),
}

if __name__ == "__main__":
    module, name = PEERS[sys.argv[1]]
    anyio.run(getattr(importlib.import_module(module), name), sys.argv[2], timed)
