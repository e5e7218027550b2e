"""The weights: random numbers from a seed, the same in every process."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from examples.kv_engine.model import Model

__all__ = ["Array", "LayerWeights", "Weights", "turns_of"]

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Those of one layer, float32.

    Attributes:
        norm: Before the attention, [hidden].
        qkv: Of queries, keys and values, [hidden, qkv_heads * dim].
        out: After the attention, [heads * dim, hidden].
        mlp_norm: Before the MLP, [hidden].
        gate_up: [hidden, 2 * inner].
        down: [inner, hidden].
    """

    norm: Array
    qkv: Array
    out: Array
    mlp_norm: Array
    gate_up: Array
    down: Array


@dataclass(frozen=True, slots=True)
class Weights:
    """All of them, on the host.

    Attributes:
        embedding: [vocabulary, hidden].
        layers: In order.
        norm: Before the logits, [hidden].
        head: [hidden, vocabulary].
        digest: Stands for all of these.
    """

    embedding: Array
    layers: tuple[LayerWeights, ...]
    norm: Array
    head: Array
    digest: str

    @classmethod
    def seeded(cls, model: Model) -> Weights:
        """Make them. Takes some tenths of a second for the larger model.

        They come from a generator because an example has no checkpoint to load.
        """
        chance = np.random.default_rng(model.seed)

        def matrix(rows: int, columns: int) -> Array:
            return chance.standard_normal((rows, columns), np.float32) / np.float32(np.sqrt(rows))

        def scale() -> Array:
            return chance.uniform(0.5, 1.5, model.hidden).astype(np.float32)

        wide = model.heads * model.dim
        layers = tuple(
            LayerWeights(
                scale(),
                matrix(model.hidden, model.qkv_heads * model.dim),
                matrix(wide, model.hidden),
                scale(),
                matrix(model.hidden, 2 * model.inner),
                matrix(model.inner, model.hidden),
            )
            for _ in range(model.layers)
        )
        embedding = chance.standard_normal((model.vocabulary, model.hidden), np.float32)
        norm, head = scale(), matrix(model.hidden, model.vocabulary)
        digest = _digest(embedding, layers, norm, head)
        return cls(embedding, layers, norm, head, digest)


def turns_of(model: Model) -> Array:
    """Return the cosines and sines of the rotary embedding, [positions, dim / 2, 2], float32."""
    half = model.dim // 2
    frequencies = model.base ** (-np.arange(half, dtype=np.float64) / half)
    angles = np.arange(model.positions)[:, None] * frequencies
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)


def _digest(embedding: Array, layers: tuple[LayerWeights, ...], norm: Array, head: Array) -> str:
    hasher = hashlib.blake2b(digest_size=16)
    of_layers = [getattr(layer, each.name) for layer in layers for each in fields(LayerWeights)]
    for array in (embedding, *of_layers, norm, head):
        hasher.update(array)
    return hasher.hexdigest()
