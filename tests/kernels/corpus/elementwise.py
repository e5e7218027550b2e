"""SiLU-and-multiply, a template picked by a name expression, a convolution in dynamic memory."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tests.kernels.corpus.case import EXACT, Argument, Array, Case, Launch, Tolerance
from tests.kernels.corpus.norms import ROUNDED_TO_BFLOAT16

__all__ = ["CASES"]

TOKENS, WIDTH = 7, 384
LENGTH, CHANNELS, TAPS = 50, 40, 4
STEPS = 16  # of time in one block


def _silu_inputs(rng: np.random.Generator) -> tuple[Argument, ...]:
    gate_and_up = rng.normal(scale=3, size=(TOKENS, 2 * WIDTH)).astype(ml_dtypes.bfloat16)
    return np.zeros((TOKENS, WIDTH), ml_dtypes.bfloat16), gate_and_up


def silu_and_mul(out: Array, gate_and_up: Array) -> dict[int, Array]:
    """silu(left half) * right half."""
    gate, up = np.split(gate_and_up.astype(np.float64), 2, axis=1)
    return {0: (gate / (1 + np.exp(-gate)) * up).astype(out.dtype)}


def scale(out: Array, x: Array, factor: float, count: int) -> dict[int, Array]:
    """The product in float32, rounded once more to the type of `out`."""
    return {0: (x.astype(np.float32) * np.float32(factor)).astype(out.dtype)}


def _scale_case(name: str, expression: str, element: str, dtype: type, pack: int) -> Case:
    count = 1001  # no multiple of the pack: the tail goes one by one
    packs = -(-count // pack)

    def inputs(rng: np.random.Generator) -> tuple[Argument, ...]:
        x = rng.normal(size=count).astype(dtype)
        return np.zeros_like(x), x, 1.7, count

    return Case(
        name=name,
        file="scale.cu",
        entry=expression,
        params=f"{element}* out, const {element}* in, float factor, int count",
        launch=Launch((-(-packs // 128),), (128,)),
        inputs=inputs,
        expected=scale,
        tolerance=EXACT,
    )


def _convolution_inputs(rng: np.random.Generator) -> tuple[Argument, ...]:
    x = rng.normal(size=(LENGTH, CHANNELS)).astype(np.float32)
    weight = rng.normal(size=(CHANNELS, TAPS)).astype(np.float32)
    bias = rng.normal(size=CHANNELS).astype(np.float32)
    return np.zeros_like(x), x, weight, bias, LENGTH, CHANNELS, STEPS


def causal_conv1d(
    out: Array, x: Array, weight: Array, bias: Array, length: int, *_shape: int
) -> dict[int, Array]:
    """Each step sees itself and the `TAPS` - 1 steps before it."""
    padded = np.concatenate([np.zeros((TAPS - 1, x.shape[1])), x.astype(np.float64)])
    taps = [weight[:, j].astype(np.float64) * padded[j : j + length] for j in range(TAPS)]
    return {0: (np.sum(taps, axis=0) + bias).astype(out.dtype)}


CASES = (
    Case(
        name="silu_and_mul",
        file="silu_and_mul.cu",
        entry="silu_and_mul",
        params="__nv_bfloat162* out, const __nv_bfloat162* in",
        defines={"WIDTH": WIDTH},
        launch=Launch((TOKENS,), (64,)),
        inputs=_silu_inputs,
        expected=silu_and_mul,
        tolerance=ROUNDED_TO_BFLOAT16,
    ),
    _scale_case("scale_float_4", "scale<float, 4>", "float", np.float32, 4),
    _scale_case("scale_half_8", "scale<__half, 8>", "__half", np.float16, 8),
    Case(
        name="causal_conv1d",
        file="causal_conv1d.cu",
        entry="causal_conv1d",
        params="float* out, const float* in, const float* weight, const float* bias, int length, "
        "int channels, int steps",
        defines={"WIDTH": TAPS},
        launch=Launch((2, -(-LENGTH // STEPS)), (32, 4), 4 * 32 * (STEPS + TAPS - 1)),
        inputs=_convolution_inputs,
        expected=causal_conv1d,
        tolerance=Tolerance(1e-5, 1e-5, "four products in float32, which may cancel"),
    ),
)
