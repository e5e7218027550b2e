"""Leases between processes: real processes, real locks."""

from __future__ import annotations

import errno
import fcntl
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio
import pytest

from ajit._cache.directory import open_cache_directory
from ajit._cache.lock import Busy, Lease, LeaseTable, Unavailable
from ajit._cache.slot import Slot
from tests.cache.artifacts import a_key
from tests.cache.helpers import (
    fill,
    in_a_forked_child,
    in_thread,
    is_locked_for_others,
    is_waited_for,
    lock_file,
    poll,
    until,
)

KEY = a_key()

pytestmark = pytest.mark.anyio


def test_processes_exclude_each_other(table: LeaseTable, start_peer):
    """One process holds; another is told who; after the release it gets the lease."""
    peer = start_peer()
    assert peer.ask("acquire", KEY)["outcome"] == "Lease"

    busy = table.try_acquire(KEY, "nvrtc")
    assert isinstance(busy, Busy)
    assert busy.holder is not None
    assert (busy.holder.pid, busy.holder.compiler, busy.holder.phase) == (
        peer.pid,
        "peer",
        "queued",
    )
    peer.ask("release", KEY)
    lease = table.try_acquire(KEY, "nvrtc")
    assert isinstance(lease, Lease)
    assert peer.ask("acquire", KEY) | {"at": 0} == {
        "did": "acquire",
        "outcome": "Busy",
        "holder": os.getpid(),
        "at": 0,
    }
    lease.release()


def test_different_keys_do_not_exclude_each_other(table: LeaseTable, start_peer):
    """The lock is of the key, not of the cache."""
    peer = start_peer()
    peer.ask("acquire", a_key("one"))

    with table.try_acquire(a_key("two"), "nvrtc") as lease:
        assert lease.held


def test_the_holder_is_seen_with_its_phase_and_its_beats(table: LeaseTable, start_peer):
    """Another process reads host, pid, phase, compiler and a beat that goes on."""
    peer = start_peer()
    peer.ask("acquire", KEY)
    peer.ask("beat", KEY, "compiling")
    first = table.read_holder(KEY)
    peer.ask("beat", KEY, "publishing")
    second = table.read_holder(KEY)

    assert (first.phase, first.beat, first.pid) == ("compiling", 1, peer.pid)
    assert (second.phase, second.beat, second.started) == ("publishing", 2, first.started)
    assert second.beat_time >= first.beat_time
    assert second.holder().age_seconds >= 0
    peer.ask("release", KEY)
    assert table.read_holder(KEY) is None


def test_nobody_is_the_holder_of_a_lease_that_was_never_taken(table: LeaseTable, path: Path):
    """Asking makes no lock file."""
    assert table.read_holder(KEY) is None
    assert not lock_file(path).exists()


def test_a_killed_holder_holds_nothing(table: LeaseTable, start_peer):
    """SIGKILL frees the lease at once; the record it left is not taken for a holder."""
    peer = start_peer()
    peer.ask("acquire", KEY)
    assert table.read_holder(KEY).pid == peer.pid
    peer.kill()

    assert table.read_holder(KEY) is None
    lease = table.try_acquire(KEY, "nvrtc")
    assert isinstance(lease, Lease)
    lease.release()


async def test_a_waiter_gets_the_lease_of_a_killed_holder(table: LeaseTable, start_peer):
    """A holder that dies stops nobody: who waits has the lease."""
    peer = await in_thread(start_peer)
    await in_thread(peer.ask, "acquire", KEY)
    with table.wait(KEY, "nvrtc") as waiting:
        await until(is_waited_for)
        peer.kill()
        lease = await waiting.wait()

    assert isinstance(lease, Lease)
    assert await in_thread(table.read_holder, KEY) == lease.record
    await in_thread(lease.release)


def test_the_lock_file_stays(table: LeaseTable, path: Path):
    """Released, the lock file is the same as before: waiters never split over two."""
    inodes = set()
    for _ in range(3):
        lease = table.try_acquire(KEY, "nvrtc")
        inodes.add(lock_file(path).stat().st_ino)
        lease.release()

    assert len(inodes) == 1
    assert lock_file(path).exists()


def test_release_twice_is_release_once(table: LeaseTable, start_peer):
    """A second release does not give back what somebody else has got meanwhile."""
    lease = table.try_acquire(KEY, "nvrtc")
    lease.release()
    again = table.try_acquire(KEY, "nvrtc")

    lease.release()
    lease.beat("publishing")

    assert again.held
    assert not lease.held
    assert start_peer().ask("acquire", KEY)["outcome"] == "Busy"
    again.release()


