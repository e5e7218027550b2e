"""An engine of `benchmarks.kv_chaos`: stores and loads prompts with real pages, checks each byte.

The bytes of a chunk follow from its digest. They go by `Pages.load` into pages of the CPU driver,
and by `Pages.save` into a reservation; what a lease has goes into pages and out again, and is
compared. Tasks are cancelled anywhere. An operation that takes longer than its limit is a hang.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import signal
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
from anyio.lowlevel import checkpoint

from ajit import kv
from ajit._gpu.device import open_device
from ajit.settings import Settings

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

LAYOUT = kv.Layout(layers=4, heads=4, dim=32, dtype="float16", page_tokens=4, chunk_tokens=16)
SPACE = kv.Namespace(
    model="chaos", weights="1", dtype="float16", layers=4, heads=(0, 4), dim=32, chunk_tokens=16
)
TASKS = 3
MOST_CHUNKS = 4
"""Of a prompt."""
PROMPTS = 24
HANG_SECONDS = 40.0
"""Longest operation. A call waits for its answer for `TIMEOUT_SECONDS`; a commit for ten."""
TIMEOUT_SECONDS = 2.0
WRONG, HANG = 3, 4
"""Exit codes of an engine that has read a wrong byte, or did not get out of a call."""

COUNTS = "operations", "found", "stored", "cancelled", "copies"
PROGRESS = struct.Struct(f"<{len(COUNTS)}Q")


class Progress:
    """Counts that the parent reads, whatever becomes of this process."""

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), PROGRESS.size)
        self._counts = dict.fromkeys(COUNTS, 0)

    def add(self, name: str, number: int = 1) -> None:
        """Count."""
        self._counts[name] += number
        PROGRESS.pack_into(self._memory, 0, *self._counts.values())


@dataclass
class Place:
    """What one task has: pages, pinned memory for as many chunks, copies that may not be done."""

    blocks: list[int]
    chunks: kv.Chunks
    host: Any
    copies: list[kv.Transfer]


class Engine:
    """Tasks that serve prompts."""

    def __init__(
        self, pages: kv.Pages, store: Any, progress: Progress, chance: random.Random
    ) -> None:
        self._pages, self._store = pages, store
        self._progress, self._chance = progress, chance
        self._group: TaskGroup

    async def run(self, places: list[Place]) -> None:
        """Serve until cancelled."""
        async with anyio.create_task_group() as self._group:
            for place in places:
                self._group.start_soon(self._serve, place)

    async def _serve(self, place: Place) -> None:
        while True:
            digests = kv.chunk_digests(SPACE, _prompt(self._chance))
            try:
                with anyio.fail_after(HANG_SECONDS):
                    await self._operation(place, digests)
            except TimeoutError:
                sys.stderr.write(f"hang: an operation took {HANG_SECONDS:g} s\n")
                os._exit(HANG)
            self._progress.add("operations")
            await checkpoint()

    async def _operation(self, place: Place, digests: list[bytes]) -> None:
        for transfer in place.copies:  # of a task that was cancelled: its pages are in use
            await transfer
        place.copies.clear()
        limit = self._chance.choice([60, 60, 60, 0.001, 0.003])
        with anyio.move_on_after(limit) as scope:
            async with self._store.lease(SPACE, digests=digests, wait_seconds=0.02) as lease:
                await self._load_and_check(place, lease, digests)
                if len(lease) < len(digests) and self._chance.random() < 0.8:
                    await self._save(place, digests, len(lease))
        self._progress.add("cancelled", int(scope.cancelled_caught))

    async def _load_and_check(self, place: Place, lease: kv.Lease, digests: list[bytes]) -> None:
        if not len(lease):
            return
        blocks = place.blocks[: len(lease) * LAYOUT.chunk_pages]
        if self._chance.random() < 0.5:  # the pages hold it, or this engine does
            load = await self._copy(place, None, self._pages.load(lease, blocks))
        else:
            load = await self._copy(place, lease, self._pages.load(lease.views(), blocks))
        await load
        place.host[:] = 0
        back = await self._copy(place, None, self._pages.save(blocks, _some(place, len(lease))))
        await back
        for index in range(len(lease)):
            size = LAYOUT.chunk_bytes
            if bytes(place.host[index * size : (index + 1) * size]) != content(digests[index]):
                sys.stderr.write(f"wrong bytes in chunk {index} of {len(lease)}\n")
                os._exit(WRONG)
        self._progress.add("found", len(lease))

    async def _save(self, place: Place, digests: list[bytes], first: int) -> None:
        async with self._store.reserve(SPACE, digests, first=first) as slots:
            if not len(slots):
                return
            size = LAYOUT.chunk_bytes
            for index in range(len(slots)):
                data = np.frombuffer(content(digests[slots.first + index]), np.uint8)
                place.host[index * size : (index + 1) * size] = data
            first, end = (n * LAYOUT.chunk_pages for n in (slots.first, slots.first + len(slots)))
            blocks = place.blocks[first:end]
            load = await self._copy(place, None, self._pages.load(_some(place, len(slots)), blocks))
            if self._chance.random() < 0.5:  # the commit waits for it, or this engine does
                save = self._pages.save(place.blocks, slots, after=load.ticket)
                await self._copy(place, None, save)
            else:
                save = self._pages.save(blocks, slots.views(), after=load.ticket)
                await (await self._copy(place, slots, save))
            if self._chance.random() < 0.1:
                return  # not committed
            if await slots.commit():
                self._progress.add("stored", len(slots))

    async def _copy(self, place: Place, handle: Any, submitted: Any) -> kv.Transfer:
        """Submit a copy. Its memory is held until the device is done, whoever is cancelled."""
        hold = handle.hold() if handle is not None else None
        try:
            transfer = await submitted
        except BaseException:
            if hold is not None:
                hold.release()  # nothing was submitted
            raise
        place.copies.append(transfer)
        self._progress.add("copies")
        if hold is not None:
            self._group.start_soon(_release_when_done, transfer, hold)
        return transfer


async def _release_when_done(transfer: kv.Transfer, hold: Any) -> None:
    with anyio.CancelScope(shield=True):
        await transfer
        hold.release()


def _some(place: Place, count: int) -> kv.Chunks:
    return kv.Chunks(place.chunks.memory, [i * LAYOUT.chunk_bytes for i in range(count)])


def content(digest: bytes) -> bytes:
    """What a chunk of that digest has to hold."""
    return hashlib.shake_128(digest).digest(LAYOUT.chunk_bytes)


def _prompt(chance: random.Random) -> list[int]:
    """Prompts share beginnings: the same tokens up to a chunk of their own."""
    size, fork = SPACE.chunk_tokens, chance.randrange(MOST_CHUNKS)
    own = 1000 + chance.randrange(PROMPTS)
    length = size * chance.randrange(fork + 1, MOST_CHUNKS + 1)
    return ([chance.randrange(3), *range(1, size * fork)][: size * fork] + [own] * length)[:length]


async def main(path: str, progress: str, seed: str) -> None:
    """Serve prompts until ended by SIGTERM, or killed."""
    chance = random.Random(int(seed))  # noqa: S311  # no secret
    pages_each = MOST_CHUNKS * LAYOUT.chunk_pages
    async with open_device(Settings(environ={}, device="cpu")) as device:
        shape = LAYOUT.shape(TASKS * pages_each)
        tensors = [await device.alloc(shape, LAYOUT.dtype) for _ in range(LAYOUT.tensors)]
        places = []
        for task in range(TASKS):
            memory = await device.alloc_pinned(MOST_CHUNKS * LAYOUT.chunk_bytes)
            blocks = list(range(task * pages_each, (task + 1) * pages_each))
            places.append(Place(blocks, kv.Chunks(memory, [0]), np.asarray(memory.view()), []))
        async with (
            kv.connect(path, timeout=TIMEOUT_SECONDS) as store,
            kv.open_pages(device, LAYOUT, tensors, store=store) as pages,
        ):
            engine = Engine(pages, store, Progress(progress), chance)
            with anyio.open_signal_receiver(signal.SIGTERM) as signals:
                async with anyio.create_task_group() as group:
                    group.start_soon(engine.run, places)
                    sys.stdout.write("ready\n")
                    sys.stdout.flush()
                    async for _ in signals:
                        group.cancel_scope.cancel()
                        break


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
