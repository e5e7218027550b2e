"""Reading lists on disk: found by their base, verified by their name, and seen to be in use."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ajit._cache.entries import lists
from ajit._cache.entries.lists import ListStore, remove_list
from ajit._cache.entries.touch import TOUCH_SECONDS
from ajit._cache.files.directory import open_cache_directory
from ajit._core.reads import NOTHING_READ, Read, ReadingList
from tests.cache.artifacts import a_key
from tests.cache.helpers import poll

if TYPE_CHECKING:
    from ajit._cache.files.directory import CacheDirectory

BASE = a_key("base")
OLD = 2 * TOUCH_SECONDS


def a_list(*names: str) -> ReadingList:
    """The list of a compile that read these files."""
    return ReadingList(tuple(Read("i0", name, "file") for name in names))


def file_of(directory: CacheDirectory, made: ReadingList, base: str = BASE) -> Path:
    """The file of a list."""
    return Path(directory.path, "reads", base[:2], base, made.digest)


def age(path: Path, seconds: float) -> None:
    """Make a file look unused for so long."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def is_young(path: Path) -> bool:
    """Whether a file was touched just now."""
    return time.time() - path.stat().st_mtime < TOUCH_SECONDS


def digests(directory: CacheDirectory, base: str = BASE) -> list[str]:
    """The lists that a new process goes through."""
    return [digest for digest, _ in ListStore(directory).lists(base)]


def test_a_list_is_found_by_its_base(directory):
    """By another process as well, and by no other base."""
    made = a_list("a.h", "b.h")
    assert ListStore(directory).publish(BASE, made) == ""

    assert dict(ListStore(directory).lists(BASE))[made.digest] == made
    assert digests(directory, a_key("other")) == [NOTHING_READ.digest]


def test_the_list_of_nothing_has_no_file(directory, path: Path):
    """Every base has it."""
    assert ListStore(directory).publish(BASE, NOTHING_READ) == ""

    assert list((path / "reads").iterdir()) == []
    assert digests(directory) == [NOTHING_READ.digest]


@pytest.mark.parametrize("data", [b"", b"\x92\x01\x90", b"#pragma once"])
def test_a_list_that_is_not_what_its_name_says_counts_as_not_there(directory, data: bytes):
    """And publishing it again mends it."""
    made = a_list("a.h")
    ListStore(directory).publish(BASE, made)
    file_of(directory, made).write_bytes(data)
    assert digests(directory) == [NOTHING_READ.digest]

    ListStore(directory).publish(BASE, made)
    assert made.digest in digests(directory)


def test_the_list_used_last_comes_first(directory):
    """A base has many where its headers have changed; of too many, the latest are looked at."""
    made = [a_list(f"{number}.h") for number in range(5)]
    for number, one in enumerate(made):
        ListStore(directory).publish(BASE, one)
        age(file_of(directory, one), number * OLD)

    expected = [one.digest for one in made] + [NOTHING_READ.digest]
    assert digests(directory) == expected


def test_of_very_many_lists_only_some_are_gone_through(directory, monkeypatch):
    """A header that is different each time costs a bounded look-up."""
    monkeypatch.setattr(lists, "MAX_LISTS", 2)
    old, *new = (a_list(f"{number}.h") for number in range(3))
    for one in (old, *new):
        ListStore(directory).publish(BASE, one)
    age(file_of(directory, old), OLD)

    assert set(digests(directory)) == {new[0].digest, new[1].digest, NOTHING_READ.digest}


def test_a_list_that_led_to_an_entry_is_touched(directory):
    """For each base, although many bases have the same list, which is in memory once."""
    made, other = a_list("a.h"), a_key("other")
    for base in (BASE, other):
        ListStore(directory).publish(base, made)
        age(file_of(directory, made, base), OLD)
    store = ListStore(directory)
    for base in (BASE, other):
        assert made.digest in [digest for digest, _ in store.lists(base)]
        assert not is_young(file_of(directory, made, base))
        store.used(base, made.digest)

    for base in (BASE, other):
        poll(lambda base=base: is_young(file_of(directory, made, base)))


def test_publishing_a_list_that_is_there_touches_it(directory):
    """Its entry is new, so it must not be evicted as unused."""
    made = a_list("a.h")
    ListStore(directory).publish(BASE, made)
    age(file_of(directory, made), OLD)
    ListStore(directory).publish(BASE, made)

    poll(lambda: is_young(file_of(directory, made)))


def test_all_lists_are_verified_without_being_used(directory):
    """What `ajit cache verify` shows."""
    good, bad = a_list("a.h", "b.h"), a_list("c.h")
    for made in (good, bad):
        ListStore(directory).publish(BASE, made)
        age(file_of(directory, made), OLD)
    file_of(directory, bad).write_bytes(b"")

    found = {info.digest: info for info in ListStore(directory).files()}
    assert (found[good.digest].reads, found[good.digest].problem) == (2, "")
    assert "digest" in found[bad.digest].problem
    assert [info.digest for info in ListStore(directory).files(BASE)] == sorted(found)
    assert list(ListStore(directory).files(a_key("other"))) == []


def test_the_folder_of_a_base_goes_with_its_last_list(directory):
    """And comes back with the next one."""
    one, two = a_list("a.h"), a_list("b.h")
    folder = file_of(directory, one).parent
    for made in (one, two):
        ListStore(directory).publish(BASE, made)

    for made in (one, two):
        assert folder.is_dir()
        remove_list(directory, f"reads/{BASE[:2]}/{BASE}/{made.digest}")
    assert not folder.exists()

    assert ListStore(directory).publish(BASE, one) == ""
    assert file_of(directory, one).exists()


def test_a_folder_that_is_removed_while_a_list_is_published_is_made_again(directory, monkeypatch):
    """An evictor may take the new folder away before the list is in it."""
    made, make = a_list("a.h"), directory.make
    folder = file_of(directory, made).parent
    taken: list[str] = []

    def make_and_lose(name: str) -> None:
        make(name)
        if not taken:
            taken.append(name)
            folder.rmdir()

    monkeypatch.setattr(directory, "make", make_and_lose)

    assert ListStore(directory).publish(BASE, made) == ""
    assert len(taken) == 1
    assert file_of(directory, made).exists()


def test_a_cache_that_cannot_be_written_says_why(read_only_mount):
    """The caller reports it; the kernel is there all the same."""
    open_cache_directory(read_only_mount.place)
    directory = open_cache_directory(read_only_mount())

    assert "read-only" in ListStore(directory).publish(BASE, a_list("a.h"))
