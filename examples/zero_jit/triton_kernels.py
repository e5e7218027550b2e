"""The same kernel for Triton. Imported where Triton is installed."""

# ruff: noqa: ANN001, ANN201, N803  # the language of Triton, which is no typed Python

from __future__ import annotations

import triton
import triton.language as tl

SIGNATURE = {"y": "*fp32", "x": "*fp32", "width": "i32", "BLOCK": "constexpr"}


@triton.jit
def rms_norm(y, x, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Normalise one row, that fits a block."""
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    row = tl.load(x + tl.program_id(0) * width + columns, mask=inside, other=0.0)
    scale = tl.rsqrt(tl.sum(row * row) / width + 1e-5)
    tl.store(y + tl.program_id(0) * width + columns, row * scale, mask=inside)
