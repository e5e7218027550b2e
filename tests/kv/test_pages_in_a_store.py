"""An engine's pages kept in a store: in process, and behind the socket of a service."""

from __future__ import annotations

import numpy as np
import pytest

from ajit import kv
from tests.gpu.support import cpu_device
from tests.kv.model import seen, tensors_of

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

LAYOUT = kv.Layout(layers=3, heads=2, dim=8, dtype="float16", page_tokens=4, chunk_tokens=8)
SPACE = LAYOUT.namespace("toy", "1")
PAGES = 12
TOKENS = range(32)
BLOCKS = [7, 2, 5, 0, 11, 3, 8, 1]


async def stored(device, store, tensors) -> int:
    """Save the pages of a prompt; how many chunks the store has taken."""
    buffers = [await device.upload(tensor) for tensor in tensors]
    async with kv.open_pages(device, LAYOUT, buffers) as pages:
        digests = await kv.digest_tokens(SPACE, TOKENS)
        async with store.reserve(SPACE, digests) as slots:
            await (await pages.save(BLOCKS, slots))
            return len(slots) if await slots.commit() else 0


async def loaded(device, store, tensors, blocks):
    """The cache of an engine that has found the prompt and loaded it, layer by layer."""
    buffers = [await device.upload(np.zeros_like(tensor)) for tensor in tensors]
    async with (
        kv.open_pages(device, LAYOUT, buffers) as pages,
        store.lease(SPACE, TOKENS) as lease,
    ):
        assert lease.tokens == len(TOKENS)
        transfer = await pages.load(lease, blocks)
        for layer in range(LAYOUT.layers):
            await transfer.layer(layer)
        await transfer
    return [np.asarray(await device.download(buffer)) for buffer in buffers]


async def test_what_one_engine_stored_another_one_loads_into_other_pages(open_any):
    """The chunks of a namespace are those of the layout, and not a byte differs."""
    tensors, others = tensors_of(LAYOUT, PAGES), BLOCKS[::-1]
    async with open_any(kv.StoreOptions(limit_bytes=1 << 20, slab_bytes=64 << 10)) as (store, _):
        async with cpu_device() as device:
            taken = await stored(device, store, tensors)
        async with cpu_device() as device:
            found = await loaded(device, store, tensors, others)

    expected, actual = seen(LAYOUT, tensors, PAGES), seen(LAYOUT, found, PAGES)
    assert taken == 4
    assert (expected[:, :, BLOCKS] == actual[:, :, others]).all()
