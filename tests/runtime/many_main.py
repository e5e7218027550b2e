"""A process that wants many kernels at once, some by warm-up and some by requests.

Started with one argument, a JSON object: ``backend``, ``settings`` (of `open_runtime`), ``warm``
and ``awaited`` (variants of saxpy, see `tests.runtime.sources`). Writes ``{"ready": pid}``, waits
for a line on standard input, and writes ``{"answer": ...}`` with what it did.
"""

from __future__ import annotations

import json
import os
import sys

import anyio
import anyio.to_thread

import ajit
from ajit._cache.leases.table import LeaseTable
from tests.runtime.program import say
from tests.runtime.sources import ARCH, saxpy

LOOK_SECONDS = 0.01


async def main(order: dict) -> None:
    """Open, wait for the word, get everything, answer."""
    warm, awaited = (
        [saxpy(variant, arch=ARCH) for variant in order[which]] for which in ("warm", "awaited")
    )
    leases = 0

    async def watch() -> None:
        nonlocal leases
        while True:
            leases = max(leases, LeaseTable.statistics().held)
            await anyio.sleep(LOOK_SECONDS)

    async with ajit.open_runtime(**order["settings"]) as runtime:
        say(ready=os.getpid())
        await anyio.to_thread.run_sync(sys.stdin.readline)
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            async with anyio.create_task_group() as wanting:
                wanting.start_soon(runtime.warmup, warm)
                for spec in awaited:
                    wanting.start_soon(runtime.compile, spec)
            group.cancel_scope.cancel()
        done = runtime.statistics()
    say(answer=done.pool.finished, failed=done.failed, leases=leases, waited=done.waited)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    anyio.run(main, given, backend=given["backend"])
