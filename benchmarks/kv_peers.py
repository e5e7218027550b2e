"""A KV cache stored in a service and loaded from it: ajit's, beside LMCache's by its own bench.

Both keep 256 MiB a request (2048 tokens of 32 layers, 8 heads of 128 elements, fp16, pages of 16
tokens) in another process, and both times are those of a client: from its first call until it may
use the memory again. LMCache runs on its CPU mode, with its own client and its own checksums; it is
installed by ``make bench-kv`` in a virtual environment of its own, and left out where it is not.
"""

from __future__ import annotations

import json
import os
import re
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import numpy as np

import ajit
from ajit import kv
from ajit.kv.memory import Slab
from benchmarks.harness import GB, ROOT, Row
from benchmarks.kv import Peers
from benchmarks.kv_served import LAYOUT, SERVE, SPACE, program, socket_path

LMCACHE = ROOT / ".venv-lmcache" / "bin" / "lmcache"
TOKENS = 2048
ROUNDS = 3
REQUESTS = 4
"""Of LMCache's client in each round, its first one left out: that meets new memory, too."""
PROMPTS_IN_MEMORY = 3
"""So many ajit's service has room for. In each round an engine stores twice as many: at first
into memory that is new to it, then, and those count, into what it has used before."""
READY_SECONDS = 120.0
BENCH_SECONDS = 180.0
STORE_TIMES, LOAD_TIMES = 5.0, 1.4
"""Budgets: how much faster than LMCache."""
MEMMOVE_SHARE = 0.7
NBYTES = TOKENS // LAYOUT.chunk_tokens * LAYOUT.chunk_bytes


@dataclass
class Speeds:
    """GB/s of each request.

    Attributes:
        new: Stores into memory that the service takes from the system for it.
        first: Stores into memory that it has, which this engine touches for the first time.
        store: Stores into memory that both have used.
        load: Loads.
        memmove: Copies of as many bytes, to memory of this process.
        shared: The same, to a memfd as the service's memory is.
    """

    new: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    store: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    memmove: list[float] = field(default_factory=list)
    shared: list[float] = field(default_factory=list)


def rows() -> list[Row]:
    """Measure, in turn."""
    ours, theirs = Speeds(), Speeds()
    with (
        socket_path() as path,
        lmcache_server() as url,
        program(
            *SERVE, "--socket", path, f"--limit={PROMPTS_IN_MEMORY * NBYTES}", f"--credit={NBYTES}"
        ),
    ):
        for number in range(ROUNDS):
            anyio.run(_ajit, path, number, ours)
            if url:
                _lmcache(url, number, theirs)
    return _rows(ours, theirs)


def _rows(ours: Speeds, theirs: Speeds) -> list[Row]:
    memmove = statistics.median(ours.memmove)
    beside = f"memmove {_text(ours.memmove)}, to a memfd {_text(ours.shared)} GB/s; LMCache "
    found = [
        Row("KV service: store 256 MiB into memory new to it", f"{_text(ours.new)} GB/s"),
        Row("KV service: store 256 MiB into memory new to the engine", f"{_text(ours.first)} GB/s"),
    ]
    for what, times in (("store", STORE_TIMES), ("load", LOAD_TIMES)):
        speeds, other = getattr(ours, what), getattr(theirs, what)
        met = statistics.median(speeds) >= MEMMOVE_SHARE * memmove
        budget = f"{MEMMOVE_SHARE:.0%} of memmove"
        said = "is not installed (make bench-kv)"
        if other:
            met = met and statistics.median(speeds) >= times * statistics.median(other)
            budget += f", {times:g} x LMCache"
            factor = statistics.median(speeds) / statistics.median(other)
            said = f"{_text(other)} GB/s: {factor:.1f} x"
        name, measured = f"KV service: {what} 256 MiB", f"{_text(speeds)} GB/s"
        found.append(Row(name, measured, budget, met, beside + said))
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return [*found, Row("load of the machine", load)]


def _text(speeds: list[float]) -> str:
    ordered = sorted(speeds)
    return f"{statistics.median(ordered):.2f} ({ordered[0]:.2f} to {ordered[-1]:.2f})"


# --- ajit ---


