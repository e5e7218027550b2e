"""The cache directory: made private, checked, and usable as far as it goes."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ajit._cache.entries.disk import DiskStore, Found, Missing, Published, PublishFailed
from ajit._cache.files.directory import SUBDIRECTORIES, open_cache_directory
from ajit._cache.files.marker import MARKER
from ajit._cache.leases.table import Lease, LeaseTable, Unavailable
from ajit.errors import CacheError, UnsafeCacheDirectory
from tests.cache.artifacts import a_key, an_artifact
from tests.cache.helpers import open_descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for other users")


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o377])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Friendly and hostile umasks."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_missing_directory_is_made_private_with_its_parents(tmp_path: Path, umask: int):
    """Whatever the umask, the cache and the parents made for it are for their owner alone."""
    path = tmp_path / "a" / "b" / "cache"

    directory = open_cache_directory(path)

    assert directory.access == "writable"
    assert directory.path == str(path)
    for made in (path, path.parent, path.parent.parent, *(path / name for name in SUBDIRECTORIES)):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700, made


def test_files_are_private_whatever_the_umask(path: Path, umask: int):
    """Entries and lock files can be read and written by their owner only."""
    directory = open_cache_directory(path)

    assert isinstance(DiskStore(directory).publish(an_artifact(a_key())), Published)
    lease = LeaseTable(directory).try_acquire(a_key(), "nvrtc")
    assert isinstance(lease, Lease)
    lease.release()

    files = [file for file in path.rglob("*") if file.is_file() and file.name != MARKER]
    assert len(files) == 2
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700, file.parent


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_in_its_place_is_an_error(tmp_path: Path, below: str):
    """A cache directory that is a file, or has one as a parent, is refused by name."""
    (tmp_path / "file").write_text("not a directory")

    with pytest.raises(CacheError, match="not a directory") as caught:
        open_cache_directory(tmp_path / "file" / below)

    assert str(tmp_path / "file") in caught.value.path


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777, 0o1777])
def test_a_directory_that_others_can_write_is_refused_unless_allowed(path: Path, mode: int):
    """Group or world may write: refused with what to do, and used when asked for explicitly."""
    path.mkdir()
    path.chmod(mode)

    says = r"set AJIT_CACHE_DIR to a new one, such as .*/ajit, or"
    with pytest.raises(UnsafeCacheDirectory, match=says):
        open_cache_directory(path)

    assert list(path.iterdir()) == []
    assert open_cache_directory(path, allow_unsafe=True).access == "writable"


@only_root
def test_a_directory_of_another_user_is_refused_unless_allowed(path: Path):
    """The owner of the directory can put code into it."""
    path.mkdir(mode=0o700)
    os.chown(path, NOBODY, NOBODY)

    with pytest.raises(UnsafeCacheDirectory, match=f"user {NOBODY}"):
        open_cache_directory(path)

    assert open_cache_directory(path, allow_unsafe=True).access == "writable"


def test_a_subdirectory_that_others_can_write_is_refused(path: Path):
    """A safe directory does not make an unsafe one inside it safe."""
    open_cache_directory(path)
    (path / "entries").chmod(0o777)

    with pytest.raises(UnsafeCacheDirectory, match="entries"):
        open_cache_directory(path)


@pytest.mark.parametrize("name", SUBDIRECTORIES)
def test_a_link_out_of_the_cache_is_not_followed(path: Path, tmp_path: Path, name: str):
    """Below the cache directory, a symbolic link in a directory's place is an error."""
    path.mkdir(mode=0o700)
    (path / name).symlink_to(tmp_path)

    with pytest.raises(CacheError, match=f"{name} in it is not a directory"):
        open_cache_directory(path)


def test_a_link_to_the_cache_is_the_same_cache(path: Path, tmp_path: Path):
    """The directory itself may be reached by a link: both names are one cache."""
    directory = open_cache_directory(path)
    (tmp_path / "link").symlink_to(path)

    assert open_cache_directory(tmp_path / "link").identity == directory.identity


