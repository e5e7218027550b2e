"""A look-up says which list it has used, so that eviction keeps that one and no other."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ajit._cache.entries.disk import DiskStore, Found, Missing
from ajit._cache.entries.failures import FailureStore
from ajit._cache.entries.lists import ListStore
from ajit._cache.entries.touch import TOUCH_SECONDS
from ajit._cache.files.directory import open_cache_directory
from ajit._compile.recorder.digests import sha256_file
from ajit._compile.recorder.places import places_of
from ajit._core.key import Key
from ajit._core.reads import ABSENT, Read, ReadingList, entry_key
from ajit._resolve.lookup import Seeker, Wanted
from tests.cache.artifacts import a_key, an_artifact
from tests.cache.helpers import age, poll

if TYPE_CHECKING:
    from ajit._cache.files.directory import CacheDirectory

BASE = a_key("base")
OLD = 2 * TOUCH_SECONDS


@pytest.fixture
def directory(tmp_path: Path) -> CacheDirectory:
    """A new cache directory."""
    return open_cache_directory(tmp_path / "cache")


def put_list(directory: CacheDirectory, *reads: tuple[str, str]) -> tuple[ReadingList, Path]:
    """Publish a list that was not used for long."""
    made = ReadingList(tuple(Read("i0", name, kind) for name, kind in reads))
    ListStore(directory).publish(BASE, made)
    file = Path(directory.path, "reads", BASE[:2], BASE, made.digest)
    age(file, OLD)
    return made, file


def is_young(path: Path) -> bool:
    """Whether a file was touched just now."""
    return time.time() - path.stat().st_mtime < TOUCH_SECONDS


def test_only_the_list_that_leads_to_the_entry_is_touched(directory, tmp_path: Path):
    """One that holds today but has no entry, and one that does not hold, become old."""
    (tmp_path / "x.h").write_text("1")
    used, used_file = put_list(directory, ("x.h", "file"), ("y.h", "absent"))
    _, holds = put_list(directory, ("x.h", "file"))
    _, does_not_hold = put_list(directory, ("y.h", "file"))
    for file in (holds, does_not_hold):  # they are looked at first
        age(file, OLD - 60)
    states = (sha256_file(str(tmp_path / "x.h")), ABSENT)
    store = DiskStore(directory)
    store.publish(an_artifact(entry_key(BASE, used.digest, states)))
    wanted = Wanted(Key(BASE, ()), places_of([str(tmp_path)], (), (), "", "k.cu"))
    seeker = Seeker(store, ListStore(directory), FailureStore(directory))

    assert isinstance(seeker.look(wanted), Found)
    poll(lambda: is_young(used_file))
    assert not is_young(holds)
    assert not is_young(does_not_hold)


def test_a_look_up_that_finds_nothing_touches_nothing(directory, tmp_path: Path):
    """The lists are as old afterwards."""
    (tmp_path / "x.h").write_text("1")
    _, file = put_list(directory, ("x.h", "file"))
    before = file.stat().st_mtime_ns
    lists = ListStore(directory)
    wanted = Wanted(Key(BASE, ()), places_of([str(tmp_path)], (), (), "", "k.cu"))
    seeker = Seeker(DiskStore(directory), lists, FailureStore(directory))

    assert isinstance(seeker.look(wanted), Missing)
    assert not lists._touches._working
    assert file.stat().st_mtime_ns == before
