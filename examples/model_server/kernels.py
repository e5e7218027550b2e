"""The four kernels of the pipeline: families, specialised by shape and dtype.

A spec is made for each compile key that requests, or a configuration, bring. Only what the compiler
can use goes into it: the widths are macros, so loops unroll and divisions by them become
multiplications; the number of tokens stays an argument, so that a batch of another size needs no
other kernel. A key has only the widths that its kernel depends on: two models share what they can.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import ajit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["EPSILON", "FAMILIES", "THREADS", "TILE", "Key", "PipelineSpecs", "pipeline_specs"]

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
class Key:
    """What a kernel is specialised by.

    Attributes:
        dtype: ``float32`` or ``float16``.
        hidden: Width of a token; 0 if the kernel does not depend on it.
        features: Width of the result; likewise.
    """

    dtype: str
    hidden: int = 0
    features: int = 0


def _family(
    kernel: str,
    params: str,
    macros: dict[str, int],
    *,
    hidden: bool = False,
    features: bool = False,
) -> ajit.Family[Key]:
    """Make the family of one kernel.

    Args:
        kernel: Its name, and that of its source.
        params: Its parameters, with ``E`` for the type of an element.
        macros: Those that are the same for each key.
        hidden: Whether it is specialised by the width of a token.
        features: Whether it is specialised by the width of the result.
    """

    def dispatch(*, dtype: str, hidden_width: int, features_width: int) -> Key:
        return Key(dtype, hidden_width if hidden else 0, features_width if features else 0)

    def keys(models: Iterable[tuple[int, int, str]]) -> Iterator[Key]:
        for hidden_width, features_width, dtype in models:
            yield dispatch(dtype=dtype, hidden_width=hidden_width, features_width=features_width)

    def spec(key: Key) -> ajit.Spec:
        element = _ELEMENTS[key.dtype]
        widths = {"HIDDEN": key.hidden, "FEATURES": key.features}
        used = {name: width for name, width in widths.items() if width}
        return ajit.Spec(
            _SOURCES[kernel],
            kernel,
            params=params.replace("E*", f"{element}*"),
            name=f"{kernel} {'x'.join(map(str, used.values()))} {key.dtype}",
            defines={**macros, **used, "ELEMENT": element},
            include_dirs=[_FOLDER],
        )

    return ajit.Family(kernel, spec, dispatch=dispatch, keys=keys)


RMS_NORM = _family(
    "rms_norm", "E* y, const E* x, const E* weight, float epsilon",
    {"THREADS": THREADS}, hidden=True,
)  # fmt: skip
MATMUL = _family(
    "matmul", "E* c, const E* a, const E* b, int rows", {"TILE": TILE}, hidden=True, features=True
)
BIAS_GELU = _family("bias_gelu", "E* x, const E* bias, int count", {}, features=True)
SOFTMAX = _family("softmax", "E* y, const E* x", {"THREADS": THREADS}, features=True)

FAMILIES = (RMS_NORM, MATMUL, BIAS_GELU, SOFTMAX)
"""In the order in which they run."""


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
    inputs = {"dtype": dtype, "hidden_width": hidden, "features_width": features}
    return PipelineSpecs(*(family.spec(family.dispatch(**inputs)) for family in FAMILIES))
