"""What a chunk of the KV cache is called: a namespace, and a digest that is chained over tokens.

Two engines may exchange chunks only if the same bytes mean the same to both. All that decides about
it is part of the namespace, so engines that differ in any of it miss each other's chunks, and never
read them: model and weights, element type, geometry, the heads that this rank holds, RoPE, LoRA,
salt, and the version of the format.

::

    namespace = H(every field, each with its length before it)
    key_0     = H(namespace, tokens 0 to 255)
    key_i     = H(key_(i-1), tokens of chunk i)        only whole chunks have a key

So a key stands for all tokens up to the end of its chunk, and the digests of a prompt are a path:
who has one of them has every one before. Lookups send digests, and never tokens: 131 072 tokens are
512 digests of 16 bytes. H is BLAKE2b with 16 bytes; a token is an unsigned 32-bit integer, little
endian. 2^64 chunks would have to be made before two of them are likely to share a digest.
"""

from __future__ import annotations

import hashlib
import operator
import sys
from array import array
from collections.abc import Collection
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, TypeAlias, cast

import anyio
from anyio.lowlevel import RunVar

from ajit._gpu.dtype import DTYPES
from ajit._system.in_thread import run_in_thread
from ajit.errors import UsageError

__all__ = [
    "DIGEST_BYTES",
    "FORMAT_VERSION",
    "MOST_CHUNK_BYTES",
    "Namespace",
    "Tokens",
    "chunk_digests",
    "digest_tokens",
    "tenant_of",
]

MOST_CHUNK_BYTES = 2**40
"""A service takes no larger ones."""
DIGEST_BYTES = 16
"""Size of every digest here."""

FORMAT_VERSION = 1
"""Of the bytes in a chunk, ``[layer][plane][token][head * dim]``: part of every namespace."""

TOKEN_BYTES = 4

INLINE_TOKENS = 16_384
"""Digests of up to so many tokens are made on the loop, in less than half a millisecond."""

Tokens: TypeAlias = "Collection[int]"
"""Token ids from 0 to 2^32 - 1. A buffer of 32-bit integers (numpy, array) is not copied."""

MOST_THREADS = 4
"""Threads of a loop that make digests at once. Pretty arbitrary: 512 KiB take a millisecond."""

_hashing: RunVar[anyio.CapacityLimiter] = RunVar("ajit.kv hashing")


