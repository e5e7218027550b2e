"""Caches as containers have them: of other owners, of groups, of users without a name.

Each situation of the table in docs/cache.md: used, used read-only, or refused with what to do; and
with an HMAC secret, used as far as the file system allows.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ajit._cache.entries.disk import DiskStore, Found, Missing, Rejected
from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases.table import Lease, LeaseTable
from ajit._core.seal import NO_TRUST, HmacKey, Trust
from ajit.errors import CacheError
from tests.cache.artifacts import a_key, an_artifact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for other users")

SECRET = Trust("hmac", [HmacKey(b"the secret of these pods")])
POD, OTHER_POD = 1_000_650_000, 1_000_660_000
"""Users without a name, as OpenShift gives them."""

APP, FS_GROUP = 1000, 2000
OLD, NEW = a_key("old"), a_key("new")


@dataclass
class Used:
    """What a process could do with a cache.

    Attributes:
        access: As the directory says; ``refused`` if it was.
        words: The error or the problem.
        found: Whether it found the entry that was there.
        stored: Whether an entry that it published is found.
        leased: Whether it got a lease.
    """

    access: str
    words: str = ""
    found: bool = False
    stored: bool = False
    leased: bool = False


def use(path: Path, *, secret: Trust = NO_TRUST, shared_group: str = "") -> Used:
    """Use a cache as a server does."""
    try:
        directory = open_cache_directory(
            path, shared_group=shared_group, authenticated=secret.required != "none"
        )
    except CacheError as exc:
        return Used("refused", str(exc))
    store = DiskStore(directory, secret)
    published = store.publish(an_artifact(NEW))
    lease = LeaseTable(directory).try_acquire(NEW, "nvrtc")
    if isinstance(lease, Lease):
        lease.release()
    return Used(
        directory.access,
        directory.problem or getattr(published, "reason", ""),
        found=isinstance(store.read(OLD), Found),
        stored=isinstance(store.read(NEW), Found),
        leased=isinstance(lease, Lease),
    )


def as_user(uid: int, gid: int, groups: list[int], action: Callable[[], Used]) -> Used:
    """Do something in a child that is another user."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            os.write(writing, pickle.dumps(action()))
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a child must not go on with the tests
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        data = answer.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return pickle.loads(data)  # noqa: S301 - from our own child


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that other users can reach, as pytest's own cannot."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def built(path: Path, secret: Trust = NO_TRUST) -> Path:
    """A cache with one entry, as root has made it while an image was built."""
    DiskStore(open_cache_directory(path), secret).publish(an_artifact(OLD))
    return path


def chown(path: Path, uid: int, gid: int) -> None:
    """Give away all of a cache."""
    subprocess.run(["chown", "-R", f"{uid}:{gid}", str(path)], check=True)


def chmod(path: Path, how: str) -> None:
    """Change the mode of all of a cache."""
    subprocess.run(["chmod", "-R", how, str(path)], check=True)


WORKS = Used("writable", "", found=True, stored=True, leased=True)


# --- copied into an image ---


def test_a_copy_that_only_root_may_read_says_how_to_let_others(folder: Path):
    """`COPY cache /cache`: as 0700 of root."""
    path = built(folder / "cache")

    used = as_user(APP, APP, [], lambda: use(path))

    assert (used.access, used.found) == ("none", False)
    assert "Permission denied" in used.words
    assert "chmod -R a+rX" in used.words


def test_a_copy_whose_entries_only_root_may_read_says_so_too(folder: Path):
    """`COPY --chmod` reaches only the directory itself."""
    path = built(folder / "cache")
    path.chmod(0o755)

    used = as_user(APP, APP, [], lambda: use(path))

    assert (used.access, used.found) == ("none", False)
    assert "no permission to read entries" in used.words
    assert "chmod -R a+rX" in used.words


