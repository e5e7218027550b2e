"""A namespace of small chunks, stores with room for some of them, and what they hold."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager

import pytest

from ajit.kv import Namespace, StoreOptions, connect, open_service, open_store
from ajit.kv.statistics import statistics_of

CHUNK_TOKENS = 4
CHUNK_BYTES = 4096
SLAB_BYTES = 4 * CHUNK_BYTES


@pytest.fixture
def space():
    """A namespace whose chunks have 4 tokens and 4 KiB."""
    return space_named("small")


@pytest.fixture
def path(tmp_path):
    """Where a service may listen."""
    tmp_path.chmod(0o700)
    return tmp_path / "kv.sock"


def prompt(name: int, chunks: int) -> list[int]:
    """Tokens of a prompt of so many chunks; those of different names share none."""
    return [name, *range(1, chunks * CHUNK_TOKENS)]


def space_named(model: str, **fields) -> Namespace:
    """A namespace like it."""
    given = {
        "weights": "w1", "dtype": "float16", "layers": 2, "dim": 128, "chunk_tokens": CHUNK_TOKENS,
    }  # fmt: skip
    return Namespace(model=model, **given | fields)


def options(chunks: int = 8, **given) -> StoreOptions:
    """Room for so many of these chunks."""
    return StoreOptions(**{"limit_bytes": chunks * CHUNK_BYTES, "slab_bytes": SLAB_BYTES} | given)


def content(digest: bytes, size: int = CHUNK_BYTES) -> bytes:
    """What a chunk of that digest has to hold."""
    return hashlib.shake_128(digest).digest(size)


async def store_prompt(store, namespace, digests, first: int = 0) -> int:
    """Write chunks, and commit them; how many were."""
    async with store.reserve(namespace, digests, first=first) as slots:
        for i in range(len(slots)):
            digest = digests[slots.first + i]
            slots.view(i)[:] = content(digest, namespace.chunk_bytes)
        return len(slots) if slots and await slots.commit() else 0


async def read_prompt(store, namespace, digests) -> int:
    """Look a prompt up, check every byte of what is found; how many chunks were."""
    async with store.lease(namespace, digests=digests) as lease:
        for i in range(len(lease)):
            expected = content(digests[i], namespace.chunk_bytes)

            assert expected == bytes(lease.view(i))
        return len(lease)


@asynccontextmanager
async def _in_process(given):
    async with open_store(given) as store:
        yield store, store._keeper


def _served(path):
    @asynccontextmanager
    async def served(given):
        async with open_service(given, path) as service, connect(path, timeout=60) as client:
            yield client, service.keeper

    return served


@pytest.fixture(params=["in process", "served"])
def open_any(request, tmp_path):
    """Opens a store, in this process or behind a socket; with its keeper, to look into."""
    tmp_path.chmod(0o700)
    return _in_process if request.param == "in process" else _served(tmp_path / "kv.sock")


async def counted(store, keeper):
    """What a store counts, after all that was said to it so far."""
    if hasattr(store, "ping"):
        assert await store.ping() is not None
    return statistics_of(keeper)
