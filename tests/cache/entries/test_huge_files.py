"""Files that say they are huge cost a look-up nothing: not their bytes, and not their memory."""

from __future__ import annotations

import hashlib
import os
import resource
from pathlib import Path

import msgspec
import pytest

from ajit._cache.entries import digest_file, failures
from ajit._cache.entries.disk import OVERHEAD_BYTES, DiskStore, Found, Missing, Rejected
from ajit._cache.entries.failures import FailureStore
from ajit._cache.entries.lists import MAX_LIST_BYTES, ListStore
from ajit._cache.files import fs
from ajit._cache.files.directory import CacheDirectory
from ajit._core.reads import MAX_READS, Read, ReadingList
from ajit.errors import CompileError
from tests.cache.artifacts import a_key, an_artifact
from tests.cache.helpers import entry_file, in_a_forked_child

KEY = a_key()
GIB = 2**30
HUGE = 200 * GIB


@pytest.fixture
def no_huge_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading so many bytes fails the test, before the memory is taken."""
    read = os.read

    def watched(fd: int, count: int) -> bytes:
        assert count <= GIB, f"{count} bytes are read"
        return read(fd, count)

    monkeypatch.setattr(os, "read", watched)


def make_sparse(file: Path, size: int = HUGE) -> None:
    """Put a file without blocks in its place."""
    file.unlink(missing_ok=True)
    with file.open("wb") as made:
        made.truncate(size)


@pytest.mark.usefixtures("no_huge_reads")
def test_a_huge_entry_is_rejected_unread_and_replaced(store: DiskStore):
    """A sparse file takes no space on the disk, and would take all memory."""
    store.publish(an_artifact(KEY))
    make_sparse(entry_file(store, KEY))

    lookups = store.read(KEY), store.manifest(KEY)
    replaced = store.publish(an_artifact(KEY), replace=True)

    for lookup in lookups:
        assert isinstance(lookup, Rejected)
        assert str(HUGE) in lookup.reason
    assert isinstance(store.read(KEY), Found), replaced


def test_the_limit_of_an_entry_is_what_a_compile_may_make(directory: CacheDirectory):
    """An entry at the limit is found by a store that has it, one above it is not read."""
    DiskStore(directory).publish(an_artifact(KEY, bytes(1000)))
    file = entry_file(DiskStore(directory), KEY)
    strict = DiskStore(directory, max_code_bytes=1000)

    assert isinstance(strict.read(KEY), Found)
    make_sparse(file, 1000 + OVERHEAD_BYTES + 1)
    assert "at most" in strict.read(KEY).reason


@pytest.mark.usefixtures("no_huge_reads")
def test_a_huge_list_counts_as_not_there(directory: CacheDirectory, path: Path):
    """By any digest as its name."""
    lists = ListStore(directory)
    made = ReadingList((Read("i0", "a.cuh", "file"),))
    assert lists.publish(KEY, made) == ""
    make_sparse(path / "reads" / KEY[:2] / KEY / ("a" * 64))

    assert [made.digest, ReadingList(()).digest] == [d for d, _ in ListStore(directory).lists(KEY)]
    assert {"", "a" * 64} == {i.digest if i.problem else "" for i in lists.files(KEY)}


def test_a_list_above_the_limit_is_not_stored(directory: CacheDirectory):
    """It could not be read back."""
    name = "a" * (2 * MAX_LIST_BYTES // MAX_READS)
    long = ReadingList(tuple(Read("i0", f"{name}{n}", "file") for n in range(MAX_READS)))

    assert "at most" in ListStore(directory).publish(KEY, long)


def test_a_list_of_millions_is_refused_before_they_are_made(directory: CacheDirectory, path: Path):
    """Sixteen megabytes of short reads would be gigabytes of objects."""
    data = msgspec.msgpack.encode((1, [("", "", "file")] * 1_000_000))
    digest = hashlib.sha256(data).hexdigest()
    fs.publish_file(directory, f"reads/{KEY[:2]}/{KEY}/{digest}", data, replace=True)

    (info,) = ListStore(directory).files(KEY)

    assert "length" in info.problem


@pytest.mark.usefixtures("no_huge_reads")
def test_a_huge_failure_and_a_huge_file_of_digests_are_not_read(
    directory: CacheDirectory, path: Path
):
    """The limit is checked on what was opened, not on what had the name before."""
    FailureStore(directory).record(CompileError(name="k", key=KEY, compiler="c", log="x"))
    make_sparse(path / "failures" / KEY[:2] / f"{KEY}.json")
    make_sparse(path / "digests" / "here")

    assert FailureStore(directory).recall(KEY) is None
    for name, limit in (
        (f"failures/{KEY[:2]}/{KEY}.json", failures.MAX_FILE_BYTES),
        ("digests/here", digest_file.MAX_BYTES),
    ):
        with pytest.raises(fs.UnusableFile, match="at most"):
            fs.read_file(directory, name, limit)


def test_an_entry_without_memory_for_it_is_a_miss(store: DiskStore):
    """The kernel is compiled, or served by another tier: a look-up never raises."""
    store.publish(an_artifact(KEY))
    make_sparse(entry_file(store, KEY), GIB)

    def look() -> bool:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + GIB // 4, resource.RLIM_INFINITY))
        lookups = store.read(KEY), store.manifest(KEY)
        return all(isinstance(x, Missing) and "memory" in x.reason for x in lookups)

    assert in_a_forked_child(look)