@pytest.mark.parametrize("secret", [NO_TRUST, SECRET])
def test_a_copy_of_roots_that_all_may_read_is_read(folder: Path, secret: Trust):
    """What the advice leads to."""
    path = built(folder / "cache", secret)
    chmod(path, "a+rX")

    used = as_user(APP, APP, [], lambda: use(path, secret=secret))

    assert (used.access, used.found, used.stored) == ("read-only", True, False)
    assert "no permission to write" in used.words


def test_a_copy_for_the_user_that_runs_is_used(folder: Path):
    """`COPY --chown=1000:1000`, and `USER 1000`."""
    path = built(folder / "cache")
    chown(path, APP, APP)

    assert as_user(APP, APP, [], lambda: use(path)) == WORKS


@pytest.mark.parametrize("uid", [POD, 0])
def test_a_copy_for_another_user_is_refused_with_ways_out(folder: Path, uid: int):
    """`COPY --chown=1000:1000`, and then another user runs, root as well."""
    path = built(folder / "cache")
    chown(path, APP, APP)
    chmod(path, "a+rX")

    used = as_user(uid, uid and APP, [], lambda: use(path))

    assert used.access == "refused"
    for word in ("user 1000", "AJIT_HMAC_KEY_FILE", "AJIT_CACHE_DIR", "copy it as root's"):
        assert word in used.words


@pytest.mark.parametrize(("uid", "access"), [(POD, "read-only"), (0, "writable")])
def test_with_a_secret_a_copy_for_another_user_is_used(folder: Path, uid: int, access: str):
    """As far as it may be written: nothing that it holds is believed without the secret."""
    path = built(folder / "cache", SECRET)
    chown(path, APP, APP)
    chmod(path, "a+rX")

    used = as_user(uid, uid, [], lambda: use(path, secret=SECRET))

    assert (used.access, used.found) == (access, True)


def test_with_a_secret_a_forged_entry_is_not_used(folder: Path):
    """It is the secret that counts, once owners do not."""
    path = built(folder / "cache")
    chown(path, APP, APP)
    chmod(path, "a+rX")

    assert not as_user(POD, 0, [], lambda: use(path, secret=SECRET)).found


def test_unreadable_entries_and_locks_are_replaced(folder: Path):
    """Of the user's own, or of root's in a directory of the user's: told, and made again."""
    path = built(folder / "cache")
    chown(path, APP, APP)
    as_user(APP, APP, [], lambda: use(path))
    for file in (*path.glob("entries/*/*"), *path.glob("locks/*/*")):
        os.chown(file, 0, 0)
        file.chmod(0o600)

    def looking() -> Used:
        lookup = DiskStore(open_cache_directory(path)).read(OLD)
        assert isinstance(lookup, Rejected)
        DiskStore(open_cache_directory(path)).publish(an_artifact(OLD))
        return use(path)

    assert as_user(APP, APP, [], looking) == WORKS


# --- OpenShift: a user without a name, in group root ---


def of_group_root(path: Path, secret: Trust = NO_TRUST) -> Path:
    """`chgrp -R 0` and `chmod -R g=u`, as its guide for images says."""
    built(path, secret)
    chown(path, 0, 0)
    chmod(path, "g=u")
    return path


def test_a_cache_of_group_root_is_refused_with_the_group(folder: Path):
    """All in the group may write to it; whether they are trusted must be said."""
    path = of_group_root(folder / "cache")

    used = as_user(POD, 0, [], lambda: use(path))

    assert used.access == "refused"
    assert "AJIT_SHARED_GROUP=0 if all members" in used.words


@pytest.mark.parametrize("how", ["group", "secret"])
def test_a_cache_of_group_root_is_shared_by_users_without_names(folder: Path, how: str):
    """What one of them has made, the next one uses, and makes more."""
    secret = SECRET if how == "secret" else NO_TRUST
    group = "0" if how == "group" else ""
    path = of_group_root(folder / "cache", secret)

    for pod in (POD, OTHER_POD, POD):
        assert as_user(pod, 0, [], lambda: use(path, secret=secret, shared_group=group)) == WORKS
    shutil.rmtree(path / "entries" / NEW[:2])
    assert as_user(OTHER_POD, 0, [], lambda: use(path, secret=secret, shared_group=group)) == WORKS


