"""Leases between processes: real processes, real locks."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import msgspec
import pytest

from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases.lock_file import borrow_lock_file
from ajit._cache.leases.table import Busy, Lease, LeaseTable
from tests.cache.artifacts import a_key
from tests.cache.helpers import is_locked_for_others, is_waited_for, lock_file, poll

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
    peer.ask("release", KEY)
    assert table.read_holder(KEY) is None


def test_a_holders_age_goes_on_between_its_beats(table: LeaseTable, start_peer):
    """On one machine: the reader of a record adds the time since the beat, by the same clock."""
    peer = start_peer()
    peer.ask("acquire", KEY)
    read = table.read_holder(KEY)
    now = time.time()
    stopped = msgspec.structs.replace(read, started=now - 12.5, beat_time=now - 10.0)
    age, late = stopped.holder().age_seconds, time.time() - now

    assert 12.5 <= age <= 12.5 + late


@pytest.mark.parametrize("boot_id", ["", "the boot of another machine"])
def test_the_age_of_a_holder_elsewhere_is_that_of_its_last_beat(table: LeaseTable, boot_id):
    """The clocks of two machines may differ by hours, so none is taken from the other."""
    with table.try_acquire(KEY, "nvrtc") as lease:
        record = msgspec.structs.replace(
            lease.record, boot_id=boot_id, started=1000.0, beat_time=1002.5
        )

    assert 2.5 == record.holder().age_seconds


def test_a_clock_that_was_set_back_makes_no_negative_age(table: LeaseTable):
    """The record is then from the future."""
    with table.try_acquire(KEY, "nvrtc") as lease:
        future = lease.record.started + 3600
        record = msgspec.structs.replace(lease.record, started=future, beat_time=future + 1)

    assert 1.0 == record.holder().age_seconds


def test_a_lease_that_was_never_taken_has_no_holder(table: LeaseTable, path: Path):
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


def test_the_lock_file_stays(table: LeaseTable, path: Path):
    """Released, the lock file is the same as before: waiters never split over two."""
    table.try_acquire(KEY, "nvrtc").release()
    # Open as long as this test looks, so that a new file cannot have the old one's number.
    with lock_file(path).open("rb") as first:
        for _ in range(3):
            table.try_acquire(KEY, "nvrtc").release()
        expected, actual = os.fstat(first.fileno()), lock_file(path).stat()

    assert os.path.samestat(expected, actual)
    assert expected.st_nlink == 1


def test_early_and_late_waiters_lock_the_same_file(table: LeaseTable, start_peer):
    """The lease that a waiter gets by a release is held for every later caller."""
    waiter, late = start_peer(), start_peer()
    lease = table.try_acquire(KEY, "nvrtc")
    waiter.tell("wait", KEY)
    waiter.hear("queued")
    poll(lambda: is_waited_for(waiter.pid))
    lease.release()
    won = waiter.hear("wait")["outcome"]

    assert won == "Lease"
    assert late.ask("acquire", KEY)["outcome"] == "Busy"
    assert table.try_acquire(KEY, "nvrtc").holder.pid == waiter.pid


def test_release_twice_is_release_once(table: LeaseTable, start_peer):
    """A second release does not release a lease that another has got meanwhile."""
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


def test_a_lock_file_that_is_in_use_has_one_slot(table: LeaseTable, directory):
    """One tries while another releases: both use the same lock file."""
    with borrow_lock_file(directory, KEY) as slot:
        table.try_acquire(KEY, "nvrtc").release()
        with borrow_lock_file(directory, KEY) as same:
            assert same is slot
