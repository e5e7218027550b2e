"""Names of chunks: what shares one, and what never does."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ajit.errors import UsageError
from ajit.kv import Namespace, chunk_digests, digest_tokens
from ajit.kv.keys import DIGEST_BYTES

SPACE = Namespace(
    model="small", weights="w1", dtype="float16", layers=4, heads=(0, 8), dim=64, chunk_tokens=16
)

OTHER = {
    "model": "large",
    "weights": "w2",
    "dtype": "bfloat16",
    "layers": 2,
    "planes": 1,
    "heads": (8, 16),
    "dim": 128,
    "chunk_tokens": 32,
    "chunk_bytes": 1 << 20,
    "rope": "yarn",
    "lora": "a1",
    "salt": "s",
    "extra": "window 512",
}


@pytest.mark.parametrize("name", OTHER)
def test_namespaces_that_differ_in_any_field_share_nothing(name):
    """Other bytes, or bytes that mean something else, are a miss."""
    other = replace(SPACE, chunk_bytes=OTHER.get("chunk_bytes", 0) if name == "chunk_bytes" else 0)
    other = replace(other, **{name: OTHER[name]})

    assert SPACE.digest != other.digest
    assert not set(chunk_digests(SPACE, range(64))) & set(chunk_digests(other, range(64)))


def test_fields_do_not_run_into_each_other():
    """Each has its length before it."""
    one, other = replace(SPACE, model="ab", weights="c"), replace(SPACE, model="a", weights="bc")

    assert one.digest != other.digest


def test_equal_namespaces_are_one_in_every_process():
    """A digest that is spelt out: what is made of it lies in a service that other versions use."""
    expected = "257f4a15476c275dcbe07c5162229c89"

    assert expected == SPACE.digest.hex()


def test_a_chunk_has_the_size_of_its_geometry():
    """Layers, planes, tokens, heads, dim, and bytes of an element."""
    expected = 4 * 2 * 16 * 8 * 64 * 2

    assert expected == SPACE.chunk_bytes


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 0},
        {"layers": 2**40},  # a service would take it for no message, and close the connection
        {"dim": 1.5},
        {"heads": (4, 4)},
        {"heads": (-1, 4)},
        {"heads": (0, 4, 8)},
        {"dim": 0},
        {"dtype": "nibble"},
    ],
)
def test_a_geometry_that_cannot_be_is_refused(change):
    """Before anything is stored under it."""
    with pytest.raises(UsageError):
        replace(SPACE, chunk_bytes=0, **change)


def test_numbers_of_numpy_are_numbers():
    """A model's configuration may have them."""
    given = {name: np.int64(getattr(SPACE, name)) for name in ("layers", "dim", "chunk_tokens")}
    first, stop = SPACE.heads
    other = replace(SPACE, heads=(np.int32(first), np.int32(stop)), **given)

    assert (SPACE, SPACE.digest) == (other, other.digest)


def test_digests_are_chained_as_the_page_says():
    """BLAKE2b over the former digest and the tokens of the chunk, 32 bits each, little endian."""
    first = hashlib.blake2b(
        SPACE.digest + np.arange(16, dtype="<u4").tobytes(), digest_size=DIGEST_BYTES
    ).digest()
    second = hashlib.blake2b(
        first + np.arange(16, 32, dtype="<u4").tobytes(), digest_size=DIGEST_BYTES
    ).digest()

    assert [first, second] == chunk_digests(SPACE, range(40))


@given(st.lists(st.integers(0, 2**31 - 1), max_size=70))
def test_tokens_are_the_same_in_every_container(tokens):
    """A list, an array, and numpy's types of any width."""
    expected = chunk_digests(SPACE, tokens)
    containers = [tuple(tokens), array("I", tokens), array("i", tokens), array("q", tokens)]
    containers += [np.array(tokens, dtype) for dtype in ("int32", "uint32", "int64", "uint64")]

    assert all(expected == chunk_digests(SPACE, each) for each in containers)


@given(st.lists(st.integers(0, 9), max_size=70), st.integers(0, 69))
def test_a_digest_stands_for_all_tokens_before_its_end(tokens, changed):
    """A change of one token changes its chunk's digest and all later ones, and no earlier one."""
    other = [*tokens]
    if changed < len(tokens):
        other[changed] += 1
    before, after = chunk_digests(SPACE, tokens), chunk_digests(SPACE, other)
    same = [a == b for a, b in zip(before, after, strict=True)]
    expected = [changed >= len(tokens) or i < changed // 16 for i in range(len(tokens) // 16)]

    assert expected == same


@pytest.mark.parametrize(
    "tokens",
    [
        [-1] * 16,
        [2**32] * 16,
        ["a"] * 16,
        [1.5] * 16,
        np.full(16, -1, "int32"),
        np.full(16, -1, "int64"),
        np.zeros(16, "float32"),
        np.zeros((4, 4), "int32"),
        np.zeros(32, "int32")[::2],
        b"a" * 64,
    ],
    ids=str,
)
def test_what_is_no_token_is_refused(tokens):
    """And not cut down to 32 bits."""
    with pytest.raises(UsageError, match="tokens are integers"):
        chunk_digests(SPACE, tokens)


def test_tokens_that_do_not_lie_in_a_row_are_named_so():
    """And are not mistaken for numbers that are too large."""
    with pytest.raises(UsageError, match="do not lie in a row; pass a copy"):
        chunk_digests(SPACE, np.zeros(32, "int32")[::2])


@pytest.mark.parametrize("heads", [3, None, (1, 2, 3), ("a", "b")])
def test_heads_that_are_no_pair_are_refused(heads):
    """A number of heads is taken for no range of them."""
    with pytest.raises(UsageError, match="has to be a pair"):
        replace(SPACE, heads=heads)


@pytest.mark.anyio
async def test_long_prompts_are_digested_off_the_loop():
    """131 072 tokens of chunks of 256 are 512 digests, the same as in one go."""
    space = replace(SPACE, chunk_tokens=256, chunk_bytes=0)
    tokens = np.arange(131_072, dtype="uint32")
    expected = chunk_digests(space, tokens)
    actual = await digest_tokens(space, tokens)

    assert expected == actual
    assert len(actual) == 512


def test_a_salt_is_not_sent():
    """Its tenant says who shares it, and not what it is."""
    salted = replace(SPACE, salt="secret")

    assert SPACE.tenant == b""
    assert len(salted.tenant) == DIGEST_BYTES
    assert salted.tenant != replace(SPACE, salt="other").tenant
