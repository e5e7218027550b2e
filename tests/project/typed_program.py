"""A user's program, for type checkers: every line that is marked is an error, and no other."""

from __future__ import annotations

from typing import assert_type

import ajit
from ajit import Artifact, DeviceBuffer, HostArray, Kernel, LoadedModule, Ticket, kv

SPEC = ajit.Spec("__global__ void k(float* x) {}", "k", defines={"N": 4})
LAYOUT = kv.Layout(layers=1, heads=1, dim=8, dtype="float16", page_tokens=16)
SPACE = kv.Namespace(model="m", weights="1", dtype="float16", layers=1, dim=8)
SEVERAL = ajit.Spec("__global__ void k() {}", ["k", ajit.EntryPoint("k<int>")])


async def main() -> None:
    """A server's calls."""
    async with ajit.open_runtime(device="cpu", compile_slots=2) as rt:
        assert_type(rt, ajit.Runtime)
        kernel = await rt.kernel(SPEC, fallback=SEVERAL, timeout=1.0)
        assert_type(kernel, Kernel)
        assert_type(await rt.module(SPEC), LoadedModule)
        assert_type(await rt.compile(SPEC, arch="sm_90a"), Artifact)
        x = await rt.device.upload(b"abcd")
        assert_type(x, DeviceBuffer)
        ticket = kernel[ajit.cover(4, 2), 2](x)
        assert_type(ticket, Ticket[None])
        assert_type(await rt.device.download(x), HostArray)
        async with rt.device.batch(steps=True) as batch:
            step: int = batch.add_fill(x, 0)
        if batch.ticket is not None:
            await batch.ticket.at(step)
        report: ajit.WarmupReport = await rt.warmup([SPEC])
        statistics: ajit.RuntimeStatistics = rt.statistics()
        print(report, statistics, rt.device.health())


async def engine(rt: ajit.Runtime, tensor: DeviceBuffer, tokens: list[int]) -> None:
    """An engine with a KV cache."""
    async with kv.open_pages(rt, LAYOUT, [tensor]) as pages, kv.connect() as store:
        assert_type(pages, kv.Pages)
        assert_type(store, kv.StoreClient)
        async with store.lease(SPACE, tokens) as lease:
            assert_type(lease, kv.Lease)
            assert_type(lease.hold(), kv.Hold)
            load = await pages.load(lease.views(), [0], gates=True)
            assert_type(load, kv.Transfer)
            assert_type(await rt.device.submit(load.gate, None, 0), Ticket[None])
            load.gate(rt.device, "0")  # error
        async with store.reserve(SPACE, kv.chunk_digests(SPACE, tokens)) as slots:
            assert_type(slots, kv.Reservation)
            assert_type(await slots.commit(), bool)
        print(store.statistics().connected, kv.events)
    kv.connect(patience=2)  # error


def on_event(event: ajit.events.Event) -> None:
    """A subscriber."""
    if isinstance(event, ajit.events.Waiting):
        print(event.waited_seconds)


def scripts() -> None:
    """Without a loop of one's own."""
    with ajit.open_blocking_runtime(device="cpu") as rt:
        assert_type(rt.kernel(SPEC), Kernel)
    settings = ajit.Settings(device="cpu")
    try:
        ajit.open_runtime(settings, subscribers=[on_event])
    except ajit.errors.CompileError as exc:
        print(exc.log)
    ajit.open_runtime(devise=3)  # error
    ajit.open_runtime(device=3)  # error
    ajit.Settings(devise="cpu")  # error
    ajit.Spec("source")  # error
