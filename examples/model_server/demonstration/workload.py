"""The requests of the demo, and the answers that must come back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import ajit
from examples.model_server.kernels import pipeline_specs
from examples.model_server.model import Array, Weights, reference

__all__ = ["Query", "kernel_specs", "make_workload"]

SHAPES = (
    (8, 256, 128),
    (33, 256, 320),
    (16, 384, 128),
    (5, 384, 320),
    (24, 512, 128),
    (1, 512, 320),
)
"""(tokens, hidden, features): a decode of one token, ragged tiles, and batches that fit exactly."""
DTYPES = ("float32", "float16")

# Four stages, each rounded to the dtype: about ten roundings, magnified by the softmax's
# exponential of a logit of up to 4.
RTOL = {"float32": 1e-4, "float16": 2e-2}


@dataclass(frozen=True, slots=True)
class Query:
    """One request and the answer that NumPy gives."""

    x: Array
    features: int
    expected: Array

    @property
    def label(self) -> str:
        """Its shape and dtype, for tables and messages."""
        tokens, hidden = self.x.shape
        return f"{tokens}x{hidden} -> {self.features} {self.x.dtype.name}"

    def error_in(self, answer: Array) -> str:
        """What is wrong with an answer, or an empty text."""
        if (answer.shape, answer.dtype) != (self.expected.shape, self.expected.dtype):
            return f"{self.label}: answered {answer.dtype.name}{list(answer.shape)}"
        off = np.abs(answer.astype(np.float64) - self.expected) / self.expected
        if not off.max() <= RTOL[self.x.dtype.name]:  # so written, a NaN is an error too
            return f"{self.label}: off by {off.max():.2g} of the value"
        return ""


def make_workload() -> list[Query]:
    """Every shape in every dtype. It takes a moment: NumPy computes all the answers."""
    rng = np.random.default_rng(7)
    return [
        _query(rng.standard_normal((tokens, hidden)).astype(dtype), features)
        for tokens, hidden, features in SHAPES
        for dtype in DTYPES
    ]


def kernel_specs() -> list[ajit.Spec]:
    """The kernels that the workload needs, each once."""
    specs = (
        spec
        for _, hidden, features in SHAPES
        for dtype in DTYPES
        for spec in pipeline_specs(hidden, features, dtype)
    )
    return list(dict.fromkeys(specs))


def _query(x: Array, features: int) -> Query:
    weights = Weights.seeded(x.shape[1], features, x.dtype.name)
    return Query(x, features, reference(x, weights))
