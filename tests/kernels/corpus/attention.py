"""Kernels around attention: rotary embedding, and the paged KV cache's gather and scatter."""

from __future__ import annotations

import numpy as np

from tests.kernels.corpus.case import EXACT, Argument, Array, Case, Launch
from tests.kernels.corpus.norms import ROUNDED_TO_HALF

__all__ = ["CASES"]

TOKENS = 9
QUERY_HEADS, KEY_HEADS, HEAD_SIZE = 4, 2, 64
MAX_POSITION = 128
SLOTS = 64  # four pages of 16
ROW = KEY_HEADS * HEAD_SIZE  # float16 values of one token in one plane


def _rope_inputs(rng: np.random.Generator) -> tuple[Argument, ...]:
    queries = rng.normal(size=(TOKENS, QUERY_HEADS, HEAD_SIZE)).astype(np.float16)
    keys = rng.normal(size=(TOKENS, KEY_HEADS, HEAD_SIZE)).astype(np.float16)
    frequencies = 10000.0 ** (-np.arange(0, HEAD_SIZE, 2) / HEAD_SIZE)
    angles = np.outer(np.arange(MAX_POSITION), frequencies)
    cos_sin = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    positions = rng.integers(0, MAX_POSITION, TOKENS, dtype=np.int64)
    return queries, keys, cos_sin, positions, QUERY_HEADS, KEY_HEADS


def rope(
    queries: Array, keys: Array, cos_sin: Array, positions: Array, *_heads: int
) -> dict[int, Array]:
    """NumPy's rotary embedding, pairing element i with element i + HEAD_SIZE / 2."""
    cosine, sine = np.split(cos_sin[positions][:, None, :].astype(np.float64), 2, axis=2)

    def rotated(heads: Array) -> Array:
        x, y = np.split(heads.astype(np.float64), 2, axis=2)
        both = np.concatenate([x * cosine - y * sine, y * cosine + x * sine], axis=2)
        return both.astype(np.float16)

    return {0: rotated(queries), 1: rotated(keys)}


def _slot_mapping(rng: np.random.Generator) -> Array:
    slots = rng.permutation(SLOTS)[:TOKENS].astype(np.int64)
    slots[3] = -1  # a padding token
    return slots


def _plane(rng: np.random.Generator, rows: int) -> Array:
    return rng.normal(size=(rows, ROW)).astype(np.float16)


def _scatter_inputs(rng: np.random.Generator) -> tuple[Argument, ...]:
    caches = _plane(rng, SLOTS), _plane(rng, SLOTS)
    return *caches, _plane(rng, TOKENS), _plane(rng, TOKENS), _slot_mapping(rng)


def kv_scatter(
    key_cache: Array, value_cache: Array, keys: Array, values: Array, slots: Array
) -> dict[int, Array]:
    """Copies of the caches with the tokens at their slots; other slots keep what they held."""
    key_cache, value_cache = key_cache.copy(), value_cache.copy()
    key_cache[slots[slots >= 0]] = keys[slots >= 0]
    value_cache[slots[slots >= 0]] = values[slots >= 0]
    return {0: key_cache, 1: value_cache}


def _gather_inputs(rng: np.random.Generator) -> tuple[Argument, ...]:
    # The outputs start with other values: a padding token's row must become zeros.
    outputs = _plane(rng, TOKENS), _plane(rng, TOKENS)
    return *outputs, _plane(rng, SLOTS), _plane(rng, SLOTS), _slot_mapping(rng)


def kv_gather(
    keys: Array, values: Array, key_cache: Array, value_cache: Array, slots: Array
) -> dict[int, Array]:
    """The rows at the slots, and zeros for padding tokens."""
    kept = (slots >= 0)[:, None]
    zero = np.float16(0)
    return {0: np.where(kept, key_cache[slots], zero), 1: np.where(kept, value_cache[slots], zero)}


CASES = (
    Case(
        name="rope",
        file="rope.cu",
        entry="rope",
        params="__half* queries, __half* keys, const float* cos_sin, const long long* positions, "
        "int query_heads, int key_heads",
        defines={"HEAD_SIZE": HEAD_SIZE},
        launch=Launch((TOKENS,), (64,)),
        inputs=_rope_inputs,
        expected=rope,
        tolerance=ROUNDED_TO_HALF,
    ),
    Case(
        name="kv_scatter",
        file="paged_kv.cu",
        entry="kv_scatter",
        params="uint4* key_cache, uint4* value_cache, const uint4* keys, const uint4* values, "
        "const long long* slot_mapping",
        defines={"ROW_BYTES": 2 * ROW},
        launch=Launch((TOKENS,), (32,)),
        inputs=_scatter_inputs,
        expected=kv_scatter,
        tolerance=EXACT,
    ),
    Case(
        name="kv_gather",
        file="paged_kv.cu",
        entry="kv_gather",
        params="uint4* keys, uint4* values, const uint4* key_cache, const uint4* value_cache, "
        "const long long* slot_mapping",
        defines={"ROW_BYTES": 2 * ROW},
        launch=Launch((TOKENS,), (32,)),
        inputs=_gather_inputs,
        expected=kv_gather,
        tolerance=EXACT,
    ),
)