@dataclass(frozen=True, kw_only=True)
class Namespace:
    """All that decides what the bytes of a chunk mean. Equal namespaces share chunks.

    Attributes:
        model: Name of the model. Not enough by itself: two checkpoints may have one name.
        weights: Digest or revision of the weights.
        dtype: Element type of the cache, such as ``float16`` or ``float8_e4m3fn``.
        layers: Layers of the model that a chunk holds.
        planes: 2 for keys and values, 1 for MLA; a plane of scales counts as one more.
        heads: First KV head that a chunk holds, and the one after the last. A range, and no rank:
            so ranks of another tensor-parallel size can find what covers theirs.
        dim: Elements of one head.
        chunk_tokens: Tokens of a chunk.
        chunk_bytes: Size of a chunk, with all layers and planes. 0: the product of the fields
            above, if the dtype is one of numpy's or `ml_dtypes`' names; give it where planes
            differ in size.
        rope: What positions were encoded with: base, scaling, and whatever else changes them.
        lora: Digest of the adapter that was active; "" for none.
        salt: Shared by those who may see each other's prompts; "" for all. It is not sent to the
            service, which only gets a digest of it, for quotas.
        extra: Whatever else decides about the bytes, such as a kind of attention or a window.

    Raises:
        UsageError: A field cannot be. Nothing was done.
    """

    model: str
    weights: str
    dtype: str
    layers: int
    planes: int = 2
    heads: tuple[int, int] = (0, 1)
    dim: int
    chunk_tokens: int = 256
    chunk_bytes: int = 0
    rope: str = ""
    lora: str = ""
    salt: str = ""
    extra: str = ""

    def __post_init__(self) -> None:
        self._take_whole_numbers()
        first, stop = self.heads
        counts = (self.layers, self.planes, self.dim, self.chunk_tokens, stop - first)
        if min(counts) < 1 or first < 0 or self.chunk_bytes < 0:
            raise UsageError(f"no chunk has this geometry: {self}")
        if not self.chunk_bytes:
            per_token = self.layers * self.planes * (stop - first) * self.dim
            size = per_token * self.chunk_tokens * _item_bytes(self.dtype)
            object.__setattr__(self, "chunk_bytes", size)
        if self.chunk_bytes > MOST_CHUNK_BYTES:
            raise UsageError(f"a chunk of {self.chunk_bytes} bytes is more than any service takes")

    def _take_whole_numbers(self) -> None:
        """Those of numpy as well, which are no `int`."""
        try:
            for name in ("layers", "planes", "dim", "chunk_tokens", "chunk_bytes"):
                object.__setattr__(self, name, operator.index(getattr(self, name)))
            first, stop = head_range(self.heads)
        except (TypeError, ValueError) as exc:
            raise UsageError(f"no chunk has this geometry: {self}: {exc}") from exc
        object.__setattr__(self, "heads", (first, stop))

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that stand for all fields and for `FORMAT_VERSION`."""
        parts = [b"ajit.kv", b"%d" % FORMAT_VERSION]
        for field in fields(self):
            value = getattr(self, field.name)
            parts += [field.name.encode(), _canonical(value)]
        return _digest(b"".join(len(part).to_bytes(4, "little") + part for part in parts))

    @cached_property
    def tenant(self) -> bytes:
        """16 bytes that stand for the salt; empty if there is none. Quotas are counted by it."""
        return tenant_of(self.salt)


def tenant_of(salt: str) -> bytes:
    """Return what a salt is called where quotas are counted: 16 bytes, or none without a salt."""
    return _digest(b"tenant" + salt.encode()) if salt else b""


def chunk_digests(namespace: Namespace, tokens: Tokens) -> list[bytes]:
    """Return the digest of each whole chunk of a prompt, in order.

    131 072 tokens take a few milliseconds; on an event loop, use `digest_tokens`.

    Args:
        namespace: What the chunks belong to.
        tokens: Of the prompt, from its start.

    Raises:
        UsageError: A token is no unsigned 32-bit integer. Nothing was done.
    """
    data = _little_endian(tokens)
    size = namespace.chunk_tokens * TOKEN_BYTES
    digests, former = [], namespace.digest
    for start in range(0, len(data) - size + 1, size):
        hasher = hashlib.blake2b(former, digest_size=DIGEST_BYTES)
        hasher.update(data[start : start + size])
        former = hasher.digest()
        digests.append(former)
    return digests


async def digest_tokens(namespace: Namespace, tokens: Tokens) -> list[bytes]:
    """As `chunk_digests`, with long prompts in a helper thread. Cancelling leaves that to itself.

    The tokens must not change meanwhile.

    Raises:
        UsageError: A token is no unsigned 32-bit integer. Nothing was done.
    """
    if len(tokens) <= INLINE_TOKENS:
        return chunk_digests(namespace, tokens)
    try:
        limiter = _hashing.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(MOST_THREADS)
        _hashing.set(limiter)
    return await run_in_thread(chunk_digests, namespace, tokens, limiter=limiter, abandon=True)


def head_range(heads: object) -> tuple[int, int]:
    """Return the first head and the one after the last.

    Raises:
        UsageError: That is no pair of numbers.
    """
    try:
        first, stop = map(operator.index, cast("Any", heads))
    except (TypeError, ValueError):
        raise UsageError(
            f"heads is {heads!r}, and has to be a pair: the first, and the one after the last"
        ) from None
    return first, stop


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def _canonical(value: object) -> bytes:
    if isinstance(value, tuple):
        return b",".join(b"%d" % item for item in value)
    return b"%d" % value if isinstance(value, int) else str(value).encode()


def _little_endian(tokens: Tokens) -> memoryview:
    """The tokens as bytes, four each. A buffer of 32-bit integers is not copied."""
    try:
        view = _as_buffer(tokens)
        if view is not None and view.itemsize == TOKEN_BYTES and sys.byteorder == "little":
            return view.cast("B")
        # An array of another width is read as integers, so that each is checked.
        words = array("I", tokens if view is None else view.tolist())
    except (TypeError, ValueError, OverflowError, BufferError) as exc:
        raise UsageError(f"tokens are integers from 0 to 2**32 - 1: {exc}") from exc
    if sys.byteorder == "big":
        words.byteswap()
    return memoryview(words).cast("B")


def _as_buffer(tokens: Tokens) -> memoryview | None:
    if isinstance(tokens, (bytes, bytearray)):
        raise TypeError("bytes are no tokens; pass an array of 32-bit integers")
    try:
        view = memoryview(cast("Any", tokens))
    except TypeError:
        return None
    if view.format not in _INTEGERS:
        raise TypeError(f"these are of the format {view.format!r}")
    if view.ndim != 1:
        raise TypeError(f"these have {view.ndim} dimensions, and not one")
    if not view.c_contiguous:
        raise TypeError("these do not lie in a row; pass a copy")
    if view.format == "i" and not bytes(view.cast("B")[_HIGH_BYTE::TOKEN_BYTES]).isascii():
        raise ValueError("a token is negative")
    return view


_HIGH_BYTE = 3 if sys.byteorder == "little" else 0

_INTEGERS = frozenset("bBhHiIlLqQ")


def _item_bytes(dtype: str) -> int:
    if dtype not in DTYPES:
        raise UsageError(f"the size of a {dtype!r} is not known here: give chunk_bytes")
    return DTYPES[dtype].itemsize
