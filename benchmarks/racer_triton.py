"""The peer of the cold race that is a compiler with its own cache: Triton.

It compiles for a GPU that is not there; its kernel is a matrix product, which takes it as long as
the CUB kernel takes NVRTC. Its cache is a private directory of the race.
"""

from __future__ import annotations

import os
from typing import Any

import anyio
import anyio.to_thread
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.racer_protocol import Run

__all__ = ["with_triton"]

BLOCKS = {"BM": 128, "BN": 128, "BK": 32}


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def matmul(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, N803  # the language is Triton
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for step in range(0, k, BK):
        left = tl.load(a + rows[:, None] * k + (step + inner)[None, :])
        right = tl.load(b + (step + inner)[:, None] * n + columns[None, :])
        total += tl.dot(left, right)
    tl.store(c + rows[:, None] * n + columns[None, :], total, mask=rows[:, None] < m)


async def with_triton(cache_dir: str, run: Run) -> None:
    """``triton.compile``, which looks into its cache, compiles and puts. It has no lock."""
    os.environ["TRITON_CACHE_DIR"] = cache_dir
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # what it warns about if it is not set
    pointers = {"a": "*fp16", "b": "*fp16", "c": "*fp32"}
    signature = pointers | dict.fromkeys("mnk", "i32") | dict.fromkeys(BLOCKS, "constexpr")
    source = ASTSource(fn=matmul, signature=signature, constexprs=BLOCKS)
    hits: list[bool] = []
    triton.knobs.compilation.listener = lambda *, cache_hit, **_: hits.append(cache_hit)

    def get() -> bool:
        triton.compile(source, target=GPUTarget("cuda", 90, 32))
        return not hits[-1]

    async def work() -> dict[str, Any]:
        return {"compiled": await anyio.to_thread.run_sync(get)}

    await run(work)
