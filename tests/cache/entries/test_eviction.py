"""Eviction: least recently used first, nothing in use, and safe beside all other processes."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ajit._cache.entries import collector, touch
from ajit._cache.entries.collector import EVICTION_LEASE, Collector, Limits
from ajit._cache.entries.disk import DiskStore, Found, Missing
from ajit._cache.entries.eviction import (
    FAILURE_SECONDS,
    FRESH_SECONDS,
    LOCK_SECONDS,
    ORPHAN_SECONDS,
    PERMIT_SECONDS,
)
from ajit._cache.entries.failures import FailureStore
from ajit._cache.files.directory import open_cache_directory
from ajit._cache.files.file_system import Mount
from ajit._cache.leases.permits import CompilePermits
from ajit._cache.leases.table import LeaseTable
from ajit._system.process import this_process
from ajit.errors import CompileError
from tests.cache.artifacts import a_job, a_key, an_artifact
from tests.cache.helpers import age, entry_file, left, lock_file, poll, put, size_of

if TYPE_CHECKING:
    from ajit._cache.files.directory import CacheDirectory

HOUR = 3600.0
DAY = 24 * HOUR


def test_the_entries_unused_for_longest_go_until_the_rest_fits(store: DiskStore, directory):
    """Exactly as many as needed, the oldest first."""
    keys = [put(store, number, idle=DAY - number * HOUR) for number in range(5)]
    limits = Limits(max_bytes=2 * size_of(store, keys[0]))

    plan = Collector(directory, limits).plan()
    assert [doomed.file.key for doomed in plan.entries] == keys[:3]
    assert (plan.kept_entries, plan.reasons) == (2, {"size": 3})
    assert left(store) == set(keys)

    done = Collector(directory, limits).perform(plan)
    assert (done.entries, done.bytes, done.skipped) == (3, plan.bytes, ())
    assert left(store) == set(keys[3:])


def test_an_entry_past_the_age_limit_is_removed_whatever_its_size(store: DiskStore, directory):
    """The age limit alone, with no limit of size."""
    old, young = put(store, "old", idle=8 * DAY), put(store, "young", idle=6 * DAY)

    done = Collector(directory, Limits(max_age_seconds=7 * DAY)).collect()

    assert (done.entries, left(store)) == (1, {young})
    assert old not in left(store)


def test_no_limits_remove_nothing(store: DiskStore, directory):
    """Zero is none."""
    put(store, "old", idle=1000 * DAY)

    assert Collector(directory, Limits()).collect().entries == 0


@pytest.mark.parametrize("idle", [0, FRESH_SECONDS / 2, -DAY])
def test_an_entry_just_published_is_not_removed(store: DiskStore, directory, idle: float):
    """However small the cache is to be: it is about to be loaded. A time ahead of ours counts."""
    key = put(store, "new", idle=idle)

    done = Collector(directory, Limits(max_bytes=1, max_age_seconds=1)).collect()

    assert (done.entries, left(store)) == (0, {key})


def test_an_entry_whose_lease_is_held_stays(store: DiskStore, directory, table, start_peer):
    """Another process is about to replace it; the others go."""
    held, free = put(store, "held", idle=DAY), put(store, "free", idle=DAY)
    peer = start_peer()
    peer.ask("acquire", held)

    done = Collector(directory, Limits(max_age_seconds=HOUR)).collect()

    assert left(store) == {held}
    assert [(skip.name.count(held), skip.reason) for skip in done.skipped] == [
        (1, "its lease is held")
    ]
    assert free not in left(store)


def test_an_entry_whose_lease_this_process_holds_stays(store, directory, table):
    """A lock does not keep its own process out: the table of leases does."""
    key = put(store, "held", idle=DAY)
    with table.try_acquire(key, "nvrtc"):
        done = Collector(directory, Limits(max_age_seconds=HOUR)).collect()

        assert (done.entries, left(store)) == (0, {key})
        assert table.read_holder(key).compiler == "nvrtc"


def test_an_entry_that_was_used_after_the_plan_stays(store: DiskStore, directory):
    """Touched, or replaced by another file: it is not what was to go."""
    used, replaced = put(store, "used", idle=DAY), put(store, "replaced", idle=DAY)
    collector = Collector(directory, Limits(max_age_seconds=HOUR))
    plan = collector.plan()
    age(entry_file(store, used), 0)
    then = entry_file(store, replaced).stat()
    store.publish(an_artifact(replaced, b"new"), replace=True)
    os.utime(entry_file(store, replaced), ns=(then.st_atime_ns, then.st_mtime_ns))

    done = collector.perform(plan)

    assert (done.entries, left(store)) == (0, {used, replaced})
    assert {skip.reason for skip in done.skipped} == {"it was used or replaced meanwhile"}


def test_an_entry_that_is_gone_already_is_no_problem(store: DiskStore, directory):
    """It was removed by hand."""
    key = put(store, "gone", idle=DAY)
    collector = Collector(directory, Limits(max_age_seconds=HOUR))
    plan = collector.plan()
    store.remove(key)

    assert collector.perform(plan).entries == 0


def test_a_reader_of_an_evicted_entry_goes_on_reading(store: DiskStore, directory):
    """It has the file open; the next reader misses it and compiles."""
    key = put(store, "read", idle=DAY)
    with entry_file(store, key).open("rb") as reader:
        Collector(directory, Limits(max_age_seconds=HOUR)).collect()

        assert b"saxpy" in reader.read()
    assert store.read(key) == Missing()


def test_lock_files_stay(store: DiskStore, directory, path: Path):
    """One that was taken away would split its waiters over two files."""
    key = put(store, "old", idle=DAY)
    LeaseTable(directory).try_acquire(key, "nvrtc").release()
    inode = lock_file(path, key).stat().st_ino

    Collector(directory, Limits(max_age_seconds=HOUR)).collect()

    assert lock_file(path, key).stat().st_ino == inode


def test_only_one_process_evicts(store: DiskStore, directory, start_peer):
    """The second does nothing, and does not wait either."""
    key = put(store, "old", idle=DAY)
    start_peer().ask("acquire", EVICTION_LEASE)
    collector = Collector(directory, Limits(max_age_seconds=HOUR))

    assert collector.perform(collector.plan()) is None
    assert collector.collect() is None
    assert left(store) == {key}


@pytest.mark.parametrize("kind", ["locks", "directory"])
def test_the_background_rests_after_anybody_has_evicted(store: DiskStore, directory, path, kind):
    """Of many processes one looks after the cache in each interval."""
    directory.lease_kind = kind
    collector = Collector(directory, Limits(max_age_seconds=HOUR))
    assert collector.collect(every_seconds=HOUR) is not None
    assert collector.collect(every_seconds=HOUR) is None

    record = lock_file(path, EVICTION_LEASE)
    if kind == "directory":
        record = record.with_suffix(".claims") / "00000001" / "record"
    age(record, 2 * HOUR)
    assert collector.collect(every_seconds=HOUR) is not None


def test_eviction_that_takes_too_long_goes_on_the_next_time(store: DiskStore, directory):
    """Removed entries stay removed, and the report says that it was not finished."""
    for number in range(3):
        put(store, number, idle=DAY)
    collector = Collector(directory, Limits(max_age_seconds=HOUR))

    assert not collector.collect(work_seconds=-1).finished
    assert collector.collect().entries == 3


def test_two_evictors_and_readers_at_once(store: DiskStore, directory):
    """Readers find an entry whole or not at all; no evictor fails."""
    keys = [put(store, number, idle=DAY) for number in range(60)]
    collectors = [Collector(directory, Limits(max_age_seconds=HOUR)) for _ in range(2)]
    plans = [collector.plan() for collector in collectors]
    met: list[object] = []

    def read() -> None:
        met.extend(type(store.read(key)) for key in keys * 3)

    evictors = [
        threading.Thread(target=collector.perform, args=(plan,))
        for collector, plan in zip(collectors, plans, strict=True)
    ]
    threads = [*evictors, threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert set(met) <= {Found, Missing}
    assert left(store) <= set(keys)


def test_temporary_files_of_dead_writers_are_swept(directory: CacheDirectory, path: Path):
    """Of this host by their process; of others by their age. The living ones stay."""
    me = this_process()
    alive = path / "tmp" / f"{me.file_prefix}.{0:016}"
    dead = path / "tmp" / f"{me.file_prefix.rpartition('.')[0]}.1.{0:016}"
    elsewhere_new, elsewhere_old = (path / "tmp" / f"other.1.2.3.{n:016}" for n in range(2))
    for file in (alive, dead, elsewhere_new, elsewhere_old):
        file.write_bytes(b"half of an ent")
    age(elsewhere_old, ORPHAN_SECONDS + 1)

    collector = Collector(directory, Limits())
    plan = collector.plan()
    assert plan.reasons == {"orphaned temporary file": 2}

    assert collector.perform(plan).debris == 2
    assert {alive, elsewhere_new} == set((path / "tmp").iterdir())


def test_stale_failure_records_are_removed(directory: CacheDirectory, path: Path):
    """Those that a process may still rely on stay."""
    failures = FailureStore(directory)
    for label in ("new", "old"):
        failures.record(CompileError(name="k", key=a_key(label), compiler="nvrtc", log="no"))
    [old] = path.glob(f"failures/*/{a_key('old')}.json")
    age(old, FAILURE_SECONDS + 1)

    assert Collector(directory, Limits()).collect().debris == 1
    assert not old.exists()
    assert failures.recall(a_key("new")) is not None
    assert Collector(directory, Limits(failure_seconds=DAY)).collect().debris == 0


def test_permits_of_machines_long_gone_are_removed(directory: CacheDirectory, path: Path):
    """Each boot of each machine leaves some; those of a machine that is there stay."""
    permit = CompilePermits(directory, 1).try_admit(a_job())
    permit.release()
    [ours] = (path / "locks" / "pe").iterdir()
    bygone = ours.with_name("permit-bygone-0.lock")
    bygone.touch()
    age(bygone, PERMIT_SECONDS + 1)

    plan = Collector(directory, Limits()).plan()
    assert plan.reasons == {"permit of a bygone machine": 1}
    assert Collector(directory, Limits()).collect().debris == 1
    assert [ours] == list(ours.parent.iterdir())


FOREIGN = [
    "tmp/thesis.tex",
    "tmp/host.1.2.3.short",
    "tmp/host.1.2.3.0123456789abcdef.tex",
    "failures/ab/report.json",
    f"failures/ab/{'cd' * 32}.json",
    f"failures/ab/{'ab' * 32}.json.orig",
    f"entries/ab/{'cd' * 32}.ajit",
    "locks/pe/notes.lock",
    "digests/diary",
    f"reads/ab/{'ab' * 32}/notes",
    f"reads/ab/{'ab' * 32}/{'12' * 32}.orig",
    f"reads/ab/{'cd' * 32}/{'12' * 32}",
]
"""Names that look a little like those of a cache."""


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_with_a_name_that_is_not_ours_is_never_swept(path: Path, name: str):
    """However old it is, and whatever sweeps: an opened store, and an evictor with any limits."""
    directory = open_cache_directory(path)
    file = path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("precious")
    age(file, 100 * DAY)

    DiskStore(directory)
    assert Collector(directory, Limits(max_bytes=1, max_age_seconds=1)).plan().reasons == {}
    assert Collector(directory, Limits(max_bytes=1, max_age_seconds=1)).collect().debris == 0

    assert file.read_text() == "precious"


def test_files_of_others_stay(store: DiskStore, directory, path: Path):
    """Names that are no entry's, and anything but a file, are left alone."""
    foreign = path / "entries" / "ab" / "README.ajit"
    foreign.parent.mkdir(mode=0o700)
    foreign.write_text("ours")
    age(foreign, DAY)
    link = entry_file(store, a_key("link"))
    link.parent.mkdir(mode=0o700, exist_ok=True)
    link.symlink_to(foreign)

    assert Collector(directory, Limits(max_bytes=1, max_age_seconds=1)).collect().entries == 0
    assert foreign.exists()
    assert link.is_symlink()


