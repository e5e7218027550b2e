"""Scales of quantised values: one more plane of another size, behind the values of each page."""

from __future__ import annotations

from dataclasses import dataclass

from ajit._gpu.dtype import DTYPES, dtype_named
from ajit.errors import ArgumentError

__all__ = ["Scales"]


@dataclass(frozen=True)
class Scales:
    """Where a cache has its scales: in each page, behind all of its values, in the same order.

    So it is in vLLM's cache of the DSA indexer: ``page_tokens`` times ``dim`` bytes, and then a
    float32 for each 128 of them. Scales in tensors of their own are a `Group` with a layout of its
    own.

    Attributes:
        dtype: Of a scale.
        block: How many elements of a head share one.

    Raises:
        ArgumentError: The type is not known, or the block is below 1.
    """

    dtype: str = "float32"
    block: int = 128

    def __post_init__(self) -> None:
        """Check it."""
        object.__setattr__(self, "dtype", dtype_named(self.dtype, "describe scales").name)
        if self.block < 1:
            raise ArgumentError(operation="describe scales", detail=f"block is {self.block}")

    def nbytes(self, dim: int) -> int:
        """Return what the scales of a head of so many elements take."""
        return dim // self.block * DTYPES[self.dtype].itemsize

    def fault(self, dim: int, itemsize: int, axes: str, padded: frozenset[str]) -> str:
        """Return why a layout of these cannot have them, or an empty text."""
        if dim % self.block:
            return f"a head of {dim} elements is no whole number of blocks of {self.block}"
        if itemsize != 1:
            return "scales belong to values of one byte"
        if set(axes[-3:]) != {"T", "H", "D"}:
            return f"the axes {axes!r}: with scales, T, H and D come last"
        if inside := padded & {"T", "H"}:
            return (
                f"with scales, the values of a page lie side by side: no stride for {min(inside)!r}"
            )
        return ""
