"""The model that layouts are held against: NumPy arrays whose axes are named by letters."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from ajit.kv import Layout, Scales

if TYPE_CHECKING:
    from ajit._gpu.page_format import PageFormat

BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32}
"""Elements are compared by their bits: no type is computed with."""
ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float8_e4m3fn": 1}


def tensors_of(layout: Layout, pages: int, seed: int = 0) -> list[np.ndarray]:
    """Memory of an engine, as bytes, with something in every byte, padding included."""
    random = np.random.default_rng(seed)
    size = layout.tensor_bytes(pages)
    return [random.integers(0, 256, size, np.uint8) for _ in range(layout.tensors)]


def seen(layout: Layout, tensors: list[np.ndarray], pages: int) -> np.ndarray:
    """The cache as one array of axes L, P, B, T, H, D: a copy, by NumPy's own strides."""
    sizes = {"L": layout.layers, "P": layout.planes, "B": pages, "T": layout.page_tokens,
             "H": layout.heads, "D": layout.dim}  # fmt: skip
    views = [_view(layout, tensor, sizes) for tensor in tensors]
    outer = [axis for axis in "LP" if axis not in layout.axes]
    stacked = np.stack(views).reshape([sizes[axis] for axis in outer] + list(views[0].shape))
    letters = "".join(outer) + layout.axes
    # A layout without a letter for its one plane has that axis nevertheless.
    return stacked.transpose([letters.index(axis) for axis in "LPBTHD"])


def _view(layout: Layout, tensor: np.ndarray, sizes: dict[str, int]) -> np.ndarray:
    itemsize, strides, stride = ITEMSIZE[layout.dtype], [], ITEMSIZE[layout.dtype]
    for axis in reversed(layout.axes):
        stride = layout.strides.get(axis, stride)
        strides.insert(0, stride)
        stride *= sizes[axis]
    shape = tuple(sizes[axis] for axis in layout.axes)
    return np.ndarray(shape, BITS[itemsize], tensor.data, strides=tuple(strides))


