"""A process whose resources end while a store takes memory; prints what became of it, as JSON.

Arguments: backend, limit (a name of `resource`), and whether a service is between.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import warnings
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from ajit.kv import StoreOptions, chunk_digests, connect, open_service, open_store
from tests.kv.store_support import prompt, space_named

MiB = 1 << 20
SLAB_BYTES = 64 * MiB
OPTIONS = StoreOptions(limit_bytes=4 * SLAB_BYTES, slab_bytes=SLAB_BYTES)
SPACE = space_named("large", chunk_bytes=16 * MiB)  # four in a slab


def mapped_bytes() -> int:
    """Address space of this process."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def lowest_free() -> int:
    """The next descriptor that a call would get."""
    descriptor = os.dup(0)
    os.close(descriptor)
    return descriptor


async def store_prompt(store, digests) -> int:
    """Store chunks, whose ends are written; how many were."""
    async with store.reserve(SPACE, digests) as slots:
        for index in range(len(slots)):
            slots.view(index)[-16:] = digests[index]
        return len(slots) if slots and await slots.commit() else 0


async def read_prompt(store, digests) -> int:
    """How many chunks are there as they were written."""
    async with store.lease(SPACE, digests=digests) as lease:
        return sum(bytes(lease.view(i)[-16:]) == digests[i] for i in range(len(lease)))


LIMITS = {
    # Less than a thread's stack, and than a slab; some for Python itself.
    "RLIMIT_AS": lambda: mapped_bytes() + 6 * MiB,
    "RLIMIT_NOFILE": lowest_free,
    "RLIMIT_FSIZE": lambda: SLAB_BYTES - 1,
}


@asynccontextmanager
async def opened(folder, served):
    """A store, and what can be subscribed to."""
    if not served:
        async with open_store(OPTIONS) as store:
            yield store, store, store._keeper
        return
    async with (
        open_service(OPTIONS, Path(folder) / "kv.sock") as service,
        connect(service.path, timeout=60) as client,
    ):
        yield client, service, service.keeper


async def main(name, served, folder):
    """Take a slab; no more can be had; then they can again."""
    told, which = [], getattr(resource, name)
    before = resource.getrlimit(which)
    async with opened(folder, served) as (store, source, keeper):
        source.subscribe(lambda event: told.append(type(event).__name__))
        one, two, three = (chunk_digests(SPACE, prompt(number, 4)) for number in (1, 2, 3))
        first = await store_prompt(store, one)
        async with store.lease(SPACE, digests=one) as lease:  # so it cannot give way
            resource.setrlimit(which, (LIMITS[name](), before[1]))
            async with store.reserve(SPACE, two) as slots:
                refused = len(slots), slots.reason
            found = len(lease), await read_prompt(store, one)
            async with store.reserve(SPACE, two) as slots:
                refused += len(slots), slots.reason  # it is not asked again at once
            resource.setrlimit(which, before)
            keeper._again_at = 0.0
            again = await store_prompt(store, three)
        problem = keeper.problem
    kinds = [kind for kind in told if kind.startswith("Slab")]
    names = "first", "refused", "found", "again", "problem", "told"
    return dict(zip(names, (first, refused, found, again, problem, kinds), strict=True))


if __name__ == "__main__":
    backend, limit, between, where = sys.argv[1:]
    how = {"backend": backend}
    if backend == "uvloop":
        how = {"backend": "asyncio", "backend_options": {"use_uvloop": True}}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        result = anyio.run(main, limit, between == "served", where, **how)
    result["warned"] = [str(each.message) for each in warned]
    sys.stdout.write(json.dumps(result) + "\n")
