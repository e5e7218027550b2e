"""Eviction of reading lists and digests: what leads nowhere goes, and what is in use stays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ajit._cache.entries.collector import EVICTION_LEASE, Collector, Limits
from ajit._cache.entries.eviction import DIGEST_SECONDS, FRESH_SECONDS, LIST_SECONDS
from ajit._cache.entries.lists import ListStore
from ajit._cache.entries.node_digests import NodeDigests
from ajit._core.reads import BASE_DIGITS, Read, ReadingList
from tests.cache.artifacts import a_key
from tests.cache.helpers import age, left, put, size_of

if TYPE_CHECKING:
    from ajit._cache.entries.disk import DiskStore
    from ajit._cache.files.directory import CacheDirectory

HOUR = 3600.0
DAY = 24 * HOUR


def put_list(directory: CacheDirectory, base: str, *, idle: float, name: str = "a.h") -> Path:
    """Publish a list that was last used so long ago, and return its file."""
    made = ReadingList((Read("i0", name, "file"),))
    assert ListStore(directory).publish(base, made) == ""
    file = Path(directory.path, "reads", base[:2], base, made.digest)
    age(file, idle)
    return file


def base_of(key: str) -> str:
    """A base key that shares its first digits with an entry's key, and no more."""
    return key[:BASE_DIGITS] + a_key("rest")[BASE_DIGITS:]


def test_a_list_of_a_base_without_entries_is_removed(store: DiskStore, directory):
    """It leads nowhere. Its folder goes, too; the list of an entry that is there stays."""
    key = put(store, "there", idle=DAY)
    lost = put_list(directory, a_key("gone"), idle=LIST_SECONDS + 1)
    used = put_list(directory, base_of(key), idle=DAY)

    plan = Collector(directory, Limits()).plan()
    assert plan.reasons == {"list that leads to no entry": 1}
    assert Collector(directory, Limits()).collect().debris == 1

    assert not lost.parent.exists()
    assert used.exists()
    assert left(store) == {key}


def test_a_list_is_kept_for_a_while_without_an_entry(directory):
    """Its entry may have been removed to be compiled again just now."""
    new = put_list(directory, a_key("gone"), idle=LIST_SECONDS - 60)

    assert Collector(directory, Limits()).collect().debris == 0
    assert new.exists()


def test_a_list_just_published_is_not_removed(directory):
    """However small the cache is to be."""
    new = put_list(directory, a_key("new"), idle=FRESH_SECONDS / 2)

    Collector(directory, Limits(max_bytes=1, max_age_seconds=1)).collect()

    assert new.exists()


def test_lists_count_and_go_like_entries(store: DiskStore, directory):
    """The least recently used file goes, whichever it is, until the rest fits."""
    key = put(store, "there", idle=HOUR)
    stale = put_list(directory, base_of(key), idle=2 * DAY, name="stale.h")
    used = put_list(directory, base_of(key), idle=HOUR, name="used.h")
    fits = size_of(store, key) + used.stat().st_size
    assert Collector(directory, Limits(max_bytes=fits)).plan().kept_bytes == fits

    done = Collector(directory, Limits(max_bytes=fits)).collect()

    assert (done.entries, done.debris) == (0, 1)
    assert (stale.exists(), used.exists(), left(store)) == (False, True, {key})


def test_a_list_past_the_age_limit_is_removed(store: DiskStore, directory):
    """The entry of its base was used by another list."""
    key = put(store, "there", idle=HOUR)
    stale = put_list(directory, base_of(key), idle=8 * DAY)

    plan = Collector(directory, Limits(max_age_seconds=7 * DAY)).plan()
    Collector(directory, Limits(max_age_seconds=7 * DAY)).collect()

    assert plan.reasons == {"age": 1}
    assert (stale.exists(), left(store)) == (False, {key})


def test_an_entry_and_its_list_stay_while_the_lease_of_their_base_is_held(
    store: DiskStore, directory, table, start_peer
):
    """A lease is the base's. Another process may be about to publish under it."""
    key = put(store, "held", idle=DAY)
    held = put_list(directory, base_of(key), idle=DAY)
    start_peer().ask("acquire", base_of(key))

    done = Collector(directory, Limits(max_age_seconds=HOUR)).collect()

    assert {skip.reason for skip in done.skipped} == {"its lease is held"}
    assert len(done.skipped) == 2
    assert (held.exists(), left(store)) == (True, {key})


def test_removing_leaves_no_lock_file_behind(store: DiskStore, directory, path: Path):
    """Lock files stay for ever: none is made for an entry that was never leased here."""
    key = put(store, "copied", idle=DAY)
    put_list(directory, base_of(key), idle=DAY)
    Collector(directory, Limits(max_age_seconds=HOUR)).collect()

    locks = [file.name for file in path.glob("locks/*/*")]
    assert locks == [f"{EVICTION_LEASE}.lock"]


def test_a_list_that_was_used_after_the_plan_stays(directory):
    """As an entry does."""
    file = put_list(directory, a_key("gone"), idle=DAY)
    collector = Collector(directory, Limits())
    plan = collector.plan()
    age(file, 0)

    assert collector.perform(plan).debris == 0
    assert file.exists()


def test_files_that_are_no_lists_stay(directory, path: Path):
    """Names that are no base's, or no digest's."""
    foreign = [
        path / "reads" / "ab" / "README" / "it",
        path / "reads" / a_key()[:2] / a_key() / "x",
    ]
    for file in foreign:
        file.parent.mkdir(parents=True)
        file.write_text("ours")
        age(file, 2 * DAY)

    assert Collector(directory, Limits(max_bytes=1, max_age_seconds=1)).collect().debris == 0
    assert all(file.exists() for file in foreign)


def test_digests_of_machines_long_gone_are_removed(directory: CacheDirectory, path: Path):
    """Each machine has one file; that of a machine that is there is touched when it is read."""
    node = NodeDigests(directory)
    node.learned({(1, 2, 3, 4, 5): "0" * 64})
    node.close()
    ours = path / node.name
    bygone = ours.with_name("bygone-0123456789abcdef")
    bygone.write_bytes(ours.read_bytes())
    age(bygone, DIGEST_SECONDS + 1)

    assert Collector(directory, Limits()).plan().reasons == {"digests of a bygone machine": 1}
    assert Collector(directory, Limits()).collect().debris == 1
    assert [ours] == list(ours.parent.iterdir())


def test_digests_count_and_go_like_entries(directory: CacheDirectory, path: Path):
    """Containers with a new name each time must not fill a cache with theirs."""
    bygone = [path / "digests" / f"pod-{number:016}" for number in range(3)]
    for number, file in enumerate(bygone):
        file.write_bytes(bytes(1000))
        age(file, (3 - number) * DAY)

    done = Collector(directory, Limits(max_bytes=1500)).collect()

    assert (done.debris, done.bytes) == (2, 2000)
    assert [file.exists() for file in bygone] == [False, False, True]


def test_no_file_is_in_a_plan_twice(directory: CacheDirectory, path: Path):
    """Whatever reasons there are to remove it."""
    file = path / "digests" / "bygone-0123456789abcdef"
    file.write_bytes(bytes(1000))
    age(file, 2 * DIGEST_SECONDS)

    plan = Collector(directory, Limits(max_bytes=1, max_age_seconds=HOUR)).plan()
    assert [doomed.reason for doomed in plan.debris] == ["age"]
