"""Permits: so many compiles at once on a machine, counted over processes, and none stuck."""

from __future__ import annotations

import os
import signal
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases import permits
from ajit._cache.leases.permits import CompilePermit, CompilePermits
from ajit._cache.leases.table import LeaseTable
from ajit._system.process import this_process
from tests.cache.artifacts import a_job
from tests.cache.helpers import poll
from tests.fuse.mounts import Mount, why_no_fuse

if TYPE_CHECKING:
    from pathlib import Path

    from ajit._cache.files.directory import CacheDirectory

PATIENT = 1000.0

pytestmark = pytest.mark.usefixtures("table")  # which sees that no lease stays behind


def first_record(directory: CacheDirectory):
    """The record in the first permit's lock file."""
    name = f"{permits.PERMIT_PREFIX}{this_process().boot_id}-0"
    return LeaseTable(directory).read_holder(name)


def test_no_more_are_granted_than_there_are(directory: CacheDirectory, start_peer):
    """Counted over two processes; one that is released can be had by the other."""
    mine = CompilePermits(directory, 2, patience_seconds=PATIENT)
    peer = start_peer()
    peer.ask("count", "2", str(PATIENT))

    permit = mine.try_admit(a_job())
    assert isinstance(permit, CompilePermit)
    assert peer.ask("admit")["granted"]
    assert mine.try_admit(a_job()) is None
    assert not peer.ask("admit")["granted"]

    permit.release()
    assert peer.ask("admit")["granted"]
    assert mine.held == 0


def test_permits_that_are_not_asked_for_take_no_memory(directory: CacheDirectory):
    """A machine may have thousands of them; only those that were found held are remembered."""
    tracemalloc.start()
    mine = CompilePermits(directory, 1 << 18, patience_seconds=PATIENT)
    permit = mine.try_admit(a_job())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(permit, CompilePermit)
    permit.release()

    assert peak < 1024 * 1024


def test_two_pools_of_one_process_share_them(directory: CacheDirectory, path: Path):
    """A lock does not keep its own process out: the table of leases does."""
    one = CompilePermits(directory, 1, patience_seconds=PATIENT)
    two = CompilePermits(open_cache_directory(path), 1, patience_seconds=PATIENT)
    permit = one.try_admit(a_job())

    assert two.try_admit(a_job()) is None
    permit.release()
    permit.release()
    again = two.try_admit(a_job())
    assert again is not None
    again.release()


def test_the_permits_of_a_killed_process_are_free_at_once(directory, start_peer):
    """The kernel gives its locks back."""
    peer = start_peer()
    peer.ask("count", "1", str(PATIENT))
    peer.ask("admit")
    mine = CompilePermits(directory, 1, patience_seconds=PATIENT)
    assert mine.try_admit(a_job()) is None

    peer.kill()
    permit = mine.try_admit(a_job())
    assert permit.lease is not None
    permit.release()


def test_a_stopped_holder_does_not_block_others_for_ever(directory: CacheDirectory, start_peer):
    """After the patience, one compile goes on in its place, and only one; the rest as before."""
    peer = start_peer()
    peer.ask("count", "1", str(PATIENT))
    peer.ask("admit")
    mine = CompilePermits(directory, 1, patience_seconds=0.3)
    os.kill(peer.pid, signal.SIGSTOP)
    permit = poll(lambda: mine.try_admit(a_job()))

    assert permit.lease is None
    assert mine.try_admit(a_job()) is None
    permit.release()
    second = mine.try_admit(a_job())
    assert second.lease is None
    second.release()
    os.kill(peer.pid, signal.SIGCONT)


