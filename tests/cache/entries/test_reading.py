"""Reading: nothing unverified is ever used, and nothing that lies there raises."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from ajit._cache.entries.disk import DiskStatistics, DiskStore, Found, Missing, Rejected
from ajit._cache.files import reading
from tests.cache.artifacts import a_key, an_artifact
from tests.cache.helpers import entry_file, open_descriptors

KEY = a_key()


@pytest.fixture
def entry(store: DiskStore) -> Path:
    """A good entry of `KEY`."""
    store.publish(an_artifact(KEY))
    return entry_file(store, KEY)


def test_an_entry_truncated_at_any_length_is_rejected(store: DiskStore, entry: Path):
    """From zero bytes to one byte less than all."""
    whole = entry.read_bytes()
    for length in range(len(whole)):
        entry.write_bytes(whole[:length])
        assert isinstance(store.read(KEY), Rejected), length
        assert isinstance(store.manifest(KEY), Rejected), length

    entry.write_bytes(whole)
    assert isinstance(store.read(KEY), Found)


def test_an_entry_with_one_bit_flipped_is_rejected(store: DiskStore, entry: Path):
    """Each byte of it, with one bit of eight in turn, and a sample of the others."""
    whole = entry.read_bytes()
    sample = random.Random(7)  # noqa: S311  # a fixed sample
    flips = [(index, index % 8) for index in range(len(whole))]
    flips += [(sample.randrange(len(whole)), sample.randrange(8)) for _ in range(500)]
    for index, bit in flips:
        broken = bytearray(whole)
        broken[index] ^= 1 << bit
        entry.write_bytes(broken)
        assert isinstance(store.read(KEY), Rejected), (index, bit)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 4096, b"\x7fELF" + b"\0" * 100, os.urandom(4096), b"AJITENT\0" + b"\xff" * 200],
    ids=["empty", "zeros", "elf", "random", "only the magic"],
)
def test_a_foreign_file_is_rejected(store: DiskStore, entry: Path, content: bytes):
    """A file that ajit did not write is a miss with a reason."""
    entry.write_bytes(content)

    lookup = store.read(KEY)

    assert isinstance(lookup, Rejected)
    assert lookup.reason


def test_bytes_after_the_end_are_rejected(store: DiskStore, entry: Path):
    """An entry is its whole file."""
    entry.write_bytes(entry.read_bytes() + b"\0")

    assert isinstance(store.read(KEY), Rejected)


def test_swapped_entries_are_rejected(store: DiskStore):
    """Two good entries under each other's names: each says that it is another key's."""
    one, two = a_key("one"), a_key("two")
    store.publish(an_artifact(one))
    store.publish(an_artifact(two))
    content = entry_file(store, one).read_bytes()
    entry_file(store, one).write_bytes(entry_file(store, two).read_bytes())
    entry_file(store, two).write_bytes(content)

    for key, other in ((one, two), (two, one)):
        lookup, manifest = store.read(key), store.manifest(key)
        assert isinstance(lookup, Rejected)
        assert isinstance(manifest, Rejected)
        assert other[:16] in lookup.reason


def test_a_link_in_its_place_is_not_followed(store: DiskStore, entry: Path, tmp_path: Path):
    """A symbolic link is no entry, even to a good one."""
    entry.rename(tmp_path / "moved")
    entry.symlink_to(tmp_path / "moved")

    lookup = store.read(KEY)

    assert isinstance(lookup, Rejected)
    assert "symbolic link" in lookup.reason


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["directory", "fifo"])
def test_an_entry_that_is_no_file_is_rejected_and_does_not_hang(store: DiskStore, entry, make):
    """A directory or a FIFO in an entry's place is a bad entry, with a reason."""
    entry.unlink()
    make(entry)

    lookup = store.read(KEY)

    assert isinstance(lookup, Rejected)
    assert "not a regular file" in lookup.reason


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ENOTCONN])
def test_an_unreadable_entry_is_a_miss_with_a_reason(store: DiskStore, entry, monkeypatch, code):
    """Trouble with the file system costs a compile, nothing more."""

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "read", fail)

    assert store.read(KEY) == Missing(os.strerror(code))


def test_short_reads_are_continued(store: DiskStore, entry: Path, monkeypatch):
    """A file system that gives a few bytes at a time gives all of them in the end."""
    real = os.read
    monkeypatch.setattr(os, "read", lambda fd, count: real(fd, min(count, 31)))

    assert isinstance(store.read(KEY), Found)


def test_a_file_cut_while_it_is_read_is_rejected(store: DiskStore, entry: Path, monkeypatch):
    """Fewer bytes than the file had when it was opened do not verify, and do not loop."""
    real = os.read

    def read_and_cut(fd: int, count: int) -> bytes:
        data = real(fd, 100)
        os.truncate(entry, 50)
        return data

    monkeypatch.setattr(os, "read", read_and_cut)

    assert isinstance(store.read(KEY), Rejected)


def test_a_stale_handle_is_looked_up_again(store: DiskStore, entry: Path, monkeypatch):
    """NFS may say ESTALE once for a file that was replaced on the server."""
    real, calls = reading._read_once, []

    def stale_at_first(
        dir_fd: int, name: str, sharing: object, limit_bytes: int
    ) -> tuple[bytes, float]:
        calls.append(name)
        if len(calls) == 1:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(dir_fd, name, sharing, limit_bytes)

    monkeypatch.setattr(reading, "_read_once", stale_at_first)

    assert isinstance(store.read(KEY), Found)
    assert len(calls) == 2


def test_a_reader_leaves_no_descriptor_open(store: DiskStore, entry: Path):
    """Found, missing, rejected and odd: the number of descriptors stays the same."""
    store.read(KEY)  # it keeps the directory of the entry open
    before = open_descriptors(store.directory.path)

    store.read(a_key("missing"))
    entry.write_bytes(b"broken")
    store.read(KEY)
    entry.unlink()
    os.mkfifo(entry)
    store.read(KEY)

    assert open_descriptors(store.directory.path) == before


def test_the_cache_can_be_listed_verified_and_emptied(store: DiskStore):
    """The command line gets entries in order, a verdict for each, and removal by key."""
    keys = sorted(a_key(number) for number in range(5))
    for key in keys:
        store.publish(an_artifact(key, log="warning"))
    entry_file(store, keys[1]).write_bytes(b"broken")
    (entry_file(store, keys[1]).parent / "README").write_text("not an entry")

    assert [entry.key for entry in store.entries()] == keys
    assert [entry.size_bytes for entry in store.entries()][1] == len(b"broken")
    verdicts = {key: type(lookup) for key, lookup in store.verify()}
    assert verdicts == {key: Rejected if key == keys[1] else Found for key in keys}
    manifest, size_bytes, seal = store.manifest(keys[0])
    assert seal is None
    assert (manifest.key, manifest.log, size_bytes) == (keys[0], "warning", len(b"code"))
    assert store.manifest(a_key("missing")) == Missing()
    assert (store.remove(keys[0]), store.remove(keys[0])) == (True, False)
    assert [entry.key for entry in store.entries()] == keys[1:]


def test_statistics_count_what_came_of_each_call(store: DiskStore, entry: Path):
    """One count per read and per publish."""
    store.read(KEY)
    store.publish(an_artifact(KEY))
    entry.write_bytes(b"broken")
    lookups = {key: store.read(key) for key in (KEY, a_key("missing"), a_key("missing, too"))}

    expected = DiskStatistics(found=1, missing=2, rejected=1, published=1, lost=1)
    assert isinstance(lookups[KEY], Rejected)
    assert store.statistics() == expected
    assert "found=1" in repr(store)
