"""Waiting for leases: in order, in few threads, abandoned at any time, and never for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest

from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases import lock_waiters
from ajit._cache.leases.table import Busy, Lease, LeaseTable, Unavailable
from tests.cache.artifacts import a_key
from tests.cache.helpers import (
    in_thread,
    is_waited_for,
    poll,
    until,
)

KEY = a_key()

pytestmark = pytest.mark.anyio


async def test_a_waiter_gets_the_lease_of_a_killed_holder(table: LeaseTable, start_peer):
    """A holder that dies blocks no other: the waiter gets the lease."""
    peer = await in_thread(start_peer)
    await in_thread(peer.ask, "acquire", KEY)
    with table.wait(KEY, "nvrtc") as waiting:
        await until(is_waited_for)
        peer.kill()
        lease = await waiting.wait()

    assert isinstance(lease, Lease)
    assert await in_thread(table.read_holder, KEY) == lease.record
    await in_thread(lease.release)


async def test_waiters_of_one_process_are_served_in_order(table: LeaseTable):
    """The lease goes from hand to hand, first come, first served, and back in the end."""
    lease = await in_thread(table.try_acquire, KEY, "nvrtc")
    waits = [table.wait(KEY, f"waiter {number}") for number in range(5)]
    assert table.statistics().waiting == 5
    for number, wait in enumerate(waits):
        await in_thread(lease.release)
        lease = await wait.wait()
        assert lease.record.compiler == f"waiter {number}"
        assert await in_thread(table.read_holder, KEY) == lease.record
    await in_thread(lease.release)

    assert table.statistics().held == 0
    assert await in_thread(table.read_holder, KEY) is None


async def test_waiters_of_one_process_share_a_thread(table: LeaseTable, start_peer):
    """However many wait for a lease of another process, one thread blocks."""
    peer = await in_thread(start_peer)
    await in_thread(peer.ask, "acquire", KEY)
    waits = [table.wait(KEY, "nvrtc") for _ in range(20)]
    await until(is_waited_for)
    assert (table.statistics().waiting, table.statistics().helpers) == (20, 1)

    peer.tell("release", KEY)
    for wait in waits:
        await in_thread((await wait.wait()).release)

    assert table.statistics().helpers == 0


async def test_others_see_busy_while_a_thread_waits(table, start_peer, monkeypatch):
    """Meanwhile the process opens no second descriptor, and names the true holder."""
    peer = await in_thread(start_peer)
    await in_thread(peer.ask, "acquire", KEY)
    with table.wait(KEY, "nvrtc") as waiting:
        await until(is_waited_for)
        opened, real = [], os.open
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", lambda *args, **kw: opened.append(args) or real(*args, **kw))
            busy = await in_thread(table.try_acquire, KEY, "nvrtc")
            holder = await in_thread(table.read_holder, KEY)
        assert isinstance(busy, Busy)
        assert busy.holder.pid == holder.pid == peer.pid
        assert [args for args in opened if "locks/" in str(args[0])] == []

        await in_thread(peer.ask, "release", KEY)
        lease = await waiting.wait()
    await in_thread(lease.release)
    assert (await in_thread(peer.ask, "acquire", KEY))["outcome"] == "Lease"


async def test_an_abandoned_wait_releases_what_it_wins(table: LeaseTable, start_peer):
    """A waiter leaves; its thread wins later, and gives the lock back at once."""
    peer, other = await in_thread(start_peer), await in_thread(start_peer)
    await in_thread(peer.ask, "acquire", KEY)
    with table.wait(KEY, "nvrtc"):
        await until(is_waited_for)
    other.tell("wait", KEY)
    await in_thread(other.hear, "queued")
    peer.tell("release", KEY)

    # Which of the two has it first is up to the kernel.
    assert (await in_thread(other.hear, "wait"))["outcome"] == "Lease"
    await in_thread(other.ask, "release", KEY)
    await until(lambda: not table.statistics().helpers)
    assert await in_thread(table.read_holder, KEY) is None


async def test_a_lease_that_was_delivered_and_never_taken_is_released(table: LeaseTable):
    """Cancelled between delivery and waking up: abandoning gives the lease back."""
    lease = await in_thread(table.try_acquire, KEY, "nvrtc")
    wait = table.wait(KEY, "nvrtc")
    await in_thread(lease.release)
    assert table.statistics().held == 1

    wait.abandon()

    await until(lambda: table.statistics().held == 0)
    with pytest.raises(RuntimeError, match="over"):
        await wait.wait()


async def test_nothing_is_delivered_to_a_waiter_that_has_left(table: LeaseTable):
    """The slot offers in the moment in which the waiter leaves: it hears that, and goes on."""
    lease = await in_thread(table.try_acquire, KEY, "nvrtc")
    wait = table.wait(KEY, "nvrtc")
    wait.abandon()

    assert not wait.deliver(Unavailable("too late"))
    await in_thread(lease.release)


async def test_abandoning_after_the_lease_was_taken_does_nothing(table: LeaseTable):
    """The end of the ``with`` block does not take away what `wait` has returned."""
    with table.wait(KEY, "nvrtc") as waiting:
        lease = await waiting.wait()

    assert lease.held
    await in_thread(lease.release)


async def test_a_cancelled_waiter_keeps_its_place_until_it_abandons_it(table: LeaseTable):
    """Cancelling `wait` alone leaves the queue as it is, so a waiter may look around meanwhile."""
    lease = await in_thread(table.try_acquire, KEY, "nvrtc")
    with table.wait(KEY, "nvrtc") as waiting:
        with anyio.move_on_after(0.01):
            await waiting.wait()
        assert table.statistics().waiting == 1
        await in_thread(lease.release)
        await in_thread((await waiting.wait()).release)


async def test_a_waiter_that_left_is_passed_over(table: LeaseTable):
    """First of three leaves: the second is next."""
    lease = await in_thread(table.try_acquire, KEY, "nvrtc")
    first, second, third = (table.wait(KEY, str(number)) for number in range(3))
    first.abandon()
    await in_thread(lease.release)
    lease = await second.wait()
    third.abandon()
    await in_thread(lease.release)

    assert table.statistics().held == 0


def test_a_waiter_whose_loop_has_ended_is_passed_over(table: LeaseTable):
    """All waiters have left: the lease is released instead of lost."""
    lease = table.try_acquire(KEY, "nvrtc")

    async def queue_up_and_forget() -> None:
        table.wait(KEY, "nvrtc")

    anyio.run(queue_up_and_forget)
    lease.release()

    assert table.statistics().held == 0
    assert table.read_holder(KEY) is None


def test_two_loops_in_two_threads_exclude_each_other(table: LeaseTable, path: Path):
    """An asyncio and a trio loop of one process queue up for one lease."""
    inside: list[str] = []
    most: list[int] = []

    async def take_turns(name: str) -> None:
        mine = LeaseTable(open_cache_directory(path))
        for _ in range(50):
            with mine.wait(KEY, name) as waiting:
                lease = await waiting.wait()
            inside.append(name)
            most.append(len(inside))
            await anyio.lowlevel.checkpoint()
            inside.remove(name)
            lease.release()

    threads = [
        threading.Thread(target=anyio.run, args=(take_turns, backend), kwargs={"backend": backend})
        for backend in ("asyncio", "trio")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == [1] * 100


@pytest.mark.parametrize("backends", [("asyncio", "trio")])
def test_an_asyncio_and_a_trio_process_take_turns(table: LeaseTable, start_peer, backends):
    """Both wait for one key; each has it once, never both."""
    lease = table.try_acquire(KEY, "nvrtc")
    peers = [start_peer(backend) for backend in backends]
    for peer in peers:
        peer.tell("wait", KEY)
        peer.hear("queued")
    lease.release()

    # The first must release before the second can have it.
    spans = []
    waiting = list(peers)
    while waiting:
        pid = poll(lambda: table.read_holder(KEY)).pid
        peer = next(peer for peer in waiting if peer.pid == pid)
        won = peer.hear("wait")["won"]
        spans.append((won, peer.ask("release", KEY)["begun"]))
        waiting.remove(peer)
    (_, first_end), (second_begin, _) = spans
    assert first_end <= second_begin


def test_two_processes_that_wait_for_each_other_are_no_deadlock(start_peer, path: Path):
    """The kernel says EDEADLK to one of them; it goes on by polling, and both get on."""
    one, two = a_key("one"), a_key("two")
    a, b = start_peer(), start_peer()
    a.ask("acquire", one)
    b.ask("acquire", two)
    a.tell("wait", two)
    a.hear("queued")
    poll(lambda: is_waited_for(a.pid))
    b.tell("wait", one)
    poll(lambda: b.ask("polls")["count"] == 1)

    a.ask("release", one)
    won_b = b.hear("wait")
    b.ask("release", two)
    won_a = a.hear("wait")

    assert (won_a["outcome"], won_b["outcome"]) == ("Lease", "Lease")
    assert a.ask("polls")["count"] == 0


def test_an_abandoned_poll_ends(table: LeaseTable, start_peer, monkeypatch):
    """After EDEADLK the thread lives for its waiters, and ends with the last of them."""
    one, two = a_key("one"), a_key("two")
    peer = start_peer()
    peer.ask("acquire", one)
    lease = table.try_acquire(two, "nvrtc")
    peer.tell("wait", two)
    peer.hear("queued")
    poll(lambda: is_waited_for(peer.pid))

    polling, real = threading.Event(), lock_waiters._poll
    monkeypatch.setattr(lock_waiters, "_poll", lambda *args: polling.set() or real(*args))

    async def wait_until_it_polls() -> None:
        with table.wait(one, "nvrtc"):
            await until(polling.is_set)

    anyio.run(wait_until_it_polls)

    poll(lambda: table.statistics().helpers == 0)
    assert table.read_holder(one).pid == peer.pid
    lease.release()


def test_many_processes_loops_and_tasks_never_hold_together(table: LeaseTable, path: Path):
    """Three processes, six loops, eighteen tasks, two keys: tried, awaited, abandoned at random."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.cache.stress_main", str(path), str(seed)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        for seed in range(3)
    ]
    ended = [process.communicate(timeout=90) for process in processes]

    assert [errors for _, errors in ended] == [""] * 3
    assert all(int(held) > 0 for held, _ in ended)
    assert [table.read_holder(a_key(name)) for name in ("one", "two")] == [None, None]
    assert list(path.glob("held-*")) == []


def test_a_waiter_sleeps_in_the_kernel_and_does_not_poll(table: LeaseTable, start_peer):
    """The release itself wakes it. How soon that is, the benchmark of leases measures."""
    peer = start_peer()
    for _ in range(3):
        lease = table.try_acquire(KEY, "nvrtc")
        peer.tell("wait", KEY)
        peer.hear("queued")
        poll(lambda: is_waited_for(peer.pid))
        lease.release()

        assert peer.hear("wait")["outcome"] == "Lease"
        peer.ask("release", KEY)
    assert peer.ask("polls")["count"] == 0
