"""Daemon threads: reused, few kept, ended when idle, and none lost."""

from __future__ import annotations

import queue
import threading

import pytest

from ajit._system import threads
from ajit._system.threads import DaemonThreads
from tests.cache.helpers import in_a_forked_child, poll


@pytest.fixture
def pool(monkeypatch) -> DaemonThreads:
    """A new pool, with no thread yet, in a process that has opened no runtime so far."""
    monkeypatch.setattr(threads, "_keepers", threads._Keepers())
    return DaemonThreads("ajit-test")


def run_and_wait(pool: DaemonThreads) -> threading.Thread:
    """Run something, and return the thread that did it when it is idle."""
    ran: list[threading.Thread] = []
    before = pool.idle()
    pool.run(lambda: ran.append(threading.current_thread()))
    poll(lambda: ran and pool.idle() >= max(before, 1))
    return ran[0]


def test_an_idle_thread_is_used_again(pool: DaemonThreads):
    """One call after another needs one thread, a daemon with a name."""
    first, second = run_and_wait(pool), run_and_wait(pool)

    assert first is second
    assert first.daemon
    assert first.name == "ajit-test-1"


def test_a_blocked_thread_delays_no_other(pool: DaemonThreads, monkeypatch):
    """Calls run at once, however many others are blocked; few threads are kept afterwards."""
    monkeypatch.setattr(threads, "IDLE_SECONDS", 1000.0)
    release, blocked = threading.Event(), []
    for _ in range(50):
        pool.run(lambda: (blocked.append(threading.current_thread()), release.wait()))
    poll(lambda: len(blocked) == 50)

    run_and_wait(pool)
    release.set()

    # Give or take those that became idle at the same time.
    kept = threads.IDLE_LIMIT + 2
    poll(lambda: sum(thread.is_alive() for thread in blocked) <= kept)
    assert pool.idle() <= kept


def test_an_idle_thread_ends(pool: DaemonThreads, monkeypatch):
    """Nothing to do for a while: no thread stays."""
    monkeypatch.setattr(threads, "IDLE_SECONDS", 0.01)
    thread = _run(pool)

    poll(lambda: not thread.is_alive())
    assert pool.idle() == 0


def test_a_call_for_a_thread_that_is_just_ending_is_not_lost(pool: DaemonThreads, monkeypatch):
    """A thread gives up waiting in the very moment in which it is called."""
    ran = threading.Event()
    calls = [ran.set]

    class Mailbox(queue.SimpleQueue):
        def get(self, block: bool = True, timeout: float | None = None):  # noqa: FBT001, FBT002
            if timeout is not None and calls:
                pool.run(calls.pop())
                raise queue.Empty
            return super().get(block, timeout)

    monkeypatch.setattr(queue, "SimpleQueue", Mailbox)
    first = _run(pool)

    assert ran.wait(10)
    poll(lambda: pool.idle() == 1)
    assert first.is_alive()


def test_a_forked_child_begins_without_threads(pool: DaemonThreads):
    """The parent's idle threads are not in the child, and are not waited for there."""
    run_and_wait(pool)

    def child() -> bool:
        ran = threading.Event()
        pool.run(ran.set)
        return ran.wait(10)

    assert in_a_forked_child(child)


@pytest.mark.anyio
async def test_the_end_of_the_last_runtime_ends_idle_threads(pool: DaemonThreads):
    """Not that of the last but one; nor a thread that works."""
    release = threading.Event()
    async with threads.kept_threads():
        async with threads.kept_threads():
            idle = run_and_wait(pool)
            pool.run(release.wait)
            working, idle = idle, run_and_wait(pool)
        assert idle.is_alive()

    assert not idle.is_alive()
    assert working.is_alive()
    release.set()
    poll(lambda: not working.is_alive())


@pytest.mark.anyio
async def test_a_thread_that_becomes_idle_after_the_last_runtime_ends(pool: DaemonThreads):
    """With the next runtime they are kept again."""
    async with threads.kept_threads():
        pass
    thread = _run(pool)
    poll(lambda: not thread.is_alive())
    async with threads.kept_threads():
        assert run_and_wait(pool).is_alive()


def _run(pool: DaemonThreads) -> threading.Thread:
    ran: list[threading.Thread] = []
    pool.run(lambda: ran.append(threading.current_thread()))
    return poll(lambda: ran and ran[0])
