"""A cache shared with a group: by an explicit setting, and with its members only."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ajit._cache.entries.collector import Collector, Limits
from ajit._cache.entries.disk import DiskStore, Found, Published, Rejected
from ajit._cache.files.directory import SUBDIRECTORIES, open_cache_directory
from ajit._cache.leases.table import Busy, Lease, LeaseTable
from ajit._core.seal import HmacKey, Trust
from ajit.errors import CacheError, UnsafeCacheDirectory
from tests.cache.artifacts import a_key, an_artifact

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
GROUP = str(NOBODY)
KEY = a_key()

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for other users")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that other users can reach, as pytest's own cannot."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def mode_and_group(path: Path) -> tuple[int, int]:
    """Permission bits and group."""
    status = path.stat()
    return stat.S_IMODE(status.st_mode), status.st_gid


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_directories_and_files_are_the_groups(folder: Path, umask: int):
    """Whatever the umask. A directory made above the cache lets the group through, no more."""
    before = os.umask(umask)
    try:
        store = DiskStore(open_cache_directory(folder / "a" / "cache", shared_group=GROUP))
        assert isinstance(store.publish(an_artifact(KEY)), Published)
        LeaseTable(store.directory).try_acquire(KEY, "nvrtc").release()
    finally:
        os.umask(before)

    cache = folder / "a" / "cache"
    for made in (cache, *(cache / name for name in SUBDIRECTORIES), cache / "entries" / KEY[:2]):
        assert mode_and_group(made) == (0o2770, NOBODY), made
    for file in (cache / f"entries/{KEY[:2]}/{KEY}.ajit", cache / f"locks/{KEY[:2]}/{KEY}.lock"):
        assert mode_and_group(file) == (0o660, NOBODY), file
    assert mode_and_group(folder / "a") == (0o710, NOBODY)


def test_members_use_each_others_entries_and_leases(folder: Path, start_peer):
    """Two users, one cache: found, leased in turn, replaced and evicted by either."""
    cache = folder / "cache"
    store = DiskStore(open_cache_directory(cache, shared_group=GROUP))
    table = LeaseTable(store.directory)
    store.publish(an_artifact(KEY))
    member = start_peer(on=cache, user=NOBODY, shared_group=GROUP)
    assert member.ask("access")["access"] == "writable"

    assert member.ask("read", KEY)["outcome"] == "Found"
    assert member.ask("publish", a_key("theirs"), "data")["outcome"] == "Published"
    assert isinstance(store.read(a_key("theirs")), Found)
    with table.try_acquire(KEY, "nvrtc"):
        assert member.ask("acquire", KEY)["outcome"] == "Busy"
    assert member.ask("acquire", KEY)["outcome"] == "Lease"
    member.ask("release", KEY)
    lease = table.try_acquire(a_key("theirs"), "nvrtc")
    assert isinstance(lease, Lease)
    lease.release()

    for entry in cache.glob("entries/*/*.ajit"):
        os.utime(entry, (1, 1))
    assert Collector(store.directory, Limits(max_age_seconds=60)).collect().entries == 2


def test_a_cache_that_a_member_made_is_accepted(folder: Path, start_peer):
    """Its owner is in the group: that is whom it is shared with."""
    member = start_peer(on=folder / "cache", user=NOBODY, shared_group=GROUP)
    member.ask("publish", KEY, "data")

    store = DiskStore(open_cache_directory(folder / "cache", shared_group=GROUP))

    assert isinstance(store.read(KEY), Found)


def test_without_the_setting_a_groups_cache_is_refused(folder: Path):
    """Sharing is explicit on both sides; the message names the setting."""
    open_cache_directory(folder / "cache", shared_group=GROUP)

    with pytest.raises(UnsafeCacheDirectory, match="AJIT_SHARED_GROUP"):
        open_cache_directory(folder / "cache")


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "reason"),
    [
        (0o2777, 0, NOBODY, "other users may write"),
        (0o0772, 0, NOBODY, "other users may write"),
        (0o2770, 0, 1, "of group 1"),
        (0o2770, 1, NOBODY, "belongs to user 1"),
        (0o0700, 1, NOBODY, "belongs to user 1"),
        (0o0700, 4_000_000, 1, "belongs to user 4000000"),
    ],
)
def test_a_directory_open_to_others_is_refused_all_the_same(folder, mode, uid, gid, reason):
    """All users, another group, an owner outside of the group, a user unknown here."""
    cache = folder / "cache"
    cache.mkdir()
    os.chown(cache, uid, gid)
    cache.chmod(mode)

    with pytest.raises(UnsafeCacheDirectory, match=reason):
        open_cache_directory(cache, shared_group=GROUP)
    assert list(cache.iterdir()) == []


def test_a_group_that_is_not_there_is_an_error(folder: Path):
    """A misspelt group must not mean a private cache."""
    with pytest.raises(CacheError, match="no group 'no-such-group'"):
        open_cache_directory(folder / "cache", shared_group="no-such-group")
    assert not (folder / "cache").exists()


def test_a_group_that_we_are_not_in_is_an_error(folder: Path, monkeypatch):
    """We could not make anything that belongs to it."""
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    monkeypatch.setattr(os, "getgroups", list)

    with pytest.raises(CacheError, match="this user is not in it"):
        open_cache_directory(folder / "cache", shared_group="1")


def test_a_member_without_the_secret_is_not_believed(folder: Path, start_peer):
    """Another user of the group puts an entry there, replaces one, holds a lease and beats."""
    secret = Trust("hmac", [HmacKey(b"a secret of the servers")])
    directory = open_cache_directory(folder / "cache", shared_group=GROUP)
    store, table = DiskStore(directory, secret), LeaseTable(directory, secret)
    store.publish(an_artifact(KEY))
    member = start_peer(on=folder / "cache", user=NOBODY, shared_group=GROUP)
    assert member.ask("read", KEY)["outcome"] == "Found"
    assert member.ask("publish", a_key("theirs"), "evil")["outcome"] == "Published"
    member.ask("acquire", KEY)
    member.ask("beat", KEY, "compiling")

    assert isinstance(store.read(a_key("theirs")), Rejected)
    assert isinstance(store.publish(an_artifact(a_key("theirs")), replace=True), Published)
    assert isinstance(store.read(a_key("theirs")), Found)
    assert table.try_acquire(KEY, "nvrtc") == Busy(None)
    assert LeaseTable(directory).read_holder(KEY).pid == member.pid
