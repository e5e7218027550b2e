"""A glance under the lock: what a holder published reaches its waiters without any lease."""

from __future__ import annotations

import threading

import pytest

from ajit._cache.entries.disk import DiskStore
from ajit._cache.leases import lock_waiters
from ajit._cache.leases.table import Busy, Glimpse, Lease, LeaseTable
from tests.cache.artifacts import a_key, an_artifact
from tests.cache.helpers import in_thread, is_waited_for, poll, until

KEY = a_key()

pytestmark = pytest.mark.anyio


def nothing() -> None:
    """A glance that sees nothing."""


def nonsense() -> None:
    """A glance that fails."""
    raise OSError("a disk that is gone")


async def test_a_glance_that_sees_something_ends_the_wait(table: LeaseTable, start_peer):
    """The waiter gets what its glance returned, and the lock is free."""
    peer = await in_thread(start_peer)
    await in_thread(peer.ask, "acquire", KEY)
    with table.wait(KEY, "nvrtc", lambda: "the entry") as waiting:
        await until(is_waited_for)
        peer.tell("release", KEY)
        outcome = await waiting.wait()

    assert outcome == Glimpse("the entry")
    assert table.statistics().held == 0
    await until(lambda: not table.statistics().helpers)
    assert (await in_thread(peer.ask, "acquire", KEY))["outcome"] == "Lease"


@pytest.mark.parametrize("glance", [nothing, nonsense])
async def test_a_glance_that_sees_nothing_leaves_the_lease(table, start_peer, glance):
    """Nothing there, or looking failed: the waiter has the lease, as without a glance."""
    peer = await in_thread(start_peer)
    await in_thread(peer.ask, "acquire", KEY)
    with table.wait(KEY, "nvrtc", glance) as waiting:
        await until(is_waited_for)
        peer.kill()
        lease = await waiting.wait()

    assert isinstance(lease, Lease)
    assert lease.held
    await in_thread(lease.release)


async def test_a_lock_without_a_holder_gives_a_glimpse_as_well(table: LeaseTable):
    """The wait begins when the holder is already gone."""
    with table.wait(KEY, "nvrtc", lambda: 7) as waiting:
        outcome = await waiting.wait()

    assert outcome == Glimpse(7)


async def test_a_release_passes_over_waiters_that_only_look(table: LeaseTable):
    """Within the process the lease goes to the first who needs it, and only to that one."""
    lease = await in_thread(table.try_acquire, KEY, "nvrtc")
    sees, needs, sees_too = (
        table.wait(KEY, "nvrtc", glance) for glance in (lambda: 1, nothing, lambda: 3)
    )
    await in_thread(lease.release)
    assert await sees.wait() == Glimpse(1)
    lease = await needs.wait()
    assert isinstance(lease, Lease)
    assert sees_too.waiting

    await in_thread(lease.release)
    assert await sees_too.wait() == Glimpse(3)


async def test_one_thread_looks_for_all_waiters_of_a_process(table: LeaseTable, start_peer):
    """Some see, some do not, some do not look: each gets what is its due."""
    peer = await in_thread(start_peer)
    await in_thread(peer.ask, "acquire", KEY)
    glances = [lambda: 1, None, lambda: 2, nothing]
    waits = [table.wait(KEY, "nvrtc", glance) for glance in glances]
    await until(is_waited_for)
    assert table.statistics().helpers == 1
    peer.tell("release", KEY)
    one, two = [await waits[index].wait() for index in (0, 2)]
    assert (one, two) == (Glimpse(1), Glimpse(2))

    for wait in (waits[1], waits[3]):
        lease = await wait.wait()
        assert isinstance(lease, Lease)
        await in_thread(lease.release)


async def test_a_waiter_that_leaves_during_its_glance_loses_nothing(table: LeaseTable):
    """The glance of one that has left goes nowhere; who came meanwhile is served."""
    looking, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        looking.set()
        go_on.wait()
        return "seen"

    left = table.wait(KEY, "nvrtc", slow)
    await until(looking.is_set)
    left.abandon()
    came = table.wait(KEY, "nvrtc", nothing)
    go_on.set()

    lease = await came.wait()
    assert isinstance(lease, Lease)
    await in_thread(lease.release)