def test_a_read_only_cache_is_read_and_not_written(read_only_mount):
    """On a read-only file system entries are found; publishing and locking say why they fail."""
    path = read_only_mount.place / "cache"
    DiskStore(open_cache_directory(path)).publish(an_artifact(a_key("old")))
    read_only_mount()

    directory = open_cache_directory(path)
    store = DiskStore(directory)
    published = store.publish(an_artifact(a_key("new")))
    lease = LeaseTable(directory).try_acquire(a_key("new"), "nvrtc")

    assert directory.access == "read-only"
    assert isinstance(store.read(a_key("old")), Found)
    assert isinstance(published, PublishFailed)
    assert "read-only" in published.reason
    assert isinstance(lease, Unavailable)
    assert "Read-only" in lease.reason


def test_a_cache_that_cannot_be_made_is_absent(read_only_mount):
    """Where no directory can be made there is no cache, and everything says so without raising."""
    path = read_only_mount() / "cache"

    directory = open_cache_directory(path)
    store, table = DiskStore(directory), LeaseTable(directory)

    assert directory.access == "none"
    assert store.read(a_key()) == Missing()
    assert store.publish(an_artifact(a_key())) == PublishFailed(
        f"cache is absent: {directory.problem}"
    )
    assert table.try_acquire(a_key(), "nvrtc") == Unavailable(directory.problem)
    assert table.read_holder(a_key()) is None
    assert list(store.entries()) == []
    assert "Read-only file system" in directory.problem


@only_root
def test_a_cache_of_root_is_read_only_for_others(request, start_peer):
    """A warm cache made by root serves other users, who cannot write to it."""
    # pytest's own directories are closed to other users.
    path = Path(tempfile.mkdtemp()) / "cache"
    request.addfinalizer(partial(shutil.rmtree, path.parent))
    DiskStore(open_cache_directory(path)).publish(an_artifact(a_key("readable")))
    DiskStore(open_cache_directory(path)).publish(an_artifact(a_key("private")))
    for made in path.rglob("*"):
        made.chmod(0o755 if made.is_dir() else 0o644)
    path.parent.chmod(0o755)
    path.chmod(0o755)
    (path / "entries" / a_key("private")[:2] / f"{a_key('private')}.ajit").chmod(0o600)
    peer = start_peer(on=path, user=NOBODY)

    assert peer.ask("access")["access"] == "read-only"
    assert peer.ask("read", a_key("readable"))["outcome"] == "Found"
    unreadable = peer.ask("read", a_key("private"))
    assert (unreadable["outcome"], "Permission denied" in unreadable["reason"]) == (
        "Rejected",
        True,
    )
    assert peer.ask("publish", a_key("new"), "data")["outcome"] == "PublishFailed"
    assert peer.ask("acquire", a_key("new"))["outcome"] == "Unavailable"


def test_a_removed_cache_is_made_again(path: Path):
    """A running server's cache is removed with ``rm -rf``: it goes on with a new one."""
    directory = open_cache_directory(path)
    store, table = DiskStore(directory), LeaseTable(directory)
    store.publish(an_artifact(a_key()))
    shutil.rmtree(path)

    assert store.read(a_key()) == Missing()
    assert isinstance(store.publish(an_artifact(a_key())), Published)
    assert isinstance(store.read(a_key()), Found)
    shutil.rmtree(path)
    lease = table.try_acquire(a_key(), "nvrtc")
    assert isinstance(lease, Lease)
    lease.release()
    assert open_cache_directory(path).identity == directory.identity


def test_a_removed_cache_that_became_unsafe_is_not_used(path: Path):
    """The directory that replaces a removed one is checked like the first one."""
    directory = open_cache_directory(path)
    store, table = DiskStore(directory), LeaseTable(directory)
    shutil.rmtree(path)
    path.mkdir()
    path.chmod(0o777)

    published = store.publish(an_artifact(a_key()))
    lease = table.try_acquire(a_key(), "nvrtc")

    assert isinstance(published, PublishFailed)
    assert "could put code there" in published.reason
    assert isinstance(lease, Unavailable)
    assert list(path.iterdir()) == []


def test_the_descriptor_is_closed_with_the_last_user(path: Path):
    """A directory that is no longer used leaves no descriptor open."""
    directory = open_cache_directory(path)
    store = DiskStore(directory)
    assert len(open_descriptors(path)) == 2  # the directory, and tmp in it

    del directory, store

    assert not open_descriptors(path)