def test_reading_the_holder_does_not_drop_our_lock(table: LeaseTable, path: Path):
    """POSIX drops a lock when any descriptor of the file is closed; ajit opens no second one."""
    lease = table.try_acquire(KEY, "nvrtc")
    elsewhere = LeaseTable(open_cache_directory(path))

    assert elsewhere.read_holder(KEY) == lease.record
    assert isinstance(elsewhere.try_acquire(KEY, "nvcc"), Busy)
    assert is_locked_for_others(path)
    lease.release()
    assert not is_locked_for_others(path)


def test_the_trap_is_real(table: LeaseTable, path: Path):
    """The test before this one would notice: a foreign open and close does drop the lock."""
    lease = table.try_acquire(KEY, "nvrtc")
    with lock_file(path).open("rb"):
        pass

    assert not is_locked_for_others(path)
    lease.release()


@pytest.mark.parametrize("linked", [False, True], ids=["same path", "through a link"])
def test_threads_and_caches_of_one_process_exclude_each_other(table, path, tmp_path, linked):
    """POSIX locks would not: the table of the process does, for all paths to one directory."""
    (tmp_path / "link").symlink_to(path)
    held: list[Lease] = []
    most = []

    def contend() -> None:
        mine = LeaseTable(open_cache_directory(tmp_path / "link" if linked else path))
        for _ in range(200):
            outcome = mine.try_acquire(KEY, "nvrtc")
            if isinstance(outcome, Lease):
                held.append(outcome)
                most.append(len(held))
                held.remove(outcome)
                outcome.release()

    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert set(most) == {1}
    assert table.statistics().held == 0


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

    assert (await in_thread(other.hear, "wait"))["outcome"] == "Lease"
    await until(lambda: not table.statistics().helpers)
    assert isinstance(await in_thread(table.try_acquire, KEY, "nvrtc"), Busy)


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
    """Nobody is left to take the lease: it goes back instead of being lost."""
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

    # Whoever is first must release before the second can have it.
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

    polling, real = threading.Event(), Slot._poll
    monkeypatch.setattr(Slot, "_poll", lambda slot: polling.set() or real(slot))

    async def wait_until_it_polls() -> None:
        with table.wait(one, "nvrtc"):
            await until(polling.is_set)

    anyio.run(wait_until_it_polls)

    poll(lambda: table.statistics().helpers == 0)
    assert table.read_holder(one).pid == peer.pid
    lease.release()


def test_a_forked_child_has_no_lease_and_harms_none(table: LeaseTable, path: Path):
    """In the child the lease is nobody's, the key is busy, and the parent's lock stays."""
    lease = table.try_acquire(KEY, "nvrtc")

    def child() -> bool:
        lease.release()
        lease.beat("publishing")
        busy = table.try_acquire(KEY, "child")
        other = table.try_acquire(a_key("other"), "child")
        return (
            not lease.held
            and isinstance(busy, Busy)
            and busy.holder == lease.record
            and isinstance(other, Lease)
            and other.record.pid == os.getpid()
        )

    assert in_a_forked_child(child)
    assert lease.held
    assert is_locked_for_others(path)
    with table.try_acquire(a_key("other"), "nvrtc") as other:
        assert other.held
    lease.release()
    assert not is_locked_for_others(path)


def test_a_child_process_inherits_no_lock_file(table: LeaseTable, path: Path):
    """A compiler that is started while a lease is held has no descriptor of it."""
    with table.try_acquire(KEY, "nvrtc"):
        code = (
            "import os\n"
            "for fd in range(3, 1024):\n"
            "    link = f'/proc/self/fd/{fd}'\n"
            "    if os.path.exists(link): print(os.readlink(link))"
        )
        command = [sys.executable, "-I", "-S", "-c", code]
        done = subprocess.run(command, check=True, capture_output=True, text=True, close_fds=False)

    assert str(path) not in done.stdout


@pytest.mark.parametrize(
    "code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO]
)
async def test_a_file_system_without_locks_is_said_so(table, monkeypatch, code: int):
    """Trying and waiting answer `Unavailable` with the reason, and leave nothing open."""

    def unsupported(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    expected = Unavailable(os.strerror(code))

    assert await in_thread(table.try_acquire, KEY, "nvrtc") == expected
    with table.wait(KEY, "nvrtc") as one, table.wait(KEY, "nvrtc") as two:
        assert [await one.wait(), await two.wait()] == [expected, expected]
    await until(lambda: not table.statistics().helpers)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EMFILE])
