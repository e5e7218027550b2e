"""Layouts: what is declared comes down to strides, which a model in NumPy agrees with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ajit.errors import ArgumentError, UsageError
from ajit.kv import Layout, Namespace, Scales, axes_of
from tests.kv.model import (
    chunks_of,
    layouts,
    save_by_format,
    scaled_chunks,
    scaled_layouts,
    seen,
    seen_scaled,
    tensors_of,
)

# Engines' layouts by name, and their axes.
KNOWN = {
    "vLLM FlashAttention, NHD": ({}, "PBTHD"),
    "vLLM FlashAttention, HND": ({"order": "HND"}, "PBHTD"),
    "vLLM FlashInfer, NHD": ({"planes": "in page"}, "BPTHD"),
    "vLLM FlashInfer, HND": ({"order": "HND", "planes": "in page"}, "BPHTD"),
    "keys and values side by side": ({"planes": "fused"}, "BTHPD"),
    "the same, heads outside": ({"order": "HND", "planes": "fused"}, "BHTPD"),
    "SGLang, lists of keys and of values; MLA": ({"planes": "apart"}, "BTHD"),
    "all layers in a page, NHD": ({"planes": "in page", "layers": "in page"}, "BLPTHD"),
    "all layers in a page, HND": (
        {"order": "HND", "planes": "in page", "layers": "in page"}, "BLPHTD",
    ),
    "one tensor for all layers": ({"layers": "outside"}, "LPBTHD"),
}  # fmt: skip


@given(layouts(), st.integers(1, 5), st.data())
def test_strides_say_what_numpy_says(layout, pages, data):
    """For any order of axes, padding, type and pages: the bytes of a chunk are the model's."""
    order = data.draw(st.permutations(range(pages)))
    blocks = [block if data.draw(st.integers(0, 3)) else -1 for block in order]
    tensors = tensors_of(layout, pages)
    cache = seen(layout, tensors, pages)
    expected = chunks_of(layout, cache, blocks)
    format_ = layout.format(pages)
    slots = [-1 if block < 0 else block * layout.page_tokens + token
             for block in blocks for token in range(layout.page_tokens)]  # fmt: skip

    assert format_.fault(tuple(tensor.nbytes for tensor in tensors)) == ""
    assert expected.tobytes() == save_by_format(format_, tensors, blocks).tobytes()
    assert expected.tobytes() == save_by_format(format_, tensors, slots, by_slot=True).tobytes()


@given(scaled_layouts(), st.integers(1, 5), st.data())
def test_scales_lie_behind_the_values(layout, pages, data):
    """In each page, and in each plane of each layer of a chunk: the model's bytes."""
    order = data.draw(st.permutations(range(pages)))
    blocks = [block if data.draw(st.integers(0, 3)) else -1 for block in order]
    tensors = tensors_of(layout, pages)
    expected = scaled_chunks(layout, seen_scaled(layout, tensors, pages), blocks)
    format_ = layout.format(pages)
    slots = [-1 if block < 0 else block * layout.page_tokens + token
             for block in blocks for token in range(layout.page_tokens)]  # fmt: skip

    assert format_.fault(tuple(tensor.nbytes for tensor in tensors)) == ""
    assert pages == layout.pages_in(layout.tensor_bytes(pages))
    assert expected.tobytes() == save_by_format(format_, tensors, blocks).tobytes()
    assert expected.tobytes() == save_by_format(format_, tensors, slots, by_slot=True).tobytes()


def test_the_indexer_of_vllm_is_a_layout():
    """Pages of 64 tokens, 128 bytes each, and a float32 for each token behind them."""
    layout = Layout(
        layers=61, planes=1, heads=1, dim=128, dtype="float8_e4m3fn", page_tokens=64, axes="BTHD",
        scales=Scales(),
    )  # fmt: skip

    assert layout.shape(10) == (10, 64, 132)
    assert layout.tensor_bytes(10) == 10 * 64 * 132
    assert layout.chunk_bytes == 61 * 256 * 132
    assert layout.chunk_shape == (61, 1, 256 * 132)
    assert layout.chunk_format == "kv1 LPTHD 61x1x256x1x128 float8_e4m3fn+float32/128"
    assert layout.format(10).by_page.piece_bytes == 64 * 128
    space = layout.namespace("m", "w")
    assert (space.dtype, space.chunk_bytes) == ("float8_e4m3fn+float32/128", layout.chunk_bytes)
    layout.check_namespace(space)
    with pytest.raises(UsageError, match="their dtype is 'float8_e4m3fn'"):
        layout.check_namespace(replace(layout, scales=None).namespace("m", "w"))


@given(layouts(), st.integers(1, 50))
def test_the_number_of_pages_follows_from_the_size(layout, pages):
    """Whether or not the padding behind the last page is there."""
    assert pages == layout.pages_in(layout.tensor_bytes(pages))


@pytest.mark.parametrize("name", KNOWN)
def test_engines_layouts_have_names(name):
    """Words for what is common, instead of letters."""
    words, expected = KNOWN[name]

    assert expected == axes_of(**words)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [("PBTHD", 16 * 1024 * 2), ("BLPTHD", 16 * 1024 * 2), ("BTHPD", 256), ("PBHTD", 256)],
)
def test_pieces_are_as_large_as_both_sides_allow(axes, expected):
    """A page of a plane is one copy where tokens lie as in a chunk, else one of each head."""
    layout = Layout(layers=2, heads=8, dim=128, dtype="float16", page_tokens=16, axes=axes)

    assert expected == layout.format(4).by_page.piece_bytes


