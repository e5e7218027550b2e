"""int8 quantisation by row, and conversions between the float types."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tests.kernels.corpus.case import EXACT, Argument, Array, Case, Launch

__all__ = ["CASES"]

ROWS, COLUMNS = 6, 300

FLOAT16_LARGEST = 65504.0
FLOAT16_SMALLEST = 2.0**-24


def _quantize_inputs(rng: np.random.Generator) -> tuple[Argument, ...]:
    x = rng.normal(size=(ROWS, COLUMNS)).astype(np.float16)
    x[2] = 0  # a row of zeros, which has no scale
    return np.zeros((ROWS, COLUMNS), np.int8), np.zeros(ROWS, np.float32), x, COLUMNS


def quantize_int8(quantized: Array, scales: Array, x: Array, columns: int) -> dict[int, Array]:
    """The same steps in float32: a division and a rounding, which IEEE 754 fixes bit by bit."""
    wide = x.astype(np.float32)
    largest = np.abs(wide).max(axis=1)
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    steps = np.rint(wide / scale[:, None])
    return {0: np.clip(steps, -127, 127).astype(np.int8), 1: scale}


def _hard_floats(rng: np.random.Generator) -> Array:
    """Ties, subnormals, overflows, infinities and NaN, and values of every magnitude."""
    exact = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, FLOAT16_LARGEST, 65519.99, 65520.0, 1e30, -1e30],
        np.float32,
    )
    ties = (np.arange(2048, 2148) + np.float32(0.5)).astype(np.float32)
    bfloat16_ties = (np.arange(256, 512, dtype=np.float32) * 2 + 1) / np.float32(512)
    tiny = np.arange(0, 40, 0.5).astype(np.float32) * np.float32(FLOAT16_SMALLEST)
    wild = rng.integers(0, 2**32, 2000, dtype=np.uint32).view(np.float32)
    return np.concatenate([exact, ties, bfloat16_ties, tiny, -tiny, wild])


def _every_half() -> Array:
    return np.arange(2**16, dtype=np.uint16).view(np.float16)


def convert(out: Array, x: Array, count: int) -> dict[int, Array]:
    """The values in the type of `out`, rounded to nearest even."""
    with np.errstate(over="ignore", invalid="ignore"):
        return {0: x.astype(out.dtype)}


def _convert_case(source: str, source_type: str, target: str, target_type: str) -> Case:
    dtypes = {"float": np.float32, "half": np.float16, "bfloat16": ml_dtypes.bfloat16}

    def inputs(rng: np.random.Generator) -> tuple[Argument, ...]:
        x = _every_half() if source == "half" else _hard_floats(rng)
        return np.zeros(x.size, dtypes[target]), x, x.size

    return Case(
        name=f"{source}_to_{target}",
        file="convert.cu",
        entry=f"{source}_to_{target}",
        params=f"{target_type}* out, const {source_type}* in, int count",
        launch=Launch((256,), (256,)),
        inputs=inputs,
        expected=convert,
        tolerance=EXACT,
    )


CASES = (
    Case(
        name="quantize_int8",
        file="quantize_int8.cu",
        entry="quantize_int8",
        params="signed char* quantized, float* scales, const __half* in, int columns",
        defines={"ELEMENT": "__half", "THREADS": 64},
        launch=Launch((ROWS,), (64,)),
        inputs=_quantize_inputs,
        expected=quantize_int8,
        tolerance=EXACT,
    ),
    _convert_case("float", "float", "half", "__half"),
    _convert_case("half", "__half", "float", "float"),
    _convert_case("float", "float", "bfloat16", "__nv_bfloat16"),
    _convert_case("half", "__half", "bfloat16", "__nv_bfloat16"),
)
