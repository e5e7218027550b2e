"""What cannot be read for a moment is not bad: nothing removes it, and it is told apart."""

from __future__ import annotations

import errno

import pytest

import ajit.cache
from ajit._cache.entries.disk import DiskStore
from ajit._cache.entries.lists import ListStore
from ajit._cache.files.directory import open_cache_directory
from ajit._core.entry import EntryInvalid
from ajit.testing import FakeFileSystem
from tests.cache.entries.test_lists import a_list
from tests.cli.test_cache import put, put_bundle


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A cache with an entry, a bundle and a reading list, which settings name."""
    monkeypatch.setenv("AJIT_CACHE_DIR", str(tmp_path / "cache"))
    directory = open_cache_directory(tmp_path / "cache")
    store = DiskStore(directory)
    key = put(store, "good")
    put_bundle(store)
    assert ListStore(directory).publish(key, a_list("a.h")) == ""
    return tmp_path / "cache"


def files(path):
    """The files of entries and reading lists."""
    found = [file for top in ("entries", "reads") for file in (path / top).rglob("*")]
    return {str(file.relative_to(path)) for file in found if file.is_file()}


@pytest.mark.parametrize("call", ["read", "pread"])
def test_prune_keeps_what_cannot_be_read_and_names_it(path, call):
    """A file server that restarts, say: the files are good."""
    there = files(path)
    with FakeFileSystem(path) as system:
        system.fail(call)
        pruned = ajit.cache.prune()

    assert pruned.removed == ()
    assert {one.name for one in pruned.unread} <= there
    assert pruned.unread
    assert files(path) == there


@pytest.mark.parametrize("call", ["read", "pread"])
def test_verify_does_not_call_it_bad_nor_good_and_fix_keeps_it(path, call):
    """Of what was not read nothing is known."""
    there = files(path)
    with FakeFileSystem(path) as system:
        system.fail(call)
        fixed = ajit.cache.verify(fix=True)

    assert not fixed.good
    assert (fixed.bad, fixed.reading_lists.bad, fixed.digests.bad) == ((), (), ())
    assert {one.name for one in fixed.unread} <= there
    assert all("Input/output error" in one.reason for one in fixed.unread)
    assert (files(path), ajit.cache.verify().good) == (there, True)


def test_an_entry_there_is_no_memory_for_is_kept(path, monkeypatch):
    """A small container verifies a large cache."""

    def decode(*_):
        raise MemoryError

    there = files(path)
    with monkeypatch.context() as patch:
        patch.setattr("ajit._cache.entries.disk.decode", decode)
        pruned, fixed = ajit.cache.prune(), ajit.cache.verify(fix=True)

    assert (pruned.removed, fixed.removed) == ((), ())
    assert [one.reason for one in pruned.unread] == ["out of memory"]
    assert files(path) == there


def test_a_bundle_that_proves_bad_between_two_looks_is_bad(path, monkeypatch):
    """Its head is read twice: what the second look meets is what it says, and no trouble."""
    store = DiskStore(open_cache_directory(path))
    (key,) = (info.key for info in store.entries() if store.bundles.has(info.key))
    real, looks = store.bundles.open, []

    def opened(*args):
        looks.append(args)
        if len(looks) > 1:
            raise EntryInvalid("it is cut short")
        return real(*args)

    monkeypatch.setattr(store.bundles, "open", opened)

    assert store.read_whole(key).reason == "it is cut short"
    assert ajit.cache.checking.fault_in(store.read_whole(key)) == "it is cut short"


@pytest.mark.parametrize("folder", ["entries", "reads"])
def test_a_directory_that_cannot_be_listed_is_named_and_not_taken_as_empty(path, folder):
    """By each function that looks at a cache."""
    there = files(path)
    with FakeFileSystem(path / folder) as system:
        system.fail("scandir")
        scanned, verified = ajit.cache.scan(), ajit.cache.verify(fix=True)
        pruned = ajit.cache.prune()

    expected = ajit.cache.Unread(folder, "Input/output error")
    assert verified.unread == pruned.unread == (expected,)
    assert not verified.good
    assert [folder in warning for warning in scanned.warnings] == [True] * (folder == "entries")
    assert files(path) == there


def test_a_bundle_whose_files_cannot_be_read_is_not_bad(path, monkeypatch):
    """Its head could be read, and then the disk failed."""

    def read(*_):
        raise OSError(errno.EIO, "Input/output error")

    there = files(path)
    with monkeypatch.context() as patch:
        patch.setattr("ajit._cache.entries.bundles.OpenBundle.read", read)
        pruned, fixed = ajit.cache.prune(), ajit.cache.verify(fix=True)

    assert (pruned.removed, fixed.bad) == ((), ())
    assert [one.reason for one in pruned.unread] == ["it cannot be read: Input/output error"]
    assert files(path) == there
