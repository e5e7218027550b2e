"""A lock file is removed, and there is one holder all the same."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ajit._cache.files.fs import remove_file
from ajit._cache.leases import lock_file as lock_files
from ajit._cache.leases import posix
from ajit._cache.leases.table import Busy, Lease, LeaseTable
from tests.cache.artifacts import a_key
from tests.cache.helpers import in_thread, is_waited_for, lock_file, until

KEY = a_key()

pytestmark = pytest.mark.anyio


def file_of(table: LeaseTable) -> Path:
    """The lock file of the key."""
    return lock_file(Path(table.directory.path), KEY)


def test_a_lease_that_is_discarded_leaves_no_lock_file(table: LeaseTable):
    """The next one makes a new file, and can be seen in it."""
    lease = table.try_acquire(KEY, "nvrtc")

    gone = lease.discard()
    there = file_of(table).exists()
    again = table.try_acquire(KEY, "nvrtc")

    assert (gone, there, lease.held, lease.discard()) == (True, False, False, False)
    assert isinstance(again, Lease)
    assert file_of(table).exists()
    again.release()
    assert file_of(table).exists()


@pytest.mark.parametrize("wait", ["wait", "glance"])
async def test_who_was_blocked_in_the_lock_of_a_removed_file_takes_that_of_the_new_one(
    table: LeaseTable, start_peer, wait
):
    """Else it would hold a lock that no other process can see, and both would compile."""
    peer = await in_thread(start_peer)
    lease = await in_thread(table.try_acquire, KEY, "nvrtc")
    await in_thread(peer.tell, wait, KEY)
    await until(lambda: is_waited_for(peer.pid))

    assert await in_thread(lease.discard)
    won = await in_thread(peer.hear, "wait")
    mine = await in_thread(table.try_acquire, KEY, "nvrtc")

    assert won["outcome"] == "Lease"
    assert isinstance(mine, Busy)
    assert mine.holder.pid == peer.pid


def test_who_had_opened_the_file_before_it_was_removed_begins_again(
    table: LeaseTable, start_peer, monkeypatch
):
    """Another process removes it between our opening it and the lock."""
    peer, real = start_peer(), posix.take_now
    opened = []

    def take_now(fd: int, kind: int) -> bool:
        if not opened:
            assert peer.ask("acquire", KEY)["outcome"] == "Lease"
            assert peer.ask("discard", KEY)["gone"]
        opened.append(os.fstat(fd).st_ino)
        return real(fd, kind)

    monkeypatch.setattr(posix, "take_now", take_now)
    lease = table.try_acquire(KEY, "nvrtc")

    assert isinstance(lease, Lease)
    assert len(opened) == 2
    assert file_of(table).stat().st_ino == opened[1]
    assert peer.ask("acquire", KEY)["outcome"] == "Busy"
    lease.release()


async def test_a_lock_that_someone_here_waits_for_is_passed_on_and_not_removed(table: LeaseTable):
    """Nothing is gained by removing it."""
    lease = await in_thread(table.try_acquire, KEY, "nvrtc")
    with table.wait(KEY, "waiter") as waiting:
        gone = await in_thread(lease.discard)
        mine = await waiting.wait()

    assert not gone
    assert isinstance(mine, Lease)
    assert file_of(table).exists()
    await in_thread(mine.release)


async def test_a_waiter_that_comes_while_the_file_is_removed_gets_the_new_one(
    table: LeaseTable, start_peer, monkeypatch
):
    """It must not be given the lock of the file that has just lost its name."""
    peer = await in_thread(start_peer)
    lease = await in_thread(table.try_acquire, KEY, "nvrtc")
    removed, go_on = threading.Event(), threading.Event()

    def removes(*args: object) -> bool:
        gone = remove_file(*args)
        removed.set()
        assert go_on.wait(60)
        return gone

    monkeypatch.setattr(lock_files, "remove_file", removes)
    discarding = threading.Thread(target=lease.discard)
    discarding.start()
    await until(removed.is_set)
    with table.wait(KEY, "waiter") as waiting:
        go_on.set()
        mine = await waiting.wait()
    await in_thread(discarding.join)

    assert isinstance(mine, Lease)
    assert (await in_thread(peer.ask, "acquire", KEY))["outcome"] == "Busy"
    await in_thread(mine.release)


def test_a_file_that_cannot_be_removed_is_released(table: LeaseTable, monkeypatch):
    """An error of the disk costs a file of 1 KiB, and no lock."""

    def refuse(*_: object) -> bool:
        raise PermissionError

    monkeypatch.setattr(lock_files, "remove_file", refuse)
    lease = table.try_acquire(KEY, "nvrtc")

    assert not lease.discard()
    assert not lease.held
    assert file_of(table).exists()


def test_a_file_that_replaced_ours_is_left(table: LeaseTable):
    """Someone has removed the file by hand, and another process holds the lock of the next."""
    lease = table.try_acquire(KEY, "nvrtc")
    file_of(table).unlink()
    file_of(table).write_bytes(b"")

    assert not lease.discard()
    assert file_of(table).exists()


def test_a_file_system_that_counts_no_names_is_believed_by_the_path(table, monkeypatch):
    """Some FUSE file systems tell 0 links of every file: no process begins again for ever."""
    real = os.fstat

    def without_links(fd: int) -> os.stat_result:
        values = list(real(fd))
        values[3] = 0
        return os.stat_result(values)

    monkeypatch.setattr(lock_files.os, "fstat", without_links)
    lease = table.try_acquire(KEY, "nvrtc")

    assert isinstance(lease, Lease)
    lease.release()


def test_a_cache_that_was_removed_has_its_locks_in_the_new_one(table: LeaseTable, start_peer):
    """A lock file in a directory that is gone has lost its name, too."""
    peer = start_peer()
    lease = table.try_acquire(KEY, "nvrtc")
    lease.release()
    cache = Path(table.directory.path)
    (cache / "locks").rename(cache.parent / "gone")

    mine = table.try_acquire(KEY, "nvrtc")

    assert isinstance(mine, Lease)
    assert peer.ask("acquire", KEY)["outcome"] == "Busy"
    mine.release()
