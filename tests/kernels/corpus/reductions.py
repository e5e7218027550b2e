"""Sums by shuffles and by CUB, a histogram by atomics, and the top-k of a row."""

from __future__ import annotations

import numpy as np

from tests.kernels.corpus.case import EXACT, Argument, Array, Case, Launch, Tolerance
from tests.kernels.corpus.norms import FLOAT_ROW

__all__ = ["CASES"]

COUNT = 20_000
BINS = 256
TOP_ROWS, TOP_COLUMNS, TOP_K = 6, 60, 8


def _sum_inputs(rng: np.random.Generator) -> tuple[Argument, ...]:
    return np.zeros(1, np.float32), rng.normal(size=COUNT).astype(np.float32), COUNT


def reduce_sum(total: Array, values: Array, count: int) -> dict[int, Array]:
    """The sum in float64, rounded."""
    return {0: np.array([values.astype(np.float64).sum()], np.float32)}


def _histogram_inputs(rng: np.random.Generator) -> tuple[Argument, ...]:
    values = rng.normal(BINS / 2, 50, COUNT).astype(np.int32)  # some fall outside
    return np.zeros(BINS, np.uint32), values, COUNT


def histogram(counts: Array, values: Array, count: int) -> dict[int, Array]:
    """Counts of the values in range."""
    inside = values[(values >= 0) & (values < BINS)]
    return {0: np.bincount(inside, minlength=BINS).astype(np.uint32)}


def _top_k_inputs(rng: np.random.Generator) -> tuple[Argument, ...]:
    # Few distinct values, so that ties decide some places.
    scores = rng.integers(0, 25, (TOP_ROWS, TOP_COLUMNS)).astype(np.float32) / 4
    values = np.zeros((TOP_ROWS, TOP_K), np.float32)
    return values, np.zeros((TOP_ROWS, TOP_K), np.int32), scores, TOP_ROWS


def top_k(values: Array, columns: Array, scores: Array, rows: int) -> dict[int, Array]:
    """A stable sort of the negated scores: the lower column first among equals."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :TOP_K]
    return {0: np.take_along_axis(scores, order, axis=1), 1: order.astype(np.int32)}


def _row_inputs(rng: np.random.Generator) -> tuple[Argument, ...]:
    rows = rng.normal(size=(4, 1000)).astype(np.float32)
    return np.zeros(4, np.float32), rows, 1000


def row_sums(sums: Array, rows: Array, columns: int) -> dict[int, Array]:
    """The sum of each row in float64, rounded."""
    return {0: rows.astype(np.float64).sum(axis=1).astype(np.float32)}


CASES = (
    Case(
        name="reduce_sum",
        file="reduce_sum.cu",
        entry="reduce_sum",
        params="float* total, const float* values, unsigned int count",
        defines={"THREADS": 256},
        launch=Launch((12,), (256,)),
        inputs=_sum_inputs,
        expected=reduce_sum,
        tolerance=Tolerance(
            FLOAT_ROW.rtol, 1e-3, "20 000 float32 values that cancel, and atomics in any order"
        ),
    ),
    Case(
        name="histogram",
        file="histogram.cu",
        entry="histogram",
        params="unsigned int* counts, const int* values, int count",
        defines={"BINS": BINS},
        launch=Launch((6,), (128,)),
        inputs=_histogram_inputs,
        expected=histogram,
        tolerance=EXACT,
    ),
    Case(
        name="top_k",
        file="top_k.cu",
        entry="top_k",
        params="float* values, int* columns, const float* scores, int rows",
        defines={"COLUMNS": TOP_COLUMNS, "K": TOP_K},
        # Four warps a block take eight rows: two warps have none and leave at once.
        launch=Launch((2,), (128,)),
        inputs=_top_k_inputs,
        expected=top_k,
        tolerance=EXACT,
    ),
    Case(
        name="cub_block_sum",
        file="cub_block_sum.cu",
        entry="cub_block_sum",
        params="float* sums, const float* in, int columns",
        defines={"THREADS": 128, "ITEMS": 4},
        launch=Launch((4,), (128,)),
        inputs=_row_inputs,
        expected=row_sums,
        tolerance=Tolerance(1e-5, 1e-4, "1000 float32 values that cancel"),
        cpu=False,  # CUB needs inline PTX, which the CPU driver does not have
    ),
)