def test_what_is_known_of_a_cache():
    """32 layers, pages of 16 tokens: the sizes that servers plan with."""
    layout = Layout(layers=32, heads=8, dim=128, dtype=np.float16, page_tokens=16)

    assert layout.dtype == "float16"
    assert (layout.row_bytes, layout.chunk_bytes, layout.chunk_pages) == (2048, 32 << 20, 16)
    assert (layout.tensors, layout.shape(7)) == (32, (2, 7, 16, 8, 128))
    assert layout.chunk_shape == (32, 2, 256, 8, 128)
    assert layout.chunk_format == "kv1 LPTHD 32x2x256x8x128 float16"
    mla = Layout(
        layers=4, planes=1, heads=1, dim=576, dtype="bfloat16", page_tokens=64, axes="BTHD"
    )
    assert (mla.tensors, mla.chunk_bytes) == (4, 4 * 256 * 576 * 2)


def test_the_order_of_pages_does_not_change_a_chunk():
    """Engines whose pages lie differently read each other's chunks; other types do not."""
    one, other = (
        Layout(layers=2, heads=4, dim=8, dtype="float16", page_tokens=16, axes=axes)
        for axes in ("PBTHD", "BLPHTD")
    )
    third = Layout(layers=2, heads=4, dim=8, dtype="bfloat16", page_tokens=16)

    assert one.chunk_format == other.chunk_format != third.chunk_format


def test_a_namespace_has_the_geometry_of_its_layout():
    """It is typed once; the order of pages is no part of it, and the range of heads is."""
    sizes = {"layers": 2, "heads": 4, "dim": 8, "dtype": "float16", "page_tokens": 16}
    one, other = Layout(**sizes), Layout(**sizes, axes="BLPHTD")
    expected = Namespace(
        model="m", weights="w", dtype="float16", layers=2, heads=(4, 8), dim=8, salt="s"
    )

    assert expected == one.namespace("m", "w", heads=(4, 8), salt="s")
    assert expected == other.namespace("m", "w", heads=(4, 8), salt="s")
    assert one.namespace("m", "w").heads == (0, 4)
    assert one.namespace("m", "w").chunk_bytes == one.chunk_bytes
    with pytest.raises(UsageError, match=r"heads is \(0, 8\); the layout has 4"):
        one.namespace("m", "w", heads=(0, 8))


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "bfloat16"}, {"layers": 3}, {"planes": 1}, {"heads": (4, 9)}, {"dim": 16},
        {"chunk_tokens": 128}, {"chunk_bytes": 1 << 20},
    ],
)  # fmt: skip
def test_a_namespace_of_another_layout_is_told(change):
    """With the field that differs; any range of as many heads agrees."""
    layout = Layout(layers=2, heads=4, dim=8, dtype="float16", page_tokens=16)
    given = {
        "model": "m", "weights": "w", "dtype": "float16", "layers": 2, "heads": (4, 8), "dim": 8,
    }  # fmt: skip
    layout.check_namespace(Namespace(**given))
    (name,) = change
    with pytest.raises(UsageError, match=f"their {name} is .*, that of the pages"):
        layout.check_namespace(Namespace(**given | change))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"axes": "PBTH"}, "each once"),
        ({"axes": "PBTHDX"}, "each once"),
        ({"axes": "PPBTHD"}, "each once"),
        ({"axes": "PBTDH"}, "D last"),
        ({"layers": 0}, "L has no extent"),
        ({"heads": -1}, "H has no extent"),
        ({"page_tokens": 24}, "no whole number of pages"),
        ({"strides": {"T": 8}}, "the stride 8 of 'T' is less than the 64 bytes inside"),
        ({"strides": {"L": 8}}, "a stride for 'L'"),
        ({"strides": {"D": 8}}, "side by side"),
        ({"dtype": "float17"}, "float17"),
        ({"scales": Scales("float32", 8)}, "scales belong to values of one byte"),
        ({"scales": Scales("float32", 3), "dtype": "uint8"}, "no whole number of blocks of 3"),
        ({"scales": Scales("float32", 8), "dtype": "uint8", "axes": "BTHPD"}, "come last"),
        ({"scales": Scales("float32", 8), "dtype": "uint8", "strides": {"T": 64}}, "no stride for"),
        (
            {"scales": Scales("float32", 8), "dtype": "uint8", "strides": {"B": 600}},
            "less than the 768 bytes inside",
        ),
    ],
)
def test_what_is_no_layout_is_refused(change, says):
    """With the reason, before any memory is looked at."""
    good = {"layers": 2, "heads": 4, "dim": 8, "dtype": "float16", "page_tokens": 16}
    with pytest.raises(ArgumentError, match=says):
        Layout(**good | change)


def test_a_size_that_is_no_number_of_pages_is_refused():
    """The padding is not guessed."""
    layout = Layout(layers=1, heads=4, dim=8, dtype="float16", page_tokens=16)
    for nbytes in (0, 1, layout.tensor_bytes(3) + 2):
        with pytest.raises(ArgumentError, match="say pages="):
            layout.pages_in(nbytes)
