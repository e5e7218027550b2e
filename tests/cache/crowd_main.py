"""A process that wants many keys at once, as a server does at its start: compiled or found.

``python -m tests.cache.crowd_main CACHE KEYS``: says ``ready``, waits for a line, prints one JSON
object. What it "compiles" is published at once.
"""

from __future__ import annotations

import json
import sys

import anyio

from ajit._cache.entries.disk import DiskStore, Found
from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases.table import Busy, Lease, LeaseTable
from tests.cache.artifacts import a_key, an_artifact


class Crowd:
    """Wants all of them."""

    def __init__(self, path: str) -> None:
        self.store = DiskStore(open_cache_directory(path))
        self.table = LeaseTable(self.store.directory)
        self.compiled = 0
        self.most_threads = 0

    async def want(self, key: str) -> None:
        """Get one key as a resolution does: look, lease, wait, look again, publish."""
        lease = await anyio.to_thread.run_sync(self.table.try_acquire, key, "crowd")
        if isinstance(lease, Busy):
            with self.table.wait(key, "crowd", lambda: self.look(key)) as waiting:
                self.most_threads = max(self.most_threads, self.table.statistics().threads)
                lease = await waiting.wait()
        if isinstance(lease, Lease):
            await anyio.to_thread.run_sync(self.compile, key, lease)

    def look(self, key: str) -> Found | None:
        """The published entry, if there is one."""
        lookup = self.store.read(key)
        return lookup if isinstance(lookup, Found) else None

    def compile(self, key: str, lease: Lease) -> None:
        """Publish, unless another process has."""
        with lease:
            if self.look(key) is None:
                self.compiled += 1
                self.store.publish(an_artifact(key))


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def main(path: str, keys: int) -> None:
    """Want all keys at once."""
    crowd = Crowd(path)
    say("ready")
    await anyio.to_thread.run_sync(sys.stdin.readline)
    async with anyio.create_task_group() as group:
        for number in range(keys):
            group.start_soon(crowd.want, a_key(number))
    left = crowd.table.statistics()
    report = {
        "compiled": crowd.compiled,
        "threads": crowd.most_threads,
        "left": left.held + left.waiting,
    }
    say(json.dumps(report))


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]))
