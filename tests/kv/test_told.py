"""Copies of KV pages on the timeline of a runtime that writes a trace, and nowhere else."""

from __future__ import annotations

import json

import pytest

import ajit
from ajit import events, kv
from tests.kv.model import tensors_of

pytestmark = pytest.mark.anyio

LAYOUT = kv.Layout(layers=4, heads=2, dim=8, dtype="float16", page_tokens=4, chunk_tokens=16)
PAGES = 8
BLOCKS = list(range(PAGES))


async def copy(rt) -> None:
    """Save the pages of an engine, and load them again."""
    tensors = [await rt.device.upload(tensor) for tensor in tensors_of(LAYOUT, PAGES)]
    count = PAGES // LAYOUT.chunk_pages
    memory = await rt.device.alloc_pinned(count * LAYOUT.chunk_bytes)
    chunks = kv.Chunks(memory, [index * LAYOUT.chunk_bytes for index in range(count)])
    async with kv.open_pages(rt, LAYOUT, tensors, pages=PAGES) as opened:
        await (await opened.save(BLOCKS, chunks))
        await (await opened.load(chunks, BLOCKS))


@pytest.fixture
def options(tmp_path):
    """Arguments of `open_runtime`."""
    return {"cache_dir": tmp_path / "cache", "device": "cpu", "board": "off"}


async def test_copies_are_on_the_timeline(options, tmp_path):
    """Each with its bytes and its time, also those that end as the pages are closed."""
    path = tmp_path / "trace.json"
    async with ajit.open_runtime(trace=path, **options) as rt:
        await copy(rt)

    lines = json.loads(path.read_text().rstrip().rstrip(",") + "]")
    found = {line["name"]: line for line in lines if line.get("cat") == "kv copies"}
    assert set(found) == {"save", "load"}
    for line in found.values():
        assert line["dur"] > 0
        assert line["args"]["size_bytes"] == PAGES // LAYOUT.chunk_pages * LAYOUT.chunk_bytes


async def test_without_a_trace_no_copy_is_told(options):
    """It would cost every engine what nobody looks at."""
    seen: list[events.Event] = []
    async with ajit.open_runtime(**options, subscribers=[seen.append]) as rt:
        await copy(rt)

    assert [event for event in seen if isinstance(event, events.PagesCopied)] == []
