"""The model: its weights, and the same pipeline in NumPy, which every answer is checked against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from examples.model_server.kernels import EPSILON

__all__ = ["Array", "Weights", "reference"]

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Weights:
    """The parameters of one model, on the host.

    Attributes:
        norm: RMSNorm's weight, [hidden].
        projection: The matrix, [hidden, features].
        bias: [features].
    """

    norm: Array
    projection: Array
    bias: Array

    @classmethod
    def seeded(cls, hidden: int, features: int, dtype: str) -> Weights:
        """Make the weights of a model; every process gets the same ones.

        They come from a generator because an example has no checkpoint to load.
        """
        rng = np.random.default_rng([hidden, features])
        return cls(
            rng.uniform(0.5, 1.5, hidden).astype(dtype),
            (rng.standard_normal((hidden, features)) / np.sqrt(hidden)).astype(dtype),
            rng.standard_normal(features).astype(dtype),
        )


def reference(x: Array, weights: Weights) -> Array:
    """The pipeline in NumPy: float64 inside a stage, rounded to the dtype of `x` after each.

    Args:
        x: Tokens, [tokens, hidden], float32 or float16.
        weights: A model of the same dtype.

    Returns:
        The softmax over the features, [tokens, features], in the dtype of `x`.
    """
    dtype = x.dtype
    wide = x.astype(np.float64)
    scale = 1 / np.sqrt(np.mean(wide**2, axis=1, keepdims=True) + EPSILON)
    normal = (wide * scale * weights.norm).astype(dtype).astype(np.float64)
    product = (normal @ weights.projection.astype(np.float64)).astype(dtype).astype(np.float64)
    logits = _gelu(product + weights.bias).astype(dtype).astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares.astype(dtype)


def _gelu(x: Array) -> Array:
    """The tanh form (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    y: Array = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return y