async def test_a_lock_file_that_cannot_be_made_is_said_so(table, monkeypatch, code: int):
    """No lock file, no lease, and no exception."""
    real = os.open

    def failing(path, *args, **kwargs):
        if str(path).startswith("locks/"):
            raise OSError(code, os.strerror(code), path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", failing)

    outcome = await in_thread(table.try_acquire, KEY, "nvrtc")
    with table.wait(KEY, "nvrtc") as waiting:
        waited = await waiting.wait()

    assert isinstance(outcome, Unavailable)
    assert os.strerror(code) in outcome.reason
    assert waited == outcome


async def test_without_threads_a_wait_says_so(table, start_peer, monkeypatch):
    """No thread can be started: the waiters go on without a lease."""
    peer = await in_thread(start_peer)
    await in_thread(peer.ask, "acquire", KEY)

    def no_thread(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("ajit._cache.slot.lock_threads.run", no_thread)
    with table.wait(KEY, "nvrtc") as waiting:
        outcome = await waiting.wait()

    assert isinstance(outcome, Unavailable)
    assert "can't start new thread" in outcome.reason


def test_a_full_disk_costs_the_record_and_not_the_lease(small_disk: Path):
    """On a full disk the lock still excludes; only its record cannot be written."""
    path = small_disk / "cache"
    table = LeaseTable(open_cache_directory(path))
    table.try_acquire(KEY, "nvrtc").release()
    lock_file(path).write_bytes(b"")
    fill(small_disk)

    lease = table.try_acquire(KEY, "nvrtc")

    assert isinstance(lease, Lease)
    assert is_locked_for_others(path)
    lease.release()


@pytest.mark.parametrize("content", [b"", b"x", b"AJLK" + b"\xff" * 1020, os.urandom(1024)])
def test_a_torn_record_is_no_record(table: LeaseTable, path: Path, start_peer, content: bytes):
    """Whatever the lock file says: the lock holds, and the holder is unknown."""
    peer = start_peer()
    peer.ask("acquire", KEY)
    # Written by another process: a descriptor closed in this one is none of the peer's business.
    lock_file(path).write_bytes(content)

    assert table.try_acquire(KEY, "nvrtc") == Busy(None)
    assert table.read_holder(KEY) is None


def test_long_and_odd_names_fit_the_record(table: LeaseTable, start_peer):
    """A compiler's version may be as long as it likes, in any alphabet."""
    with table.try_acquire(KEY, "编译器" * 1000) as lease:
        assert start_peer().ask("acquire", KEY)["holder"] == os.getpid()
        assert lease.record.compiler.startswith("编译器")


def test_a_process_ends_while_its_thread_waits_for_a_lock(table: LeaseTable, path: Path):
    """Helper threads are daemons: a script that ends while one waits ends at once, cleanly."""
    code = (
        "import anyio, os, sys\n"
        "from ajit._cache.directory import open_cache_directory\n"
        "from ajit._cache.lock import LeaseTable\n"
        "def blocked():\n"
        "    locks = [lock.split() for lock in open('/proc/locks')]\n"
        "    return any('->' in lock and str(os.getpid()) in lock for lock in locks)\n"
        "async def main():\n"
        "    LeaseTable(open_cache_directory(sys.argv[1])).wait(sys.argv[2], 'nvrtc')\n"
        "    while not blocked(): await anyio.sleep(0.001)\n"
        "    print('blocked')\n"
        "anyio.run(main)\n"
    )
    with table.try_acquire(KEY, "nvrtc"):
        command = [sys.executable, "-c", code, str(path), KEY]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (0, "blocked\n", "")


def test_many_processes_loops_and_tasks_never_hold_together(table: LeaseTable, path: Path):
    """Three processes, six loops, eighteen tasks, two keys: tried, awaited, abandoned at random."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.cache.stress_main", str(path), str(seed)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for seed in range(3)
    ]
    ended = [process.communicate(timeout=90) for process in processes]

    assert [errors for _, errors in ended] == [""] * 3
    assert all(int(held) > 0 for held, _ in ended)
    assert [table.read_holder(a_key(name)) for name in ("one", "two")] == [None, None]
    assert list(path.glob("held-*")) == []


def test_a_hand_over_takes_milliseconds_at_most(table: LeaseTable, start_peer, path: Path):
    """A waiter in another process has the lease soon after the release: median of 15."""
    peer = start_peer()
    seconds = []
    for _ in range(15):
        lease = table.try_acquire(KEY, "nvrtc")
        peer.tell("wait", KEY)
        peer.hear("queued")
        poll(lambda: is_waited_for(peer.pid))
        begun = time.monotonic()
        lease.release()
        seconds.append(peer.hear("wait")["won"] - begun)
        peer.ask("release", KEY)

    # The budget is 2 ms; on a loaded machine of two cores a median may well be above it. Polling
    # at 50 ms, which this is to keep out, would be at 25 ms.
    assert statistics.median(seconds) < 0.02
