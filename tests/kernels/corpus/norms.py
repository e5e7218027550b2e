"""RMSNorm, LayerNorm and softmax."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tests.kernels.corpus.case import Argument, Array, Case, Launch, Tolerance

__all__ = ["CASES", "FLOAT_ROW", "ROUNDED_TO_BFLOAT16", "ROUNDED_TO_HALF"]

ROWS = 5
EPSILON = 1e-5

FLOAT_ROW = Tolerance(1e-5, 1e-6, "float32 sums of a row in another order than NumPy's, in float64")
ROUNDED_TO_HALF = Tolerance(2**-10, 1e-6, "one unit of float16: float32 may round to a neighbour")
ROUNDED_TO_BFLOAT16 = Tolerance(2**-7, 1e-6, "one unit of bfloat16, for the same reason")


def rms_norm(out: Array, x: Array, weight: Array, epsilon: float) -> dict[int, Array]:
    """NumPy's RMSNorm, in float64 until the result is rounded to the type of `out`."""
    wide = x.astype(np.float64)
    scale = 1 / np.sqrt(np.mean(wide**2, axis=1, keepdims=True) + epsilon)
    return {0: (wide * scale * weight.astype(np.float64)).astype(out.dtype)}


def layer_norm(out: Array, x: Array, gamma: Array, beta: Array, epsilon: float) -> dict[int, Array]:
    """NumPy's LayerNorm over the last axis, with the biased variance."""
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=1, keepdims=True)
    normal = centred / np.sqrt(wide.var(axis=1, keepdims=True) + epsilon)
    return {0: (normal * gamma.astype(np.float64) + beta.astype(np.float64)).astype(out.dtype)}


def softmax(out: Array, x: Array, columns: int) -> dict[int, Array]:
    """NumPy's softmax over the last axis."""
    wide = x.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    return {0: (powers / powers.sum(axis=1, keepdims=True)).astype(out.dtype)}


def _rms_norm_case(name: str, element: str, dtype: type, hidden: int, near: Tolerance) -> Case:
    def inputs(rng: np.random.Generator) -> tuple[Argument, ...]:
        x = rng.normal(size=(ROWS, hidden)).astype(dtype)
        return np.zeros_like(x), x, rng.uniform(0.5, 1.5, hidden).astype(dtype), EPSILON

    return Case(
        name=name,
        file="rms_norm.cu",
        entry="rms_norm",
        params=f"{element}* out, const {element}* in, const {element}* weight, float epsilon",
        defines={"ELEMENT": element, "HIDDEN": hidden, "THREADS": 256},
        launch=Launch((ROWS,), (256,)),
        inputs=inputs,
        expected=rms_norm,
        tolerance=near,
    )


def _layer_norm_inputs(rng: np.random.Generator) -> tuple[Argument, ...]:
    # A mean far from zero: a kernel that takes E[x^2] - E[x]^2 fails here.
    x = rng.normal(loc=100, size=(ROWS, 512)).astype(np.float32)
    gamma, beta = rng.uniform(0.5, 1.5, 512), rng.normal(size=512)
    return np.zeros_like(x), x, gamma.astype(np.float32), beta.astype(np.float32), EPSILON


def _softmax_case(name: str, element: str, dtype: type, columns: int, near: Tolerance) -> Case:
    def inputs(rng: np.random.Generator) -> tuple[Argument, ...]:
        x = rng.normal(scale=4, size=(ROWS, columns)).astype(dtype)
        x[1, : columns // 2] = -np.inf  # a masked row, as in attention
        return np.zeros_like(x), x, columns

    return Case(
        name=name,
        file="softmax.cu",
        entry="softmax",
        params=f"{element}* out, const {element}* in, int columns",
        defines={"ELEMENT": element, "THREADS": 128},
        launch=Launch((ROWS,), (128,)),
        inputs=inputs,
        expected=softmax,
        tolerance=near,
    )


CASES = (
    _rms_norm_case("rms_norm_float32", "float", np.float32, 1000, FLOAT_ROW),
    _rms_norm_case("rms_norm_float16", "__half", np.float16, 1024, ROUNDED_TO_HALF),
    _rms_norm_case(
        "rms_norm_bfloat16", "__nv_bfloat16", ml_dtypes.bfloat16, 1024, ROUNDED_TO_BFLOAT16
    ),
    Case(
        name="layer_norm",
        file="layer_norm.cu",
        entry="layer_norm",
        params="float* out, const float* in, const float* gamma, const float* beta, float epsilon",
        defines={"ELEMENT": "float", "HIDDEN": 512, "THREADS": 128},
        launch=Launch((ROWS,), (128,)),
        inputs=_layer_norm_inputs,
        expected=layer_norm,
        tolerance=Tolerance(1e-4, 1e-4, "x - mean cancels two digits where the mean is 100"),
    ),
    _softmax_case("softmax_float32", "float", np.float32, 777, FLOAT_ROW),
    _softmax_case("softmax_float16", "__half", np.float16, 300, ROUNDED_TO_HALF),
)
