"""Kernels that Triton compiles in tests: one that is good, one that cannot be compiled."""

from __future__ import annotations

import triton
import triton.language as tl

GOOD = {"x": "*fp32", "y": "*fp32", "n": "i32", "BLOCK": "constexpr"}
BAD = {"x": "*fp32", "SIZE": "constexpr"}


@triton.jit
def twice(x, y, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    tl.store(y + offsets, 2.0 * tl.load(x + offsets, mask=mask), mask=mask)


@triton.jit
def refuses(x, SIZE: tl.constexpr):
    tl.static_assert(SIZE > 1024, "SIZE is too small for this kernel")
    tl.store(x, 1.0)


@triton.jit
def plus_one(x):
    return x + 1


@triton.autotune([triton.Config({}, num_warps=2)], key=[])
@triton.jit
def mapped(x, FN: tl.constexpr, TYPE: tl.constexpr, SHAPE: tl.constexpr):
    offsets = tl.arange(0, SHAPE[0])
    tl.store(x + offsets, FN(tl.load(x + offsets)).to(TYPE))


def made_here() -> object:
    """Return a function that no name leads to."""

    @triton.jit
    def hidden(x):
        tl.store(x, 1.0)

    return hidden


MATMUL = {
    **dict.fromkeys("abc", "*fp16"),
    **dict.fromkeys("MNK", "i32"),
    **dict.fromkeys(("TILE_M", "TILE_N", "TILE_K"), "constexpr"),
}
MATMUL_SIZES = {"TILE_M": 128, "TILE_N": 128, "TILE_K": 64}


@triton.jit
def matmul(a, b, c, M, N, K, TILE_M: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr):
    rows = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    columns = tl.program_id(1) * TILE_N + tl.arange(0, TILE_N)
    total = tl.zeros((TILE_M, TILE_N), dtype=tl.float32)
    for start in range(0, K, TILE_K):
        inner = start + tl.arange(0, TILE_K)
        left = tl.load(a + rows[:, None] * K + inner[None, :], mask=inner[None, :] < K, other=0.0)
        right = tl.load(
            b + inner[:, None] * N + columns[None, :], mask=inner[:, None] < K, other=0.0
        )
        total = tl.dot(left, right, total)
    inside = (rows[:, None] < M) & (columns[None, :] < N)
    tl.store(c + rows[:, None] * N + columns[None, :], total.to(tl.float16), mask=inside)