def chunks_of(layout: Layout, cache: np.ndarray, blocks: list[int]) -> np.ndarray:
    """What a save makes of pages, whole chunks: axes chunk, L, P, token, H, D."""
    count = -(-len(blocks) // layout.chunk_pages)
    shape = (count, layout.layers, layout.planes, layout.chunk_pages, *cache.shape[3:])
    chunks = np.zeros(shape, cache.dtype)
    for place, block in enumerate(blocks):
        if block >= 0:
            chunk, page = divmod(place, layout.chunk_pages)
            chunks[chunk, :, :, page] = cache[:, :, block]
    return chunks.reshape(count, *layout.chunk_shape)


def seen_scaled(layout: Layout, tensors: list[np.ndarray], pages: int) -> list[np.ndarray]:
    """Values and scales of a cache with scales, each of axes L, P, B, T, H and bytes: copies."""
    sizes = {"L": layout.layers, "P": layout.planes, "B": pages, "T": layout.page_tokens,
             "H": layout.heads}  # fmt: skip
    outer_axes, inside = layout.axes[:-3], layout.axes[-3:-1]
    outer = [sizes[axis] for axis in outer_axes]
    page = layout.page_tokens * (layout.row_bytes + layout.scale_bytes)
    strides, stride = [], page
    for axis in reversed(outer_axes):
        strides.insert(0, layout.strides.get(axis, stride))
        stride = strides[0] * sizes[axis]
    views = [np.ndarray((*outer, page), np.uint8, each.data, strides=(*strides, 1))
             for each in tensors]  # fmt: skip
    missing = [axis for axis in "LP" if axis not in layout.axes]
    stacked = np.stack(views).reshape(*(sizes[axis] for axis in missing), *outer, page)
    letters = "".join(missing) + layout.axes
    order = [letters.index(axis) for axis in "LPBTHD"]
    cut = layout.page_tokens * layout.row_bytes
    parts = stacked[..., :cut], stacked[..., cut:]
    shape = (*stacked.shape[:-1], *(sizes[axis] for axis in inside), -1)
    return [part.reshape(shape).transpose(order).copy() for part in parts]


def scaled_chunks(layout: Layout, parts: list[np.ndarray], blocks: list[int]) -> np.ndarray:
    """What a save makes of them: for each plane of each layer, values and then scales."""
    count = -(-len(blocks) // layout.chunk_pages)
    planes = []
    for part in parts:
        tokens = np.zeros((count * layout.chunk_pages, *part.shape[:2], *part.shape[3:]), np.uint8)
        for place, block in enumerate(blocks):
            if block >= 0:
                tokens[place] = part[:, :, block]
        by_chunk = tokens.reshape(count, layout.chunk_pages, *tokens.shape[1:])
        # Chunk, layer, plane; then pages, tokens, heads and bytes side by side.
        planes.append(
            by_chunk.transpose(0, 2, 3, 1, 4, 5, 6).reshape(
                *by_chunk.shape[:1], *tokens.shape[1:3], -1
            )
        )
    return np.concatenate(planes, axis=-1).reshape(count, layout.chunk_bytes)


def save_by_format(
    format_: PageFormat, tensors: list[np.ndarray], ids: list[int], *, by_slot: bool = False
) -> np.ndarray:
    """What the executor makes of a format: byte by byte, as pages.c says."""
    if format_.beside is not None:
        beside = save_by_format(format_.beside, tensors, ids, by_slot=by_slot)
        return beside | save_by_format(replace(format_, beside=None), tensors, ids, by_slot=by_slot)
    form = format_.by_slot if by_slot else format_.by_page
    count = -(-len(ids) // form.chunk_ids)
    out = np.zeros((count, format_.chunk_bytes), np.uint8)
    (outer, inner), size = form.axes, form.piece_bytes
    for row, (place, number) in itertools.product(format_.rows, enumerate(ids)):
        if number < 0:
            continue
        page, part = divmod(number, form.split)
        there = row.offset_bytes + page * row.page_bytes + part * form.split_bytes
        chunk, index = divmod(place, form.chunk_ids)
        here = row.chunk_offset_bytes + index * form.id_bytes
        for i, j in itertools.product(range(outer[0]), range(inner[0])):
            source = there + i * outer[1] + j * inner[1]
            target = here + i * outer[2] + j * inner[2]
            out[chunk, target : target + size] = tensors[row.memory][source : source + size]
    return out


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Any layout: any order of axes, with or without padding."""
    planes = draw(st.integers(1, 2))
    inside = draw(st.sampled_from([[], ["L"], ["P"], ["L", "P"]]))
    axes = "".join(draw(st.permutations(["B", "T", "H", *inside]))) + "D"
    sizes = {"L": draw(st.integers(1, 3)), "P": planes, "T": draw(st.sampled_from([1, 2, 4])),
             "H": draw(st.integers(1, 3)), "D": draw(st.integers(1, 3))}  # fmt: skip
    dtype = draw(st.sampled_from(sorted(ITEMSIZE)))
    padded = {}
    if axes[0] == "B" and draw(st.booleans()):  # of other axes the strides depend on the pages
        inner = draw(st.sampled_from(axes[:-1]))
        stride = ITEMSIZE[dtype]
        for axis in reversed(axes[axes.index(inner) + 1 :]):
            stride *= sizes[axis]
        padded = {inner: stride + ITEMSIZE[dtype] * draw(st.integers(0, 2))}
    return Layout(
        layers=sizes["L"], planes=planes, heads=sizes["H"], dim=sizes["D"], dtype=dtype,
        page_tokens=sizes["T"], axes=axes, strides=padded,
        chunk_tokens=sizes["T"] * draw(st.integers(1, 3)),
    )  # fmt: skip


@st.composite
def scaled_layouts(draw: st.DrawFn) -> Layout:
    """Any layout with scales in its pages, with or without padding."""
    planes, block = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    outside = draw(st.permutations(["B", *draw(st.sampled_from([[], ["L"], ["P"], ["L", "P"]]))]))
    scales = Scales(draw(st.sampled_from(["float32", "float16", "uint8"])), block)
    given = {
        "layers": draw(st.integers(1, 3)), "planes": planes, "heads": draw(st.integers(1, 3)),
        "dim": block * draw(st.integers(1, 3)), "dtype": "float8_e4m3fn", "scales": scales,
        "page_tokens": draw(st.sampled_from([1, 2, 4])),
        "axes": "".join(outside) + draw(st.sampled_from(["TH", "HT"])) + "D",
    }  # fmt: skip
    given["chunk_tokens"] = given["page_tokens"] * draw(st.integers(1, 3))
    layout = Layout(**given)
    if outside[0] == "B" and draw(st.booleans()):
        page = layout.tensor_bytes(1)
        given["strides"] = {"B": page + draw(st.integers(0, 3))}
    return Layout(**given)
