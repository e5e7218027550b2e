"""A client that does some steps, says so, and waits to be killed."""

from __future__ import annotations

import os
import sys

import anyio

from ajit.kv import chunk_digests, connect
from tests.kv.store_support import content, space_named

STEPS = (
    "connected", "leased", "waiting", "reserved", "half-written", "part committed", "held",
    "forked",
)  # fmt: skip


async def main(path: str, step: str) -> None:
    """Do the steps up to one."""
    space = space_named("small")
    shared = chunk_digests(space, [0, *range(1, 8)])
    own = chunk_digests(space, [STEPS.index(step) + 100, *range(1, 12)])
    async with connect(path, timeout=60) as store:
        assert store.statistics().connected
        if step == "leased":
            lease = await store.lease(space, digests=shared)
            assert len(lease) == 2
        elif step == "waiting":
            async with anyio.create_task_group() as group:
                pending = chunk_digests(space, [99, *range(1, 8)])
                group.start_soon(_wait, store, space, pending)
                await anyio.wait_all_tasks_blocked()
                await store.ping()
                await _say_so()
        elif step != "connected":
            slots = await store.reserve(space, own)
            assert len(slots) == 3, slots.reason
            await _writes(slots, own, step)
        await _say_so()


async def _writes(slots, own, step) -> None:
    if step == "half-written":
        slots.view(0)[:] = content(own[0])
        slots.view(1)[:100] = content(own[1])[:100]
    elif step == "part committed":
        slots.view(0)[:] = content(own[0])
        assert await slots.commit(1)
    elif step == "forked":
        _fork()
    elif step == "held":
        slots.hold()
        slots.release()


def _fork() -> None:
    """Leave a child that has the socket as well, and lives until standard input ends."""
    if os.fork() == 0:
        os.read(0, 1)
        os._exit(0)


async def _wait(store, space, digests) -> None:
    await store.lease(space, digests=digests, wait_seconds=1000)


async def _say_so() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
