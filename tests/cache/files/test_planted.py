"""What another user has put below a cache directory is neither used nor touched."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ajit._cache.entries.disk import DiskStore, Found, Published, PublishFailed, Rejected
from ajit._cache.entries.failures import FailureStore
from ajit._cache.entries.lists import ListStore
from ajit._cache.files import fs
from ajit._cache.files.directory import open_cache_directory
from ajit._cache.files.folders import MAX_KEPT
from ajit._cache.leases.permits import CompilePermits
from ajit._cache.leases.table import Lease, LeaseTable, Unavailable
from ajit._core.reads import Read, ReadingList
from ajit.errors import CompileError, UnsafeCacheDirectory
from tests.cache.artifacts import a_job, a_key, an_artifact
from tests.cache.helpers import entry_file, lock_file, open_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ajit._cache.files.directory import CacheDirectory

MALLORY = 65534
KEY = a_key()
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for other users")


def as_mallory(action: Callable[[], None]) -> None:
    """Do something as another user, in a child."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(MALLORY)
            os.setuid(MALLORY)
            action()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users can reach, as pytest's own cannot."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def the_file(path: Path, kind: str) -> Path:
    """A file of each kind, below the cache."""
    base = KEY
    return {
        "entry": path / "entries" / KEY[:2] / f"{KEY}.ajit",
        "list": path / "reads" / base[:2] / base / a_list().digest,
        "failure": path / "failures" / base[:2] / f"{base}.json",
        "lock": path / "locks" / base[:2] / f"{base}.lock",
    }[kind]


def a_list() -> ReadingList:
    """A reading list."""
    return ReadingList((Read("i0", "a.cuh", "file"),))


def fill(directory: CacheDirectory) -> None:
    """Put one of each kind into the cache."""
    assert isinstance(DiskStore(directory).publish(an_artifact(KEY)), Published)
    assert ListStore(directory).publish(KEY, a_list()) == ""
    error = CompileError(name="k", key=KEY, compiler="c", log="planted")
    assert FailureStore(directory).record(error)
    lease = LeaseTable(directory).try_acquire(KEY, "nvrtc")
    assert isinstance(lease, Lease)
    lease.release()


def uses(directory: CacheDirectory, kind: str) -> bool:
    """Whether the file of that kind has an effect."""
    if kind == "entry":
        return isinstance(DiskStore(directory).read(KEY), Found)
    if kind == "list":
        return a_list().digest in [digest for digest, _ in ListStore(directory).lists(KEY)]
    if kind == "failure":
        return FailureStore(directory).recall(KEY) is not None
    lease = LeaseTable(directory).try_acquire(KEY, "nvrtc")
    if isinstance(lease, Lease):
        lease.release()
    return isinstance(lease, Lease)


KINDS = ["entry", "list", "failure", "lock"]


@only_root
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["own", "own and open", "link"])
def test_a_planted_shard_is_not_used(place: Path, kind: str, how: str):
    """Made while the directory was open to all; the directory was closed, and nothing removed."""
    path = place / "cache"
    fill(open_cache_directory(path))
    shard = the_file(path, kind).parent
    elsewhere = place / "elsewhere"
    shutil.copytree(shard, elsewhere)
    if how == "link":
        shutil.rmtree(shard)
        shard.symlink_to(elsewhere)
    for made in (elsewhere, shard, *elsewhere.rglob("*"), *shard.rglob("*")):
        os.chown(made, MALLORY, MALLORY, follow_symlinks=False)
    if how == "own and open":
        shard.chmod(0o777)

    directory = open_cache_directory(path)

    assert not uses(directory, kind)
    before = sorted(shard.iterdir())
    published = DiskStore(directory).publish(an_artifact(KEY, b"mine"))
    if kind == "entry":
        assert isinstance(published, PublishFailed)
        assert f"entries/{KEY[:2]}" in published.reason
        assert "remove" in published.reason
    assert sorted(shard.iterdir()) == before


