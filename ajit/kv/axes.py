"""Orders of the axes of a cache: by words for them, and as pieces that two orders share."""

from __future__ import annotations

from typing import Literal

__all__ = ["axes_of", "joined"]


def axes_of(
    order: Literal["NHD", "HND"] = "NHD",
    planes: Literal["first", "in page", "fused", "apart"] = "first",
    layers: Literal["apart", "outside", "in page"] = "apart",
) -> str:
    """Return the axes of a layout, outermost first.

    Args:
        order: In a page: tokens, heads, elements; or heads, tokens, elements.
        planes: Where keys and values part: ``first`` outside of the pages, ``in page`` as two
            halves of each, ``fused`` side by side for each head, ``apart`` in tensors of their own
            (also where there is one plane only).
        layers: ``apart`` in tensors of their own, ``outside`` around all else, or ``in page``: all
            layers of a page beside each other.

    Raises:
        KeyError: One of these is another word.
    """
    page = {"NHD": "TH", "HND": "HT"}[order]
    inside = {"first": page, "in page": f"P{page}", "fused": f"{page}P", "apart": page}[planes]
    outside = "P" if planes == "first" else ""
    return {
        "apart": f"{outside}B{inside}D",
        "outside": f"L{outside}B{inside}D",
        "in page": f"BL{inside}D" if planes != "first" else f"BLP{inside}D",
    }[layers]


def joined(
    axes: list[tuple[int, int, int]], piece_bytes: int
) -> tuple[tuple[tuple[int, int, int], tuple[int, int, int]], int]:
    """Make pieces larger where neighbours lie side by side on both sides; outer axis first."""
    while axes and (axes[-1][0] == 1 or axes[-1][1] == axes[-1][2] == piece_bytes):
        piece_bytes *= axes.pop()[0]
    left = [axis for axis in axes if axis[0] > 1]
    outer, inner = [(1, 0, 0)] * (2 - len(left)) + left
    return (outer, inner), piece_bytes
