"""The tiled matrix product, one instance per shape and type."""

from __future__ import annotations

import numpy as np

from tests.kernels.corpus.case import Argument, Array, Case, Launch, Tolerance

__all__ = ["CASES"]

TILE = 16


def matmul(c: Array, a: Array, b: Array) -> dict[int, Array]:
    """The product in float64, rounded to the type of `c`."""
    return {0: (a.astype(np.float64) @ b.astype(np.float64)).astype(c.dtype)}


def _case(name: str, element: str, dtype: type, shape: tuple[int, int, int], near: float) -> Case:
    m, n, k = shape

    def inputs(rng: np.random.Generator) -> tuple[Argument, ...]:
        a, b = rng.normal(size=(m, k)), rng.normal(size=(k, n))
        return np.zeros((m, n), dtype), a.astype(dtype), b.astype(dtype)

    return Case(
        name=name,
        file="matmul_tiled.cu",
        entry="matmul",
        params=f"{element}* c, const {element}* a, const {element}* b",
        defines={"ELEMENT": element, "TILE": TILE, "M": m, "N": n, "K": k},
        launch=Launch((-(-n // TILE), -(-m // TILE)), (TILE, TILE)),
        inputs=inputs,
        expected=matmul,
        tolerance=Tolerance(
            near, k * 2**-22, f"{k} products of about 1 summed in float32, which may cancel"
        ),
    )


CASES = (
    _case("matmul_float32", "float", np.float32, (64, 48, 128), 1e-6),
    _case("matmul_float32_ragged", "float", np.float32, (37, 21, 53), 1e-6),
    _case("matmul_float16", "__half", np.float16, (32, 64, 96), 2**-10),
)