@only_root
def test_the_way_that_was_advised_runs_nothing_of_others(place: Path):
    """World-writable, planted by another user, then `chmod go-w`: what he made is not run."""
    path = place / "cache"
    fill(open_cache_directory(path))
    stolen = place / "entry"
    shutil.copy(the_file(path, "entry"), stolen)
    stolen.chmod(0o644)
    shutil.rmtree(path / "entries" / KEY[:2])
    for made in (path, path / "entries"):
        made.chmod(0o777)

    def plant() -> None:
        shard = path / "entries" / KEY[:2]
        shard.mkdir()
        shard.chmod(0o777)
        shutil.copy(stolen, shard / f"{KEY}.ajit")

    as_mallory(plant)
    with pytest.raises(UnsafeCacheDirectory, match="remove it") as caught:
        open_cache_directory(path)
    for made in (path, path / "entries"):
        made.chmod(0o755)

    assert "chmod" not in str(caught.value)
    assert not isinstance(DiskStore(open_cache_directory(path)).read(KEY), Found)


@only_root
@pytest.mark.parametrize("kind", ["entry", "list", "failure"])
@pytest.mark.parametrize("how", ["owner", "mode"])
def test_a_file_of_another_user_is_not_used_in_a_shard_of_ours(path: Path, kind: str, how: str):
    """Planted while the shard was open to all; the entry counts as bad, and is replaced."""
    directory = open_cache_directory(path)
    fill(directory)
    file = the_file(path, kind)
    if how == "owner":
        os.chown(file, MALLORY, MALLORY)
    else:
        file.chmod(0o646)

    assert not uses(directory, kind)
    if kind == "entry":
        store = DiskStore(directory)
        assert isinstance(store.read(KEY), Rejected)
        assert isinstance(store.publish(an_artifact(KEY), replace=True), Published)
        assert isinstance(store.read(KEY), Found)
        assert file.stat().st_uid == os.geteuid()


@pytest.mark.parametrize("top", ["entries", "reads", "locks", "failures"])
def test_a_top_directory_that_became_a_link_is_not_followed(path: Path, tmp_path: Path, top: str):
    """Also after the cache was opened."""
    directory = open_cache_directory(path)
    fill(directory)
    fresh = open_cache_directory(path)
    shutil.move(path / top, tmp_path / "elsewhere")
    (path / top).symlink_to(tmp_path / "elsewhere")

    kind = {"entries": "entry", "reads": "list", "locks": "lock", "failures": "failure"}[top]
    assert not uses(fresh, kind)


