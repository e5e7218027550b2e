"""An engine that stores and loads prompts at random, and checks every byte that it reads."""

from __future__ import annotations

import random
import sys

import anyio
import anyio.lowlevel

from ajit.kv import chunk_digests, connect
from tests.kv.store_support import content, space_named

PROMPTS = 12
WRONG = 3
"""The exit code of an engine that has read a wrong byte."""


async def main(path: str, seed: str) -> None:
    """Serve prompts until killed."""
    chance = random.Random(int(seed))  # noqa: S311 - no secret
    space = space_named("small")
    async with connect(path, timeout=2.0) as store:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(_serve, store, space, chance)


async def _serve(store, space, chance) -> None:
    while True:
        # Prompts share beginnings: the same tokens up to a chunk of their own.
        fork = chance.randrange(4)
        tokens = [chance.randrange(3), *range(1, 4 * fork + 4)]
        tokens += [100 + chance.randrange(PROMPTS)] * 4 * chance.randrange(1, 4)
        digests = chunk_digests(space, tokens)
        with anyio.move_on_after(chance.choice([10, 10, 10, 0.001])):  # cancelled anywhere
            async with store.lease(space, digests=digests, wait_seconds=0.01) as lease:
                await _check(lease, digests, chance)
                if chance.random() < 0.7:
                    await _store(store, space, digests, len(lease), chance)
        await anyio.lowlevel.checkpoint()


async def _check(lease, digests, chance) -> None:
    for digest, view in zip(digests, lease.views(), strict=False):
        expected = content(digest)
        if expected != bytes(view):
            sys.exit(WRONG)
        if chance.random() < 0.1:
            await anyio.sleep(0.002)


async def _store(store, space, digests, first, chance) -> None:
    async with store.reserve(space, digests, first=first) as slots:
        for index, view in enumerate(slots.views()):
            data = content(digests[slots.first + index])
            view[: len(data) // 2] = data[: len(data) // 2]
            await anyio.lowlevel.checkpoint()
            view[len(data) // 2 :] = data[len(data) // 2 :]
            if chance.random() < 0.1:
                return  # not committed
            if not await slots.commit(1):
                return


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
