"""Representations: each public object is one short line."""

from __future__ import annotations

import numpy as np
import pytest

import ajit
from tests.runtime.sources import SAXPY, SYNTAX_ERROR

pytestmark = pytest.mark.anyio


async def _public_objects(rt):
    """One of each kind that a public call returns."""
    device = rt.device
    resolution, module = await rt.resolve(SAXPY), await rt.module(SAXPY)
    kernel, report = await rt.kernel(SAXPY), await rt.warmup([SAXPY, SYNTAX_ERROR])
    x = await device.upload(np.zeros(4, np.float32))
    async with device.batch(steps=True) as batch:
        batch.add_fill(x, 0)
    async with device.capture() as graph:
        graph.add_fill(x, 0)
    await batch.ticket
    statistics, pinned = rt.statistics(), await device.alloc_pinned(8)
    streams = [await device.create_stream(), await device.create_event()]
    return [
        SAXPY, SAXPY.entries[0], resolution, resolution.artifact, module, kernel, report,
        *report.failures, kernel[1, 4], kernel.bind(1, 4, 1.0, x, x, 4), x, x[0:2], pinned, batch,
        batch.ticket, batch.ticket.at(0), graph, *streams, await device.download(x), rt, device,
        statistics, statistics.disk, statistics.pool, statistics.credits, statistics.device,
        device.health(), rt.settings, ajit.LaunchAttributes(),
    ]  # fmt: skip


async def test_representation_of_every_public_object_is_one_short_line(with_device):
    """Under 200 characters, also where an object holds a compiler's log or a whole artifact."""
    seen = []
    async with ajit.open_runtime(**with_device, subscribers=[seen.append]) as rt:
        objects = await _public_objects(rt)
        lines = [repr(value) for value in [*objects, *seen]]

    assert [line for line in lines if len(line) >= 200 or "\n" in line] == []
    assert len({type(event) for event in seen}) > 3