def test_temporaries_are_not_written_through_a_link(path: Path, tmp_path: Path):
    """A link in the place of ``tmp`` leads nothing out of the cache."""
    directory = open_cache_directory(path)
    (tmp_path / "elsewhere").mkdir()
    (path / "tmp").rmdir()
    (path / "tmp").symlink_to(tmp_path / "elsewhere")
    made = []
    real = os.open

    def watched(name: object, flags: int, *args: int, **kwargs: int) -> int:
        if flags & os.O_CREAT:
            made.append(name)
        return real(name, flags, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", watched)
        published = DiskStore(directory).publish(an_artifact(KEY))

    assert isinstance(published, PublishFailed)
    assert made == []


@only_root
def test_a_note_that_another_process_waits_for_permits_is_not_written_over_a_foreign_file(
    path: Path, tmp_path: Path
):
    """The file of permits is opened as a lock file is."""
    directory = open_cache_directory(path)
    permits = CompilePermits(directory, 1)
    held = permits.try_admit(a_job())
    assert held is not None
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious" * 100)
    waiting = path / permits._waiting_file()
    os.link(precious, waiting)

    permits._note_waiting()
    held.release()

    assert precious.read_bytes() == b"precious" * 100


@pytest.mark.parametrize("how", ["hard link", "link", "fifo", "directory", "unreadable"])
def test_a_lock_file_that_is_none_is_replaced_and_never_written(
    path: Path, tmp_path: Path, how: str
):
    """A hard link to another file is not overwritten; the lease is there all the same."""
    directory = open_cache_directory(path)
    fill(directory)
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious" * 200)
    lock = lock_file(path)
    lock.unlink()
    if how == "hard link":
        os.link(precious, lock)
    elif how == "link":
        lock.symlink_to(precious)
    elif how == "fifo":
        os.mkfifo(lock)
    elif how == "directory":
        lock.mkdir()
        (lock / "file").write_text("kept")
    else:
        lock.write_bytes(b"")
        lock.chmod(0)

    assert LeaseTable(directory).read_holder(KEY) is None
    lease = LeaseTable(directory).try_acquire(KEY, "nvrtc")
    assert isinstance(lease, Lease)
    lease.beat("compiling")
    lease.release()

    assert precious.read_bytes() == b"precious" * 200
    assert stat.S_ISREG(lock.lstat().st_mode)
    assert lock.stat().st_nlink == 1
    if how == "directory":
        assert [file.read_text() for file in path.glob("tmp/*/file")] == ["kept"]


@only_root
def test_a_lock_file_of_another_user_is_replaced(path: Path):
    """He could hold its lock for ever, and nothing would say so."""
    directory = open_cache_directory(path)
    fill(directory)
    os.chown(lock_file(path), MALLORY, MALLORY)

    assert uses(directory, "lock")
    assert lock_file(path).stat().st_uid == os.geteuid()


def test_a_bad_lock_file_in_a_cache_that_is_not_writable_is_no_lease(read_only_mount, tmp_path):
    """It cannot be replaced; the reason is told."""
    path = read_only_mount.place / "cache"
    directory = open_cache_directory(path)
    fill(directory)
    lock_file(path).unlink()
    os.link(the_file(path, "entry"), lock_file(path))
    read_only_mount()

    assert isinstance(LeaseTable(directory).try_acquire(KEY, "nvrtc"), Unavailable)


# --- descriptors that are kept ---


def test_descriptors_of_shards_are_few(path: Path):
    """However many shards are read: those kept have a bound, and go with the last user."""
    directory = open_cache_directory(path)
    store = DiskStore(directory)
    keys = [a_key(number) for number in range(400)]
    for key in keys[:300]:
        store.publish(an_artifact(key))
    for key in keys:
        store.read(key)
        LeaseTable(directory).try_acquire(key, "nvrtc").release()

    assert len(open_descriptors(path)) <= 1 + MAX_KEPT

    del directory, store

    assert not open_descriptors(path)


@pytest.mark.parametrize("removed", ["", "entries", "entries/{}"])
@pytest.mark.parametrize("how", ["removed", "moved away"])
@pytest.mark.parametrize("remade", [False, True])
def test_a_shard_that_was_renewed_is_noticed(path: Path, removed: str, how: str, remade: bool):  # noqa: FBT001
    """Removed or moved away, at any depth, and perhaps made again by another process."""
    directory = open_cache_directory(path)
    store = DiskStore(directory)
    store.publish(an_artifact(KEY))
    assert isinstance(store.read(KEY), Found)
    gone = path / removed.format(KEY[:2])
    if how == "removed":
        shutil.rmtree(gone)
    else:
        gone.rename(path.parent / "moved")
    if remade:
        DiskStore(open_cache_directory(path)).publish(an_artifact(KEY, b"new"))

    # A directory that was moved is still the one that was opened; only its name shows the change.
    if remade and removed:
        if how == "removed":
            assert store.read(KEY).artifact.data == b"new"
    elif how == "removed":
        assert not isinstance(store.read(KEY), Found)
    store.publish(an_artifact(KEY, b"new"), replace=True)

    if removed or how == "removed":
        assert isinstance(DiskStore(open_cache_directory(path)).read(KEY), Found)
    assert isinstance(store.read(KEY), Found)
    assert entry_file(store, KEY).exists() or not removed


def test_no_descriptors_left_means_no_kept_ones(path: Path):
    """Where the process has no more descriptors, those that are kept are given up first."""
    directory = open_cache_directory(path)
    store = DiskStore(directory)
    keys = [a_key(number) for number in range(60)]
    for key in keys:
        store.publish(an_artifact(key))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(fd.name) for fd in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    fillers: list[int] = []
    try:
        with suppress(OSError):  # until there are no more
            for _ in range(highest):
                fillers.append(os.dup(0))  # noqa: PERF401 - those that were made are to be closed
        found = [store.read(key) for key in keys]
    finally:
        for filler in fillers:
            os.close(filler)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert len(fillers) < highest
    assert all(isinstance(look, Found) for look in found)
    assert fs.list_names(directory, "entries")