async def _ajit(path: str, number: int, speeds: Speeds) -> None:
    """One engine: stores prompts that are new, and loads each."""
    count = TOKENS // LAYOUT.page_tokens
    blocks = np.random.default_rng(number).permutation(count).astype(np.int32)
    async with ajit.open_runtime(device="cpu") as rt, kv.connect(path, timeout=30) as store:
        tensors = [
            await rt.device.upload(_random(LAYOUT.shape(count), number + layer))
            for layer in range(LAYOUT.tensors)
        ]
        async with kv.open_pages(rt.device, LAYOUT, tensors, store=store) as pages:
            peers, slab = Peers(np.ones(NBYTES, np.uint8)), Slab.make(NBYTES)
            shared = Peers(np.ones(NBYTES, np.uint8), np.frombuffer(slab.view, np.uint8))
            for request in range(2 * PROMPTS_IN_MEMORY):
                digests = kv.chunk_digests(SPACE, [number, request, *range(2, TOKENS)])
                before = await store.service_statistics()
                took = await _store(pages, store, blocks, digests)
                after = await store.service_statistics()
                assert before is not None and after is not None
                new = after["slab_bytes"] != before["slab_bytes"]
                first = request < PROMPTS_IN_MEMORY
                kind = speeds.new if new else speeds.first if first else speeds.store
                kind.append(NBYTES / took / GB)
                await pages.wait_registered()
                if first:
                    continue
                speeds.load.append(NBYTES / await _load(pages, store, blocks, digests) / GB)
                speeds.memmove.append(NBYTES / peers.memmove() / GB)
                speeds.shared.append(NBYTES / shared.memmove() / GB)
            await _verify(pages, store, tensors, blocks, digests)
            del shared
            slab.close()


def _random(shape: tuple[int, ...], seed: int) -> Any:
    values = np.random.default_rng(seed).integers(0, 1 << 14, shape, np.uint16)
    return values.view(np.float16)


async def _store(pages: kv.Pages, store: Any, blocks: Any, digests: list[bytes]) -> float:
    begun = time.perf_counter()
    async with store.reserve(SPACE, digests) as slots:
        assert len(slots) == len(digests), slots.reason
        await pages.save(blocks, slots)
        assert await slots.commit()
    return time.perf_counter() - begun


async def _load(pages: kv.Pages, store: Any, blocks: Any, digests: list[bytes]) -> float:
    begun = time.perf_counter()
    async with store.lease(SPACE, digests=digests) as lease:
        assert len(lease) == len(digests)
        await (await pages.load(lease, blocks))
    return time.perf_counter() - begun


async def _verify(
    pages: kv.Pages, store: Any, tensors: Any, blocks: Any, digests: list[bytes]
) -> None:
    """Pages that were cleared have what they had, after a load."""
    device = pages.device
    expected = [np.asarray(await device.download(tensor)).copy() for tensor in tensors]
    for tensor in tensors:
        await device.fill(tensor, 0)
    await _load(pages, store, blocks, digests)
    for tensor, bytes_before in zip(tensors, expected, strict=True):
        found = np.asarray(await device.download(tensor))
        assert (found.view(np.uint16) == bytes_before.view(np.uint16)).all(), "wrong bytes"


# --- LMCache ---


@contextmanager
def lmcache_server() -> Iterator[str]:
    """Run LMCache's server; yields its URL, or "" where it is not installed."""
    if not LMCACHE.exists():
        yield ""
        return
    port, http = _free_port(), _free_port()
    command = [LMCACHE, "server", "--port", str(port), "--http-port", str(http),
               "--l1-size-gb", "2", "--eviction-policy", "LRU"]  # fmt: skip
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=_environ())
        try:
            _wait_for_port(port, process)
            yield f"tcp://localhost:{port} http://localhost:{http}"
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environ() -> dict[str, str]:
    return os.environ | {"LMCACHE_DISABLE_BANNER": "1", "HF_HUB_OFFLINE": "1"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RuntimeError("LMCache's server did not start")


def _lmcache(url: str, number: int, speeds: Speeds) -> None:
    """Let LMCache's bench do its requests; each of its checksums has to be right."""
    rpc, http = url.split()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "result.json")
        command = [
            LMCACHE, "bench", "server", "--rpc-url", rpc, "--url", http, "--mode", "cpu",
            "--transfer-mode", "lmcache_driven", "--num-tokens", str(TOKENS), "--interval", "0.2",
            "--start", str(number * REQUESTS), "--end", str((number + 1) * REQUESTS),
            "--format", "json", "--output", str(output),
        ]  # fmt: skip
        ended = subprocess.run(
            command, cwd=ROOT, env=_environ(), capture_output=True, text=True, check=True,
            timeout=BENCH_SECONDS,
        )  # fmt: skip
        metrics = json.loads(output.read_text())["metrics"]
    if metrics["results"]["checksum_fail"] or not metrics["results"]["checksum_ok"]:
        raise RuntimeError(f"LMCache's own check failed: {metrics['results']}")
    for speeds_of, name in ((speeds.store, "store"), (speeds.load, "retrieve")):
        times = _times(ended.stdout + ended.stderr, name)
        speeds_of += [NBYTES / seconds / GB for seconds in times[1:]]


def _times(said: str, name: str) -> list[float]:
    """Seconds of each request, by the lines of its output."""
    found = re.findall(rf"{name.upper()}: \w+ \({TOKENS} tokens, ([\d.]+) ms", said)
    if not found:
        raise RuntimeError(f"LMCache's bench did not say how long {name} took")
    return [float(each) / 1e3 for each in found]
