"""The model: its sizes, and what they make of a KV cache."""

from __future__ import annotations

from dataclasses import dataclass

from ajit import kv

__all__ = ["MODELS", "Model"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """Sizes of a decoder with grouped-query attention and a gated MLP, all of it in float32.

    Attributes:
        name: Of the model.
        layers: How many.
        hidden: Width of a token, a multiple of 8, as all widths are.
        heads: Query heads.
        kv_heads: Heads of keys and values, a divisor of `heads`.
        dim: Width of a head.
        inner: Width inside of the MLP.
        page_tokens: Tokens of a page of the KV cache.
        chunk_tokens: Tokens of a chunk in the store.
        positions: Most tokens of a request, its answer included.
        vocabulary: Tokens are bytes.
        base: Of the rotary embedding.
        epsilon: Of the norms.
        seed: Of the weights.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    dim: int
    inner: int
    page_tokens: int = 16
    chunk_tokens: int = 256
    positions: int = 4096
    vocabulary: int = 256
    base: float = 10_000.0
    epsilon: float = 1e-5
    seed: int = 1

    @property
    def qkv_heads(self) -> int:
        """Heads of queries, keys and values together."""
        return self.heads + 2 * self.kv_heads

    @property
    def layout(self) -> kv.Layout:
        """How its KV cache lies on the device: a tensor for each layer, keys and then values."""
        return kv.Layout(
            layers=self.layers,
            heads=self.kv_heads,
            dim=self.dim,
            dtype="float32",
            page_tokens=self.page_tokens,
            axes="PBTHD",
            chunk_tokens=self.chunk_tokens,
        )

    def namespace(self, weights: str, computed_by: str) -> kv.Namespace:
        """Return what the chunks of this model are called.

        Args:
            weights: Digest of the weights.
            computed_by: What else decides about their last bits: kernels and driver. Without it the
                answers would be right, and their logits not the same.
        """
        return self.layout.namespace(
            self.name, weights, rope=f"base {self.base}", extra=computed_by
        )


MODELS = {
    "small": Model(name="small", layers=6, hidden=384, heads=6, kv_heads=3, dim=64, inner=768),
    "toy": Model(
        name="toy", layers=3, hidden=32, heads=4, kv_heads=2, dim=8, inner=48,
        page_tokens=4, chunk_tokens=16, positions=2048,
    ),
}  # fmt: skip
"""``small`` computes a prompt of 1500 tokens in some seconds on two cores; ``toy`` is for tests."""
