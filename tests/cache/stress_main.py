"""A process that takes, waits for, abandons and releases leases at random, in two event loops.

The holder of a lease makes a file that must not be there yet. Prints how often it held one.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from functools import partial
from pathlib import Path

import anyio

from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases.table import Lease, LeaseTable
from tests.cache.artifacts import a_key

TASKS = 3
ROUNDS = 25
KEYS = [a_key("one"), a_key("two")]


class Contender:
    """One event loop of one process."""

    def __init__(self, path: str, seed: str) -> None:
        self.path = path
        self.random = random.Random(seed)  # noqa: S311  # repeatable, not secret
        self.table = LeaseTable(open_cache_directory(path))
        self.held = 0

    async def run(self) -> None:
        """Contend with some tasks at once."""
        async with anyio.create_task_group() as group:
            for _ in range(TASKS):
                group.start_soon(self._contend)

    async def _contend(self) -> None:
        for _ in range(ROUNDS):
            key = self.random.choice(KEYS)
            way = self.random.choice([self._try, self._wait, self._wait, self._wait_a_little])
            lease = await way(key)
            if isinstance(lease, Lease):
                await anyio.to_thread.run_sync(self._hold, lease)

    async def _try(self, key: str) -> object:
        return await anyio.to_thread.run_sync(self.table.try_acquire, key, "stress")

    async def _wait(self, key: str) -> object:
        with self.table.wait(key, "stress") as waiting:
            return await waiting.wait()

    async def _wait_a_little(self, key: str) -> object:
        with (
            self.table.wait(key, "stress") as waiting,
            anyio.move_on_after(self.random.uniform(0, 0.003)),
        ):
            return await waiting.wait()
        return None

    def _hold(self, lease: Lease) -> None:
        alone = Path(self.path, f"held-{lease.key}")
        # Fails if anybody else, of whatever process and thread, is in here.
        os.close(os.open(alone, os.O_CREAT | os.O_EXCL))
        self.held += 1
        lease.beat("compiling")
        self.table.read_holder(lease.key)
        alone.unlink()
        lease.release()


def main() -> None:
    """Contend in an asyncio and a trio loop."""
    path, seed = sys.argv[1:]
    contenders = {backend: Contender(path, seed + backend) for backend in ("asyncio", "trio")}
    threads = [
        threading.Thread(target=partial(anyio.run, contender.run, backend=backend))
        for backend, contender in contenders.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.write(f"{sum(contender.held for contender in contenders.values())}\n")


if __name__ == "__main__":
    # An exception in a thread is written to standard error, which must stay empty.
    main()