def test_a_cache_that_cannot_be_written_is_reported_and_left(read_only_mount):
    """Each file that stays says why."""
    place = read_only_mount.place
    store = DiskStore(open_cache_directory(place))
    key = put(store, "old", idle=DAY)
    read_only_mount()

    done = Collector(store.directory, Limits(max_age_seconds=HOUR)).collect()

    assert (done.entries, left(store)) == (0, {key})
    assert "Read-only" in done.skipped[0].reason


# --- touches --------------------------------------------------------------------------------------


def test_an_entry_that_is_found_is_touched(store: DiskStore):
    """So it counts as used, whatever the file system does about access times."""
    key = put(store, "used", idle=DAY)
    store.read(key)

    poll(lambda: time.time() - entry_file(store, key).stat().st_mtime < HOUR)


def test_an_entry_is_touched_once_an_hour_at_most(store: DiskStore, monkeypatch):
    """Reading costs no write: one that was touched lately is left alone."""
    lately = put(store, "lately", idle=touch.TOUCH_SECONDS / 2)
    long_ago = put(store, "long ago", idle=touch.TOUCH_SECONDS * 2)
    touched: list[str] = []
    monkeypatch.setattr(os, "utime", lambda name, **_: touched.append(name))
    store.read(lately)
    store.read(long_ago)

    poll(lambda: touched)
    assert [long_ago in name for name in touched] == [True]


