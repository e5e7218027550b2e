"""A directory that cannot be listed for a moment is not an empty one."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from ajit._cache.entries.collector import Collector, Limits
from ajit._cache.entries.disk import DiskStore
from ajit._cache.entries.eviction import LIST_SECONDS, LOCK_SECONDS
from ajit._cache.entries.lists import ListStore
from ajit._cache.files import fs
from ajit._cache.files.directory import CacheDirectory
from ajit._cache.leases.table import LeaseTable
from ajit.testing import FakeFileSystem
from tests.cache.artifacts import a_key, an_artifact
from tests.cache.entries.test_lists import a_list

KEY = a_key("one")
OLD = 2 * max(LIST_SECONDS, LOCK_SECONDS)


@pytest.fixture
def used(directory: CacheDirectory) -> CacheDirectory:
    """A cache with an entry, the list that leads to it, and a lock file, all of them old."""
    DiskStore(directory).publish(an_artifact(KEY))
    assert ListStore(directory).publish(KEY, a_list("a.h")) == ""
    with LeaseTable(directory).try_acquire(KEY, "x"):
        pass
    then = time.time() - OLD
    for file in files(directory):
        os.utime(Path(directory.path, file), (then, then))
    return directory


def files(directory: CacheDirectory) -> set[str]:
    """Entries, lists and locks."""
    path = Path(directory.path)
    found = [file for top in ("entries", "reads", "locks") for file in (path / top).rglob("*")]
    return {str(file.relative_to(path)) for file in found if file.is_file()}


@pytest.mark.parametrize("folder", ["entries", f"entries/{KEY[:2]}", "reads", "locks", ""])
@pytest.mark.parametrize("call", ["scandir", "open"])
def test_lists_and_locks_stay_where_a_directory_cannot_be_listed(
    used: CacheDirectory, folder: str, call: str
):
    """The entries may be there: nothing shows that a list leads nowhere."""
    there = files(used)
    used.folders.clear()
    with FakeFileSystem(Path(used.path, folder)) as system:
        system.fail(call, errno.EIO if call == "scandir" else errno.EMFILE)
        plan = Collector(used, Limits()).plan()
        Collector(used, Limits()).collect()

    assert (plan.entries, plan.debris) == ((), ())
    assert plan.unlisted
    assert there <= files(used)


def test_a_directory_that_is_not_there_or_not_safe_is_no_trouble(used: CacheDirectory):
    """What lies in it is never used, so the lists that lead there may go."""
    Path(used.path, "entries", KEY[:2]).rename(Path(used.path, "aside"))
    Path(used.path, "entries", KEY[:2]).symlink_to(Path(used.path, "aside"))

    plan = Collector(used, Limits()).plan()

    assert plan.unlisted == {}
    assert [one.reason for one in plan.debris] == ["list that leads to no entry"]


def test_nothing_is_removed_where_it_cannot_be_known_who_holds_a_lease(used: CacheDirectory):
    """An entry has the lock file of its base, and a list of locks that fails is not empty."""
    collector = Collector(used, Limits(max_bytes=1))
    plan = collector.plan()
    with FakeFileSystem(Path(used.path, "locks", KEY[:2])) as system:
        system.fail("scandir")
        done = collector.perform(plan)

    assert done is not None
    assert (done.entries, len(plan.entries)) == (0, 1)
    assert all("cannot be known" in skipped.reason for skipped in done.skipped)
    assert any(name.startswith("entries/") for name in files(used))


def test_what_cannot_be_listed_raises_nothing_and_is_told(used: CacheDirectory):
    """A caller hears that these are not all files of a directory."""
    folder = f"entries/{KEY[:2]}"
    failed = []
    with FakeFileSystem(Path(used.path, folder)) as system:
        system.fail("scandir")
        found = list(fs.regular_files(used, folder, lambda *told: failed.append(told)))

    assert found == []
    assert [(name, error.errno) for name, error in failed] == [(folder, errno.EIO)]
