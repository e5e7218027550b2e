"""`ajit cache prune`: shows what it would remove, removes exactly that, and says what stays."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

from ajit._cache.entries.collector import EVICTION_LEASE
from ajit._cache.entries.disk import DiskStore
from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases.table import LeaseTable
from ajit.cli import exits
from tests.cache.artifacts import an_artifact
from tests.images import a_cubin

DAY = 86400.0


@pytest.fixture
def store(ajit):
    """The store of the test's cache."""
    return DiskStore(open_cache_directory(ajit.cache_dir))


def put(store, label, *, idle, size=5000):
    """Publish an artifact that was last used so many seconds ago, and return its key."""
    key = hashlib.sha256(label.encode()).hexdigest()
    image = a_cubin(["_Z5saxpyIfEv"])
    store.publish(an_artifact(key, a_cubin(["_Z5saxpyIfEv"], b"x" * (size - len(image)))[:size]))
    then = time.time() - idle
    os.utime(f"{store.directory.path}/entries/{key[:2]}/{key}.ajit", (then, then))
    return key


def left(store):
    """Keys of the entries that are there."""
    return {info.key for info in store.entries()}


def test_dry_run_shows_exactly_what_is_removed_without_it(ajit, store):
    """The same files in the same order; the dry run changes nothing."""
    keys = [put(store, str(number), idle=DAY * (9 - number)) for number in range(4)]
    temporary = ajit.cache_dir / "tmp" / "other.1.2.3.0123456789abcdef"
    temporary.write_bytes(b"half")
    os.utime(temporary, (1, 1))

    dry = ajit("cache", "prune", "--max-bytes", "11KiB", "--dry-run", "--json").json()
    assert left(store) == set(keys)
    assert temporary.exists()
    wet = ajit("cache", "prune", "--max-bytes", "11KiB", "--json").json()

    assert (True, False) == (dry["dry_run"], wet["dry_run"])
    assert [item["file"] for item in dry["removed"]] == [item["file"] for item in wet["removed"]]
    assert ["size", "size", "orphaned temporary file"] == [i["reason"] for i in wet["removed"]]
    assert set(keys[2:]) == left(store)
    assert 2 == wet["kept_entries"]
    assert not temporary.exists()


def test_prune_draws_what_went_and_what_is_kept(ajit, store):
    """For people: sizes and ages in units."""
    old = put(store, "old", idle=3 * DAY)
    put(store, "new", idle=0)

    shown = ajit("cache", "prune", "--max-age", "2d", "--dry-run").out
    pruned = ajit("cache", "prune", "--max-age", "2d").out
    again = ajit("cache", "prune", "--max-age", "2d").out

    for text in (old[:12], "5.4 KiB", "3 days", "age", "would remove: 1 file of", "kept: 1 entry"):
        assert text in shown
    assert "removed: 1 file of" in pruned
    assert "nothing to remove" in again
    assert "above the limit" not in again


def test_prune_says_why_a_cache_stays_above_its_limit(ajit, store):
    """What was used just now is not removed: else it would look as if the limit did not count."""
    put(store, "new", idle=0)
    said = ajit("cache", "prune", "--max-bytes", "1KiB").out

    assert "nothing to remove, kept: 1 entry of 5.4 KiB, above the limit of 1.0 KiB" in said
    assert "used in the last minute" in said


def test_limits_come_from_the_settings(ajit, store):
    """Without options it does what a server does in the background."""
    put(store, "old", idle=DAY)

    ended = ajit("cache", "prune", "--json", AJIT_CACHE_LIMIT_BYTES="1").json()

    assert 1 == ended["limit_bytes"]
    assert set() == left(store)


def test_a_leased_entry_stays_and_the_command_exits_with_three(ajit, store):
    """The file and the reason go to standard error."""
    key = put(store, "held", idle=DAY)
    with LeaseTable(store.directory).try_acquire(key, "nvrtc"):
        ended = ajit("cache", "prune", "--max-age", "1h", "--json")

    assert exits.PARTLY == ended.code
    assert "its lease is held" in ended.err
    assert {key} == left(store)


def test_two_prunes_at_once_are_one(ajit, store):
    """The second one says so, and does nothing."""
    key = put(store, "old", idle=DAY)
    with LeaseTable(store.directory).try_acquire(EVICTION_LEASE, "eviction"):
        ended = ajit("cache", "prune", "--max-age", "1h")

    assert exits.ENVIRONMENT == ended.code
    assert "another process is removing" in ended.err
    assert {key} == left(store)


@pytest.mark.parametrize(
    ("option", "text"), [("--max-bytes", "4 gibs"), ("--max-age", "-1h"), ("--max-age", "1 moon")]
)
def test_an_invalid_quantity_is_a_usage_error(ajit, option, text):
    """With an example of one that is."""
    ended = ajit("cache", "prune", f"{option}={text}")

    assert exits.USAGE == ended.code
    assert "write it like" in ended.err