def test_verifying_is_no_use(store: DiskStore, monkeypatch):
    """`ajit cache verify` does not make every entry young."""
    key = put(store, "old", idle=DAY)
    noted: list[str] = []
    monkeypatch.setattr(store._touches, "note", lambda name, _: noted.append(name))
    assert [type(lookup) for _, lookup in store.verify()] == [Found]

    assert noted == []
    assert store.read(key)
    assert len(noted) == 1


def test_a_touch_that_fails_fails_nothing(store: DiskStore, monkeypatch):
    """No permission, say: the next reader tries again."""
    tried = threading.Event()

    def refuse(*_: object, **__: object) -> None:
        tried.set()
        raise PermissionError

    key = put(store, "old", idle=DAY)
    monkeypatch.setattr(os, "utime", refuse)

    assert isinstance(store.read(key), Found)
    assert tried.wait(30)
    poll(lambda: not store._touches._working)


def used_lock(table, key: str, *, idle: float) -> Path:
    """The lock file of a key that was last leased so long ago."""
    table.try_acquire(key, "nvrtc").release()
    path = lock_file(Path(table.directory.path), key)
    age(path, idle)
    return path


def test_the_lock_file_of_a_key_of_which_nothing_is_left_goes_after_a_day(
    store: DiskStore, directory, table
):
    """One of an entry, a list or a failure stays, however old; so does one that is newer."""
    old = LOCK_SECONDS + HOUR
    gone = used_lock(table, a_key("gone"), idle=old)
    recent = used_lock(table, a_key("recent"), idle=LOCK_SECONDS - HOUR)
    has_entry = used_lock(table, put(store, "kept", idle=DAY), idle=old)
    has_list = used_lock(table, a_key("listed"), idle=old)
    reads = Path(directory.path) / "reads" / a_key("listed")[:2] / a_key("listed")
    reads.mkdir(parents=True)
    (reads / a_key("list")).write_bytes(b"")
    failed = a_key("failed")
    error = CompileError(name="saxpy", key=failed, compiler="nvrtc", log="no")
    FailureStore(directory).record(error)
    has_failure = used_lock(table, failed, idle=old)

    plan = Collector(directory, Limits()).plan()
    done = Collector(directory, Limits()).perform(plan)

    assert [doomed.reason for doomed in plan.debris] == ["lock of a bygone key"]
    assert (done.debris, done.skipped, gone.exists()) == (1, (), False)
    assert all(path.exists() for path in (recent, has_entry, has_list, has_failure))