async def test_a_glance_does_not_run_when_the_waiter_has_left(table: LeaseTable, start_peer):
    """The thread that wins later gives the lock back without looking."""
    looked: list[int] = []
    peer = await in_thread(start_peer)
    await in_thread(peer.ask, "acquire", KEY)
    with table.wait(KEY, "nvrtc", lambda: looked.append(1)):
        await until(is_waited_for)
    await in_thread(peer.ask, "release", KEY)
    await until(lambda: not table.statistics().helpers)

    assert looked == []


def test_a_published_entry_reaches_all_processes(table: LeaseTable, store: DiskStore, start_peer):
    """Not one of them has to take the lease."""
    lease = table.try_acquire(KEY, "nvrtc")
    peers = [start_peer(backend) for backend in ("asyncio", "trio", "asyncio")]
    for peer in peers:
        peer.tell("glance", KEY)
    for peer in peers:
        poll(lambda pid=peer.pid: is_waited_for(pid))
    store.publish(an_artifact(KEY))
    lease.release()

    assert [peer.hear("wait")["outcome"] for peer in peers] == ["Glimpse"] * 3


def test_processes_look_side_by_side(table: LeaseTable, store: DiskStore, start_peer):
    """One that is never done with looking (stopped, or its disk hangs) keeps no other from it."""
    lease = table.try_acquire(KEY, "nvrtc")
    stuck, other = start_peer(), start_peer()
    stuck.tell("stare", KEY)
    poll(lambda: is_waited_for(stuck.pid))
    store.publish(an_artifact(KEY))
    lease.release()
    stuck.hear("hang")
    other.tell("glance", KEY)

    assert other.hear("wait")["outcome"] == "Glimpse"


def test_waiters_of_a_killed_holder_compile_once(store: DiskStore, start_peer):
    """It left nothing: one waiter gets the lease; the others, what that one publishes."""
    holder, *peers = (start_peer() for _ in range(4))
    holder.ask("acquire", KEY)
    for peer in peers:
        peer.tell("glance", KEY)
    for peer in peers:
        poll(lambda pid=peer.pid: is_waited_for(pid))
    holder.kill()

    table = LeaseTable(store.directory)
    pid = poll(lambda: table.read_holder(KEY)).pid
    winner = next(peer for peer in peers if peer.pid == pid)
    assert winner.hear("wait")["outcome"] == "Lease"
    winner.ask("publish", KEY, "code")
    winner.ask("release", KEY)

    outcomes = [peer.hear("wait")["outcome"] for peer in peers if peer is not winner]
    assert outcomes == ["Glimpse", "Glimpse"]


def test_the_record_of_a_dead_holder_counts_for_no_process_that_looks(table, start_peer):
    """A waiter has the lock, for a glance; the record in the file is the killed holder's."""
    holder, stuck = start_peer(), start_peer()
    holder.ask("acquire", KEY)
    stuck.tell("stare", KEY)
    poll(lambda: is_waited_for(stuck.pid))
    assert table.read_holder(KEY).pid == holder.pid
    holder.kill()
    stuck.hear("hang")

    assert table.read_holder(KEY) is None
    busy = table.try_acquire(KEY, "nvrtc")
    assert (type(busy), busy.holder) == (Busy, None)


async def test_a_glance_is_taken_after_polling_too(table, store, start_peer, monkeypatch):
    """The kernel calls the wait a deadlock: it goes on by polling, with the same end."""
    one, two = a_key("one"), a_key("two")
    peer = await in_thread(start_peer)
    await in_thread(peer.ask, "acquire", one)
    lease = await in_thread(table.try_acquire, two, "nvrtc")
    peer.tell("wait", two)
    await until(lambda: is_waited_for(peer.pid))
    real = lock_waiters._poll
    seen: list[int] = []
    monkeypatch.setattr(lock_waiters, "_poll", lambda *args: seen.append(args[1]) or real(*args))
    with table.wait(one, "nvrtc", lambda: "entry") as waiting:
        await until(lambda: seen)
        await in_thread(peer.ask, "release", one)
        assert await waiting.wait() == Glimpse("entry")
    await in_thread(lease.release)
    assert (await in_thread(peer.hear, "wait"))["outcome"] == "Lease"
    await in_thread(peer.ask, "release", two)