def test_a_holder_at_work_beats(directory: CacheDirectory, start_peer, monkeypatch):
    """However long its compile takes, it is not silent, and it says what it compiles."""
    monkeypatch.setattr(permits, "BEAT_SECONDS", 0.02)
    permit = CompilePermits(directory, 1).try_admit(a_job())
    peer = start_peer()
    peer.ask("count", "1", "1.0")
    begun = first_record(directory)
    answers = [peer.ask("admit")]
    while (record := first_record(directory)).beat_time < begun.beat_time + 2:
        answers.append(peer.ask("admit"))

    assert not any(answer["granted"] for answer in answers)
    assert (record.name, record.compiler, record.phase) == ("saxpy", "nvrtc", "compiling")
    permit.release()


def test_the_beating_ends_with_the_last_permit(directory: CacheDirectory):
    """No thread goes on without a waiter."""
    mine = CompilePermits(directory, 2)
    one, two = mine.try_admit(a_job()), mine.try_admit(a_job())
    one.release()
    assert mine._beating

    two.release()
    poll(lambda: not mine._beating)


def test_a_process_with_many_permits_lets_others_have_a_turn(directory, start_peer, monkeypatch):
    """Else a long queue in one process would keep all others waiting."""
    monkeypatch.setattr(permits, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(permits, "YIELD_SECONDS", 30.0)
    mine = CompilePermits(directory, 1, patience_seconds=PATIENT)
    peer = start_peer()
    peer.ask("count", "1", str(PATIENT))

    permit = mine.try_admit(a_job())
    assert not peer.ask("admit")["granted"]
    permit.release()
    assert mine.try_admit(a_job()) is None
    assert peer.ask("admit")["granted"]


def test_without_others_there_are_no_turns(directory: CacheDirectory, monkeypatch):
    """Alone, a process takes one permit after the other."""
    monkeypatch.setattr(permits, "TURN_SECONDS", 0.0)
    mine = CompilePermits(directory, 1, patience_seconds=PATIENT)
    for _ in range(20):
        permit = mine.try_admit(a_job())
        assert permit is not None
        assert mine.try_admit(a_job()) is None  # our waiting does not count as another's
        permit.release()


def test_without_locks_every_compile_is_admitted():
    """A count only saves load."""
    directory = open_cache_directory("/proc/nowhere")
    assert directory.access == "none"
    mine = CompilePermits(directory, 1)
    granted = [mine.try_admit(a_job()) for _ in range(3)]

    assert [permit.lease for permit in granted] == [None] * 3
    for permit in granted:
        permit.release()
    assert mine.held == 0


def test_permits_that_others_hold_for_too_long_stop_no_compile(directory, start_peer):
    """However lively they are: after the total patience one compile runs at a time, as before."""
    mine = CompilePermits(directory, 1, patience_seconds=PATIENT, patience_total_seconds=0.4)
    peer = start_peer()
    peer.ask("count", "1", str(PATIENT))
    assert peer.ask("admit")["holds"]
    begun = time.monotonic()
    overdue = poll(lambda: mine.try_admit(a_job()))
    waited = time.monotonic() - begun

    assert waited >= 0.4
    assert isinstance(overdue, CompilePermit)
    assert overdue.lease is None
    assert mine.holder is not None
    assert mine.holder.pid == peer.pid
    assert mine.try_admit(a_job()) is None
    overdue.release()
    again = mine.try_admit(a_job())
    assert isinstance(again, CompilePermit)
    again.release()
    assert mine.held == 0


@pytest.mark.skipif(bool(why_no_fuse()), reason=why_no_fuse())
def test_locks_that_do_not_answer_stop_no_compile(tmp_path):
    """A permit without a lease after the patience, and then at once; one that came is released."""
    with Mount(tmp_path / "fuse") as mount:
        mine = CompilePermits(open_cache_directory(mount.path / "cache"), 2, patience_seconds=0.5)
        held = mine.try_admit(a_job())
        mount.stop()
        begun = time.monotonic()
        granted = [mine.try_admit(a_job()) for _ in range(5)]
        for permit in [*granted, held]:
            permit.release()
        took = time.monotonic() - begun
        mount.go_on()
        poll(lambda: mine.held == 0)

    assert held.lease is not None
    assert [permit.lease for permit in granted] == [None] * 5
    assert took < 5.0