# --- volumes ---


def volume(path: Path, gid: int, mode: int) -> Path:
    """The root of a volume, as Kubernetes mounts it."""
    path.mkdir()
    os.chown(path, 0, gid)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(("gid", "mode"), [(0, 0o777), (FS_GROUP, 0o2777)])
def test_an_empty_dir_is_refused_and_a_directory_in_it_is_not(folder: Path, gid: int, mode: int):
    """`emptyDir`, without and with `fsGroup`: all may write. What the message advises works."""
    path = volume(folder / "volume", gid, mode)

    refused = as_user(APP, APP, [gid], lambda: use(path))
    used = as_user(APP, APP, [gid], lambda: use(path / "ajit"))

    assert refused.access == "refused"
    assert f"AJIT_CACHE_DIR to a new one, such as {path}/ajit" in refused.words
    assert (used.access, used.stored, used.leased) == ("writable", True, True)


@pytest.mark.parametrize(("gid", "mode"), [(0, 0o777), (FS_GROUP, 0o2777), (FS_GROUP, 0o2775)])
def test_with_a_secret_a_volume_is_shared_by_its_users(folder: Path, gid: int, mode: int):
    """What is made in it gets the rights of the volume, so the next user can use it."""
    path = volume(folder / "volume", gid, mode)

    def filling() -> Used:
        DiskStore(open_cache_directory(path, authenticated=True), SECRET).publish(an_artifact(OLD))
        return use(path, secret=SECRET)

    groups = [gid] if gid else []
    assert as_user(POD, POD, groups, filling) == WORKS
    assert as_user(APP, APP, groups, lambda: use(path, secret=SECRET)) == WORKS
    assert {entry.stat().st_mode & 0o777 for entry in path.glob("entries/*")} == {mode & 0o777}


def test_a_volume_of_fs_group_is_shared_with_the_group(folder: Path):
    """`fsGroup: 2000` on a claim: root:2000, 2775."""
    path = volume(folder / "volume", FS_GROUP, 0o2775)

    refused = as_user(APP, APP, [FS_GROUP], lambda: use(path))
    group = str(FS_GROUP)
    first = as_user(POD, POD, [FS_GROUP], lambda: use(path, shared_group=group))
    second = as_user(APP, APP, [FS_GROUP], lambda: use(path, shared_group=group))

    assert f"AJIT_SHARED_GROUP={FS_GROUP}" in refused.words
    for used in (first, second):
        assert (used.access, used.stored, used.leased) == ("writable", True, True)


def test_a_read_only_mount_of_another_owner(read_only_mount):
    """Refused with ways out; read with a secret."""
    path = built(read_only_mount.place / "cache", SECRET)
    chown(path, APP, APP)
    read_only_mount()

    assert "AJIT_HMAC_KEY_FILE" in use(path).words
    used = use(path, secret=SECRET)
    assert (used.access, used.found) == ("read-only", True)


def test_a_member_without_the_secret_cannot_lead_the_others_out_of_the_cache(folder: Path):
    """With a secret, owners do not matter; but no link is followed all the same."""
    path = volume(folder / "volume", 0, 0o777)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    as_user(POD, POD, [], lambda: use(path, secret=SECRET))
    shutil.rmtree(path / "entries" / NEW[:2])
    (path / "entries" / NEW[:2]).symlink_to(elsewhere)

    store = DiskStore(open_cache_directory(path, authenticated=True), SECRET)
    published = store.publish(an_artifact(NEW))

    assert isinstance(store.read(NEW), Missing)
    assert "is not a directory" in published.reason
    assert list(elsewhere.iterdir()) == []
