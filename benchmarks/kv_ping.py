"""The KV service's answers to pings, and how late its loop is: idle, and beside what it has to do.

Each line has a service of its own, in a process; so have those who keep it busy. Two lines have the
same work done beside an idle service: what is late there is late for want of a processor. There is
no tier that could hang yet; memory that does not come from the system is the one step that leaves
the loop, so that hangs in one of the lines.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import anyio
import numpy as np

from ajit import kv
from ajit.kv.framing import framed
from ajit.kv.keeper import open_keeper
from ajit.kv.messages import Find, Found, encode, pack_digests, pack_slots, unpack_digests
from benchmarks.harness import Row, Sample, seconds
from benchmarks.kv_served import HANGING_SERVE, LONG, SERVE, TOKENS, program, socket_path

PINGS = 2000
PAUSE_SECONDS = 0.002
MOST_SECONDS = 30.0
BUDGET_SECONDS = 0.010
LOOKUP_SECONDS = 0.002
WIRE_BYTES = 10 << 10
RUNS = 200

CASES: dict[str, tuple[str, ...]] = {
    "idle": (),
    "idle, while an engine stores into another service": ("engine elsewhere",),
    "beside an engine that stores and loads all the time": ("engine",),
    "idle, while another service has the lookups": ("lookups elsewhere",),
    "beside lookups of 131 072 tokens": ("lookups",),
    "beside memory that does not come": ("hangs",),
    "beside five clients that flood it and read nothing": ("flood",) * 5,
}


@dataclass
class Seen:
    """What one case took.

    Attributes:
        pings: Times from a ping to its answer.
        lags: How much too late the loop was, at each beat that was seen.
        longest: The most that it ever was.
    """

    pings: list[float]
    lags: list[float]
    longest: float


def rows() -> list[Row]:
    """Measure."""
    found, idle = [], 0.0
    for what, clients in CASES.items():
        seen = _case(clients)
        p99 = _quantile(seen.pings, 0.99)
        idle = idle or p99
        met = p99 <= max(BUDGET_SECONDS, 2 * idle)
        beside = f"loop lag {_text(seen.lags)}, ever {seconds(seen.longest)}; {_load()}"
        found.append(Row(f"ping, {what}", _text(seen.pings), "p99 10 ms, or 2x idle", met, beside))
    return [*found, *anyio.run(_lookup)]


def _case(clients: Sequence[str]) -> Seen:
    server = HANGING_SERVE if "hangs" in clients else SERVE
    with socket_path() as path, ExitStack() as stack:
        options = () if server is HANGING_SERVE else ("--limit=1GiB", "--slab=64MiB")
        where = (path,) if server is HANGING_SERVE else ("--socket", path)
        stack.enter_context(program(*server, *where, *options))
        for client in clients:
            name, _, elsewhere = client.partition(" ")
            there = path
            if elsewhere:
                there = stack.enter_context(socket_path())
                stack.enter_context(program(*SERVE, "--socket", there, *options))
            stack.enter_context(program("benchmarks.kv_served", name, there))
        return anyio.run(_ping, path)


async def _ping(path: str) -> Seen:
    pings, lags, beat = list[float](), list[float](), -1
    async with kv.connect(path, timeout=MOST_SECONDS) as store:
        until = time.monotonic() + MOST_SECONDS
        while len(pings) < PINGS and time.monotonic() < until:
            took = await store.ping()
            pings.append(MOST_SECONDS if took is None else took)
            health = store.health()
            if health is not None and health.beat != beat:
                beat = health.beat
                lags.append(health.lag_seconds)
            await anyio.sleep(PAUSE_SECONDS)
        values = await store.service_statistics()
    longest = values["longest_lag_seconds"] if values else MOST_SECONDS
    return Seen(pings, lags, float(longest))


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[round(share * (len(ordered) - 1))]


def _text(values: Sequence[float]) -> str:
    p50, p99 = (seconds(_quantile(values, share)) for share in (0.5, 0.99))
    return f"p50 {p50}, p99 {p99}, max {seconds(max(values))}"


def _load() -> str:
    return f"load {os.getloadavg()[0]:.1f}"


async def _lookup() -> list[Row]:
    """What the service does for a lookup of a long prompt, from the frame to the answer's frame."""
    digests = kv.chunk_digests(LONG, np.arange(TOKENS, dtype="uint32"))
    request = framed(encode(Find(1, 0, pack_digests(digests), 60.0)))
    took, wire = [], 0
    options = kv.StoreOptions(limit_bytes=8 << 20, slab_bytes=8 << 20)
    async with open_keeper(options) as keeper:
        owner = keeper.ledger.join()
        space = keeper.ledger.open(LONG.digest, LONG.chunk_bytes, b"")
        reserved = await keeper.reserve(owner, space, b"", digests)  # type: ignore[arg-type]
        keeper.commit(owner, reserved.reservation, [0] * len(digests))  # type: ignore[union-attr]
        for _ in range(RUNS):
            begun = time.perf_counter()
            found = keeper.find_now(owner, space, unpack_digests(pack_digests(digests)))  # type: ignore[arg-type]
            slots = pack_slots([chunk.slot for chunk in found.chunks])  # type: ignore[union-attr]
            answer = framed(encode(Found(1, found.lease, slots)))  # type: ignore[union-attr]
            took.append(time.perf_counter() - begun)
            wire = len(request) + len(answer)
            keeper.release(owner, found.lease)  # type: ignore[union-attr]
    sample = Sample(tuple(took))
    what = "lookup of 131 072 tokens, all there"
    met = sample.median <= LOOKUP_SECONDS
    size = Row(f"{what}: request and answer", f"{wire} bytes", "10 KiB", wire <= WIRE_BYTES)
    return [Row(f"{what}: in the service", str(sample), "2 ms", met), size]
