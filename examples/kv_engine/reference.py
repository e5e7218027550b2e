"""The same decoder in NumPy, in float64 and with no cache: what the kernels are checked against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from examples.kv_engine.weights import Array, turns_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from examples.kv_engine.model import Model
    from examples.kv_engine.weights import LayerWeights, Weights

__all__ = ["logits_of"]


def logits_of(model: Model, weights: Weights, tokens: Sequence[int]) -> Array:
    """Return the logits after each token, [tokens, vocabulary], float64."""
    x = weights.embedding[list(tokens)].astype(np.float64)
    turns = turns_of(model)[: len(tokens)].astype(np.float64)
    for layer in weights.layers:
        x = x + _attention(model, layer, _norm(model, x, layer.norm), turns) @ layer.out
        gate, up = np.split(_norm(model, x, layer.mlp_norm) @ layer.gate_up, 2, axis=1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ layer.down
    logits: Array = _norm(model, x, weights.norm) @ weights.head
    return logits


def _norm(model: Model, x: Array, weight: Array) -> Array:
    scaled: Array = x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + model.epsilon) * weight
    return scaled


def _attention(model: Model, layer: LayerWeights, x: Array, turns: Array) -> Array:
    count = len(x)
    qkv = (x @ layer.qkv).reshape(count, model.qkv_heads, model.dim)
    q, k, v = np.split(qkv, [model.heads, model.heads + model.kv_heads], axis=1)
    group = model.heads // model.kv_heads
    q, k, v = _rotated(q, turns), _rotated(k, turns).repeat(group, 1), v.repeat(group, 1)
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(model.dim)
    scores[:, *np.triu_indices(count, 1)] = -np.inf  # no token sees a later one
    powers = np.exp(scores - scores.max(axis=2, keepdims=True))
    shares = powers / powers.sum(axis=2, keepdims=True)
    mixed: Array = np.einsum("hqk,khd->qhd", shares, v).reshape(count, -1)
    return mixed


def _rotated(x: Array, turns: Array) -> Array:
    low, high = np.split(x, 2, axis=2)
    cos, sin = turns[:, None, :, 0], turns[:, None, :, 1]
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=2)
