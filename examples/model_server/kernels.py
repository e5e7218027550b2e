"""The four kernels of the pipeline, specialised by shape and dtype.

A spec is made for each combination that requests bring. Only what the compiler can use goes into
it: the widths are macros, so loops unroll and divisions by them become multiplications; the number
of tokens stays an argument, so that a batch of another size needs no other kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import ajit

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EPSILON", "THREADS", "TILE", "PipelineSpecs", "pipeline_specs"]

EPSILON = 1e-5
THREADS = 128
"""Threads of a block, except for the matrix product's."""
TILE = 16
"""The matrix product's block is TILE x TILE threads, and computes as many elements."""

_FOLDER = Path(__file__).resolve().parent / "kernels"
# Read once, when the worker starts: no request waits for a file.
_SOURCES = {path.stem: path.read_text() for path in _FOLDER.glob("*.cu")}
_ELEMENTS = {"float32": "float", "float16": "__half"}


@dataclass(frozen=True, slots=True)
class PipelineSpecs:
    """The kernels of one pipeline, in the order in which they run."""

    rms_norm: ajit.Spec
    matmul: ajit.Spec
    bias_gelu: ajit.Spec
    softmax: ajit.Spec

    def __iter__(self) -> Iterator[ajit.Spec]:
        """The four specs in order."""
        yield from (self.rms_norm, self.matmul, self.bias_gelu, self.softmax)


@lru_cache(maxsize=1024)
def pipeline_specs(hidden: int, features: int, dtype: str) -> PipelineSpecs:
    """Return the specs for one pair of widths.

    Args:
        hidden: Width of a token.
        features: Width of the result.
        dtype: ``float32`` or ``float16``.
    """
    e = _ELEMENTS[dtype]
    width: dict[str, object] = {"FEATURES": features}
    threads: dict[str, object] = {"THREADS": THREADS}
    return PipelineSpecs(
        rms_norm=_spec(
            "rms_norm",
            dtype,
            f"{e}* y, const {e}* x, const {e}* weight, float epsilon",
            threads | {"HIDDEN": hidden},
        ),
        matmul=_spec(
            "matmul",
            dtype,
            f"{e}* c, const {e}* a, const {e}* b, int rows",
            width | {"HIDDEN": hidden, "TILE": TILE},
        ),
        bias_gelu=_spec("bias_gelu", dtype, f"{e}* x, const {e}* bias, int count", width),
        softmax=_spec("softmax", dtype, f"{e}* y, const {e}* x", width | threads),
    )


def _spec(kernel: str, dtype: str, params: str, macros: dict[str, object]) -> ajit.Spec:
    widths = "x".join(str(macros[name]) for name in ("HIDDEN", "FEATURES") if name in macros)
    return ajit.Spec(
        _SOURCES[kernel],
        kernel,
        params=params,
        name=f"{kernel} {widths} {dtype}",
        defines=macros | {"ELEMENT": _ELEMENTS[dtype]},
        include_dirs=[_FOLDER],
    )
