"""One process of the cold race: compiles one slow kernel through one of several caches.

``python -m benchmarks.racer PEER CACHE_DIR``; see `benchmarks.harness.race` for the protocol.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio

SOURCE = """
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#include <cub/block/block_radix_sort.cuh>

extern "C" __global__ void crunch(const float* in, float* out, int n) {
    using Reduce = cub::BlockReduce<float, 256>;
    using Scan = cub::BlockScan<float, 256>;
    using Sort = cub::BlockRadixSort<float, 256, 4>;
    __shared__ union {
        typename Reduce::TempStorage reduce;
        typename Scan::TempStorage scan;
        typename Sort::TempStorage sort;
    } storage;
    float items[4];
    for (int i = 0; i < 4; ++i) items[i] = in[blockIdx.x * 1024 + threadIdx.x * 4 + i];
    Sort(storage.sort).Sort(items);
    __syncthreads();
    float total = Reduce(storage.reduce).Sum(items[0] + items[1] + items[2] + items[3]);
    __syncthreads();
    float prefix;
    Scan(storage.scan).ExclusiveSum(items[0], prefix);
    if (threadIdx.x == 0) out[blockIdx.x] = total;
    out[n + blockIdx.x * 256 + threadIdx.x] = prefix;
}
"""
ARCH = "sm_90a"

Work = Callable[[], Awaitable[dict[str, Any]]]


async def with_ajit(cache_dir: str, run: Callable[[Work], Awaitable[None]]) -> None:
    import ajit

    spec = ajit.Spec.of(SOURCE, "crunch", name="crunch.cu", options=["-std=c++17"], arch=ARCH)
    async with ajit.open_runtime(device="none", cache_dir=cache_dir) as rt:

        async def work() -> dict[str, Any]:
            resolution = await rt.resolve(spec)
            waited = resolution.waited_for
            return {"compiled": resolution.tier == "compiled", "waited": bool(waited)}

        await run(work)


async def with_cuda_core(cache_dir: str, run: Callable[[Work], Awaitable[None]]) -> None:
    from cuda.core import ObjectCode, Program, ProgramOptions
    from cuda.core.utils import FileStreamProgramCache, make_program_cache_key

    cache = FileStreamProgramCache(Path(cache_dir) / "cuda-core")
    options = ProgramOptions(arch=ARCH, std="c++17", include_path=_include_dirs())
    digest = b"one set of headers"

    def compile_it() -> bool:
        key = make_program_cache_key(
            code=SOURCE, code_type="c++", options=options, target_type="cubin", extra_digest=digest
        )
        data = cache.get(key)
        if data is not None:
            ObjectCode.from_cubin(data)
            return False
        cache[key] = Program(SOURCE, "c++", options).compile("cubin")
        return True

    async def work() -> dict[str, Any]:
        return {"compiled": await anyio.to_thread.run_sync(compile_it)}

    await run(work)


def _include_dirs() -> list[str]:
    from ajit._compile.toolchain import Toolchains
    from ajit.settings import Settings

    return list(Toolchains(Settings.load()).find("nvrtc").include_dirs)


async def _timed(work: Work) -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    begun = time.perf_counter()
    report = await work()
    report["seconds"] = time.perf_counter() - begun
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    peers = {"ajit": with_ajit, "cuda.core": with_cuda_core}
    anyio.run(peers[sys.argv[1]], sys.argv[2], _timed)
