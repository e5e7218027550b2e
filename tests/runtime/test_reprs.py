"""Representations: each public object is one short line."""

from __future__ import annotations

from dataclasses import replace

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
    command = ajit.Command(["sh", "-c", "echo 1 > made"], files={"long": 500 * "x"})
    build = ajit.Build("made", command, ["made"])
    bundle = await rt.build(build)
    return [
        build, command, ajit.Call("json:dumps", {"obj": 500 * "x"}), bundle, bundle.files[0],
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


async def test_statistics_show_what_matters(with_device):
    """The representation has every count of requests; printed, one line for each wait and part."""
    async with ajit.open_runtime(**with_device) as rt:
        await rt.kernel(SAXPY)
        await rt.kernel(SAXPY)
        holder = ajit.events.Holder(
            host="node3", pid=4711, phase="compiling", compiler="nvcc 13.0", age_seconds=14.21
        )
        waiting = ajit.events.Waiting(
            name="rms_norm", key="5b" * 32, holder=holder, waited_seconds=12.04
        )
        statistics = replace(rt.statistics(), waiting=(waiting,))

    expected = (
        "RuntimeStatistics(compiled=1, from_disk=0, from_memory=1, failed=0, waited=0, "
        "in_progress=0, waiting=1)"
    )
    first, sums, second, *others = str(statistics).splitlines()
    assert repr(statistics) == expected
    assert first == (
        "runtime: compiled 1, from disk 0, from memory 1, failed 0, waited 0, in progress 0, "
        "loaded modules 1"
    )
    assert sums.startswith("  sums: compile seconds ")
    assert second == (
        "  waiting: rms_norm (5b5b5b5b5b5b5b5b) for 12.0 s, for pid 4711 on node3, compiling with "
        "nvcc 13.0 for 14.2 s"
    )
    assert [line.split(":")[0].strip() for line in others] == ["disk", "pool", "credits", "device"]


def test_process_that_was_waited_for_is_shown_with_rounded_seconds():
    """As the log does."""
    waited_for = ajit.WaitedFor(host="node3", pid=4711, seconds=12.0449)

    assert repr(waited_for) == "WaitedFor(host='node3', pid=4711, seconds=12.0)"