def test_a_lock_that_is_held_is_not_removed(directory, table, start_peer):
    """A compile of two days has its file."""
    key, peer = a_key("slow"), start_peer()
    peer.ask("acquire", key)
    path = lock_file(Path(directory.path), key)
    age(path, 2 * LOCK_SECONDS)

    done = Collector(directory, Limits()).collect()

    assert [skipped.reason for skipped in done.skipped] == ["its lease is held"]
    assert path.exists()


def test_a_lock_that_was_used_after_the_plan_is_not_removed(directory, table):
    """It is not long gone any more."""
    path = used_lock(table, a_key("again"), idle=2 * LOCK_SECONDS)
    collector = Collector(directory, Limits())
    plan = collector.plan()
    table.try_acquire(a_key("again"), "nvrtc").release()

    done = collector.perform(plan)

    assert [skipped.reason for skipped in done.skipped] == ["it was used or replaced meanwhile"]
    assert path.exists()


@pytest.mark.parametrize("kind", ["nfs4", "fuse.sshfs", ""])
def test_locks_of_a_file_system_that_other_nodes_may_have_are_kept(
    directory, table, monkeypatch, kind
):
    """There a removed file may be seen for a while, and what it is on may be unknown."""
    path = used_lock(table, a_key("old"), idle=2 * LOCK_SECONDS)
    monkeypatch.setattr(collector, "mount_of", lambda *_: Mount(kind, ""))

    done = Collector(directory, Limits()).collect()

    assert (done.debris, path.exists()) == (0, True)


def test_locks_of_a_cache_with_claims_are_kept(directory, table):
    """Their numbers are never made twice."""
    path = used_lock(table, a_key("old"), idle=2 * LOCK_SECONDS)
    directory.lease_kind = "directory"

    assert Collector(directory, Limits()).collect().debris == 0
    assert path.exists()


def test_what_is_condemned_goes_first_and_counts_for_the_limit(store: DiskStore, directory):
    """Bad ones however new; those of no use here unless they were used just now."""
    old, bad, useless, fresh = (
        put(store, label, idle=idle)
        for label, idle in (("old", DAY), ("bad", 0), ("useless", HOUR), ("fresh", 0))
    )
    name = "entries/{0:.2}/{0}.ajit".format
    condemned = {name(bad): "does not verify"}
    condemned |= dict.fromkeys((name(useless), name(fresh)), "no compiler here can use it")

    plan = Collector(directory, Limits(max_bytes=2 * size_of(store, old))).plan(condemned)

    assert {doomed.file.key: doomed.reason for doomed in plan.entries} == {
        bad: "does not verify", useless: "no compiler here can use it",
    }  # fmt: skip
    assert plan.kept_entries == 2
