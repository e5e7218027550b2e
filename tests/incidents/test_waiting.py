"""Public incidents with locks and waiting: the cases that no layer has."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases.table import Lease, LeaseTable
from tests.cache.artifacts import a_key
from tests.cache.helpers import lock_file, poll

LONG_WAIT_SECONDS = 10.0
PATIENCE_SECONDS = 5.0
MORE_THAN_THE_DEFAULT_THREADS = 50
"""The default limiter of an event loop has 40."""


@pytest.mark.slow  # a compile has to outlast twice the patience, which is more than two beats
def test_slow_holder_that_beats_is_waited_for_beyond_the_patience(start, compiler):
    """Patience is measured on silence: a compile may take as long as it takes."""
    compiler.hold()
    peers = start(2, patience_seconds=PATIENCE_SECONDS)
    for peer in peers:
        peer.hear("ready")
    peers[0].go()
    peers[0].hear_event("CompileStarted")
    peers[1].go()
    peers[1].hear(lambda line: line.get("waited_seconds", 0) > LONG_WAIT_SECONDS)
    compiler.let_go()
    answers = [peer.answer()["answer"] for peer in peers]

    assert LONG_WAIT_SECONDS >= 2 * PATIENCE_SECONDS
    assert answers == ["compiled", "disk"]
    assert compiler.started == 1


def test_lease_is_a_posix_record_lock_and_no_flock(tmp_path):
    """As the kernel lists it: it is the kind that network file systems carry between nodes."""
    table = LeaseTable(open_cache_directory(tmp_path / "cache"))
    lease = table.try_acquire(a_key(), "test")
    assert isinstance(lease, Lease)
    with lease:
        inode = lock_file(tmp_path / "cache").stat().st_ino
        kinds = [kind for kind, pid, of in _locks() if (pid, of) == (os.getpid(), inode)]

    assert kinds == ["POSIX"]


@pytest.mark.anyio
async def test_fifty_waits_for_leases_starve_no_other_thread_hop(tmp_path, lock_peer):
    """Waits have separate threads: the event loop's default limiter stays empty."""
    path = tmp_path / "cache"
    table = LeaseTable(await anyio.to_thread.run_sync(open_cache_directory, path))
    keys = [a_key(number) for number in range(MORE_THAN_THE_DEFAULT_THREADS)]
    for key in keys:
        await anyio.to_thread.run_sync(lock_peer.hold, lock_file(path, key))
    with ExitStack() as waits:
        for key in keys:
            waits.enter_context(table.wait(key, "test"))
        waiting = table.statistics().waiting
        borrowed = anyio.to_thread.current_default_thread_limiter().borrowed_tokens
        with anyio.fail_after(60):
            answer = await anyio.to_thread.run_sync(lambda: "served")

    for key in keys:
        await anyio.to_thread.run_sync(lock_peer.drop, lock_file(path, key))
    await anyio.to_thread.run_sync(poll, lambda: not _held_in(path))

    assert waiting == MORE_THAN_THE_DEFAULT_THREADS
    assert borrowed == 0
    assert answer == "served"


def _locks():
    """Kind, process id and inode of every lock that the kernel lists as held."""
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] != "->":
            yield fields[1], int(fields[4]), int(fields[5].rpartition(":")[2])


def _held_in(path):
    """Inodes of the cache's lock files that this process holds or waits for."""
    inodes = {file.stat().st_ino for file in path.glob("locks/*/*.lock")}
    mine = str(os.getpid())
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return {
        int(field.rpartition(":")[2])
        for line in lines
        if mine in line
        for field in line
        if field.count(":") == 2 and int(field.rpartition(":")[2]) in inodes
    }
