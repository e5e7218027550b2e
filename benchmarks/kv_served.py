"""A KV service and an engine for `benchmarks`: programs of their own, which are always ended.

``python -m benchmarks.kv_served engine|lookups|flood|hangs PATH`` is one of them: an engine that
stores and loads without a pause, a client that looks long prompts up, one that floods and never
reads, or one whose reservations wait for memory that does not come (``serve`` is its service).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import numpy as np

import ajit
from ajit import kv
from ajit.kv.framing import framed
from ajit.kv.memory import Slab
from ajit.kv.messages import VERSION, Find, Hello, Open, encode
from ajit.kv.sockets import connect_unix
from benchmarks.harness import ROOT

READY_SECONDS = 60.0
TOKENS = 131_072
LAYOUT = kv.Layout(layers=32, heads=8, dim=128, dtype="float16", page_tokens=16)
SPACE = kv.Namespace(
    model="bench", weights="1", dtype="float16", layers=32, heads=(0, 8), dim=128, chunk_tokens=256
)
LONG = kv.Namespace(
    model="long", weights="1", dtype="uint8", layers=1, planes=1, dim=4, chunk_bytes=4096
)
SERVE = ("ajit", "kv", "serve")
HANGING_SERVE = ("benchmarks.kv_served", "serve")


@contextmanager
def socket_path() -> Iterator[str]:
    """A place for a socket that is this user's."""
    with tempfile.TemporaryDirectory(prefix="ajit-bench-") as folder:
        yield str(Path(folder, "kv.sock"))


@contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``python -m ARGUMENTS`` from its first line on, as long as the block lasts."""
    command = [sys.executable, "-m", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError(f"{' '.join(arguments)} did not start")
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def ready() -> None:
    """Say so."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()


async def engine(path: str) -> None:
    """Store and load prompts of 1024 tokens, 128 MiB, without a pause."""
    pages_each, chunks = 64, 4
    blocks = np.random.default_rng(0).permutation(pages_each).astype(np.int32)
    async with ajit.open_runtime(device="cpu") as rt, kv.connect(path, timeout=30) as store:
        shape = LAYOUT.shape(pages_each)
        tensors = [await rt.device.alloc(shape, LAYOUT.dtype) for _ in range(LAYOUT.tensors)]
        async with kv.open_pages(rt.device, LAYOUT, tensors, store=store) as pages:
            number = 0
            while True:
                digests = kv.chunk_digests(SPACE, [number % 16, *range(1, 256 * chunks)])
                async with store.lease(SPACE, digests=digests) as lease:
                    if len(lease):
                        await (await pages.load(lease, blocks))
                async with store.reserve(SPACE, digests) as slots:
                    if len(slots):
                        await pages.save(blocks, slots)
                        await slots.commit()
                number += 1
                if number == 4:
                    ready()


async def lookups(path: str) -> None:
    """Look a prompt of 131 072 tokens up, all of which is there, without a pause."""
    async with kv.connect(path, timeout=30) as store:
        digests = await kv.digest_tokens(LONG, np.arange(TOKENS, dtype="uint32"))
        async with store.reserve(LONG, digests) as slots:
            await slots.commit()
        ready()
        while True:
            async with store.lease(LONG, digests=digests) as lease:
                assert len(lease) == len(digests)


async def flood(path: str) -> None:
    """Look prompts up as fast as the service takes it, and read no answer; again when ended."""
    digests = b"".join(kv.chunk_digests(LONG, range(256 * 100)))
    told = False
    while True:
        stream = await connect_unix(Path(path))
        with suppress(OSError):
            opened = [Hello(VERSION), Open(1, 0, LONG.digest, LONG.chunk_bytes)]
            await stream.send(b"".join(framed(encode(each)) for each in opened))
            if not told:
                ready()
                told = True
            number = 10
            while True:
                finds = [Find(number + i, 0, digests, 60.0) for i in range(100)]
                await stream.send(b"".join(framed(encode(each)) for each in finds))
                number += 100
        stream.close()


async def hangs(path: str) -> None:
    """Ask for memory that does not come, ten at a time."""
    async with kv.connect(path, timeout=5) as store:
        ready()

        async def ask(number: int) -> None:
            while True:
                digests = kv.chunk_digests(LONG, [number, *range(1, 512)])
                async with store.reserve(LONG, digests):
                    pass

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(ask, number)


async def serve(path: str) -> None:
    """Serve with memory that hangs: each new slab takes for ever, in its helper thread."""
    from ajit.kv.service import serve as serve_at

    def make(*_: object, **__: object) -> Slab:
        while True:
            time.sleep(1)

    Slab.make = make  # type: ignore[method-assign]  # what hangs

    async def stay(_: object) -> None:
        ready()
        await anyio.sleep_forever()

    await serve_at(kv.StoreOptions(limit_bytes=64 << 20), path, stay)


if __name__ == "__main__":
    programs = {each.__name__: each for each in (engine, lookups, flood, hangs, serve)}
    anyio.run(programs[sys.argv[1]], sys.argv[2])
