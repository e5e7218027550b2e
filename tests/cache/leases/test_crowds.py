"""Waiting for many keys at once takes a handful of threads, and no waiter is forgotten."""

from __future__ import annotations

import threading

import anyio
import pytest

from ajit._cache.entries.disk import DiskStore
from ajit._cache.leases.lease import lock_threads
from ajit._cache.leases.lock_file import current_process
from ajit._cache.leases.lock_waiters import BLOCKING_LIMIT
from ajit._cache.leases.table import Glimpse, Lease, LeaseTable, Unavailable
from tests.cache.artifacts import a_key, an_artifact
from tests.cache.helpers import (
    DEADLINE_SECONDS,
    blocked_waits,
    in_thread,
    open_lock_files,
    poll,
    until,
)

KEYS = [a_key(number) for number in range(40)]

pytestmark = pytest.mark.anyio


@pytest.fixture
async def holder(table: LeaseTable, start_peer):
    """Another process that holds all keys."""
    peer = await in_thread(start_peer)
    for key in KEYS:
        await in_thread(peer.ask, "acquire", key)
    return peer


def lock_thread_count() -> int:
    """Threads of this process that the lock layer has."""
    return sum(thread.name.startswith("ajit-lock") for thread in threading.enumerate())


async def test_many_contended_keys_take_a_handful_of_threads(table: LeaseTable, holder):
    """And as few descriptors; every waiter has its lease in the end."""
    waits = [table.wait(key, "nvrtc") for key in KEYS]
    await until(lambda: table.statistics().threads == BLOCKING_LIMIT + 1)
    assert table.statistics().helpers == len(KEYS)
    assert lock_thread_count() <= BLOCKING_LIMIT + 5  # a few idle ones of earlier tests
    assert len(open_lock_files(table.directory.path)) <= BLOCKING_LIMIT + 1

    for key in KEYS:
        await in_thread(holder.ask, "release", key)
    for wait in waits:
        lease = await wait.wait()
        assert isinstance(lease, Lease)
        await in_thread(lease.release)
    await until(lambda: table.statistics().threads == 0)


async def test_the_last_in_a_crowd_sees_what_is_published(table, store: DiskStore, holder):
    """Tried now and then instead of blocked: the glance is taken all the same."""
    waits = [table.wait(key, "nvrtc", lambda key=key: look(store, key)) for key in KEYS]
    await until(lambda: table.statistics().threads == BLOCKING_LIMIT + 1)
    last = KEYS[-1]
    await in_thread(store.publish, an_artifact(last))
    await in_thread(holder.ask, "release", last)

    assert await waits[-1].wait() == Glimpse(last)
    for wait in waits:
        wait.abandon()
    await in_thread(holder.kill)
    await until(lambda: table.statistics().threads == 0)


async def test_a_crowd_is_gone_once_all_waiters_have_left(table: LeaseTable, holder):
    """The trying ends; what blocks in the kernel ends with the holder."""
    waits = [table.wait(key, "nvrtc") for key in KEYS]
    # Threads count from the moment they are sent for. One whose waiter leaves before it has
    # blocked never does.
    await until(lambda: blocked_waits() == BLOCKING_LIMIT)
    assert table.statistics().threads == BLOCKING_LIMIT + 1
    for wait in waits:
        wait.abandon()

    await until(lambda: table.statistics().threads == BLOCKING_LIMIT)
    await in_thread(holder.kill)
    await until(lambda: table.statistics().threads == 0)
    assert table.statistics().helpers == 0


async def test_a_crowd_that_leaves_before_its_threads_block_is_gone(table, holder, monkeypatch):
    """No thread stays in the kernel, though the holder lives; the next waiter is served."""
    held_up, run = [], lock_threads.run
    with monkeypatch.context() as patch:
        patch.setattr(lock_threads, "run", lambda *call: held_up.append(call))
        for key in KEYS:
            table.wait(key, "nvrtc").abandon()
    assert table.statistics().threads == len(held_up) == BLOCKING_LIMIT + 1
    for call in held_up:
        run(*call)

    await until(lambda: table.statistics().threads == 0)
    assert (table.statistics().helpers, blocked_waits()) == (0, 0)
    with table.wait(KEYS[0], "nvrtc") as wait:
        await in_thread(holder.ask, "release", KEYS[0])
        lease = await wait.wait()
        await in_thread(lease.release)


async def test_a_crowd_that_no_thread_can_try_for_is_told(table, holder, monkeypatch):
    """Also who came while that thread was to be started, and relies on it."""
    blocked = [table.wait(key, "nvrtc") for key in KEYS[:BLOCKING_LIMIT]]
    tried = []

    def no_thread(*args: object) -> None:
        tried.append(table.wait(KEYS[-1], "nvrtc"))
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(lock_threads, "run", no_thread)
        tried.append(table.wait(KEYS[BLOCKING_LIMIT], "nvrtc"))
    with anyio.fail_after(DEADLINE_SECONDS):
        outcomes = [await wait.wait() for wait in tried]
    assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
    assert table.statistics().threads == BLOCKING_LIMIT

    for wait in blocked:
        wait.abandon()
    await in_thread(holder.kill)
    await until(lambda: table.statistics().threads == 0)


@pytest.mark.allow_blocking("the start of a thread fails only after another thread has been free")
async def test_a_wait_that_was_taken_over_needs_no_thread(table, holder, monkeypatch):
    """A blocking thread becomes free in the moment in which none can be started to try."""
    blocked = [table.wait(key, "nvrtc") for key in KEYS[:BLOCKING_LIMIT]]

    def no_thread(*args: object) -> None:
        holder.ask("release", KEYS[0])
        waiters = current_process().waiters_of(table.directory.identity)
        poll(lambda: not waiters._tried)
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(lock_threads, "run", no_thread)
        taken_over = table.wait(KEYS[-1], "nvrtc")
    await in_thread(holder.kill)

    for wait in (*blocked, taken_over):
        lease = await wait.wait()
        assert isinstance(lease, Lease)
        await in_thread(lease.release)
    await until(lambda: table.statistics().threads == 0)


async def test_a_killed_holder_frees_a_whole_crowd(table: LeaseTable, holder):
    """Every key of it, whether blocked for or tried."""
    waits = [table.wait(key, "nvrtc") for key in KEYS]
    await until(lambda: table.statistics().threads == BLOCKING_LIMIT + 1)
    await in_thread(holder.kill)

    leases = [await wait.wait() for wait in waits]
    assert all(isinstance(lease, Lease) for lease in leases)
    for lease in leases:
        await in_thread(lease.release)


def look(store: DiskStore, key: str) -> str | None:
    """The key, once its entry is there."""
    return key if hasattr(store.read(key), "artifact") else None
