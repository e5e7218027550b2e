"""Views: the files of bundles as directories of this node, which peers can load from.

A shared library that is mapped from a network file system fails when its file is replaced there, or
the server is started anew. So the files of a bundle are copied into a directory of this node, each
verified on the way, and the directory gets its name when all of them are::

    <base>/ajit-views-<uid>/<boot>/<name>/files/...    the view
    <base>/ajit-views-<uid>/<boot>/<name>/stamps       what the file system said of each file
    <base>/ajit-views-<uid>/<boot>/<name>.lock         for the saving of work alone

The name is the key and the first digits of a digest of what the files are: a build that was run
again may have made other bytes under its key, and who loads from the former view must keep it.

It is never seen half: it comes by a rename, and of many that are made at once the first stays. It
is verified once per boot. Later it is asked whether each file still is the one that was verified:
inode, size and times cannot be had again by writing to it. One that is not whole is put aside and
made anew. No other user can write there: each directory on the way is checked.

Everything blocks, and any thread may use it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from typing import TYPE_CHECKING

import msgspec

from ajit._cache.entries.bundles import files_of
from ajit._system.process import this_process
from ajit.errors import CacheError, UnsafeCacheDirectory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._core.bundle import BundleArtifact, Content
    from ajit._core.job import BundleFile

__all__ = ["Views"]

FILES = "files"
STAMPS = "stamps"

LOCK_POLL_SECONDS = 0.02
SPARE_SECONDS = 600.0
"""A view that was used within this time is not removed."""
GARBAGE_SECONDS = 3600.0
"""Age of a half view at which its maker is taken to be dead."""
OTHER_BOOT_SECONDS = 24 * 3600.0
"""Age at which the views of another boot are removed. Not at once: in a directory that is shared by
mistake they may be another node's."""
ROOM_SHARE = 4
"""A runtime directory is memory, so a view may take this fraction of what is free there."""

_PRIVATE = 0o700
_READABLE, _EXECUTABLE = 0o400, 0o500
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Stamp = tuple[int, int, int, int, int, int]
"""Device, inode, size, mode, mtime and ctime."""


class _Stamps(msgspec.Struct, frozen=True):
    """What the file system said of the files of a view when they had been verified."""

    size_bytes: int
    files: dict[str, Stamp]


_decoder = msgspec.msgpack.Decoder(_Stamps)


class Views:
    """The views of this user on this node.

    Args:
        directory: The setting ``views_dir``; "" for the default.
        limit_bytes: How much all views together may have; 0: no limit.
        patience_seconds: How long another process that makes the same view is waited for.
    """

    def __init__(self, directory: str, limit_bytes: int, patience_seconds: float) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes
        self._patience_seconds = patience_seconds
        self._boot = this_process().boot_id.replace("/", "") or "boot"

    def find(self, artifact: BundleArtifact) -> str | None:
        """Return the path of a bundle's view if there is one, and it is what was verified."""
        name = _name_of(artifact)
        for base in self._bases():
            folder = self._folder_in(base)
            view = os.path.join(folder, name)
            if not os.path.lexists(view) or not _is_ours(folder):
                continue
            if _is_whole(view, artifact.files):
                with contextlib.suppress(OSError):
                    os.utime(os.path.join(view, STAMPS))
                return os.path.join(view, FILES)
        return None

    def make(self, artifact: BundleArtifact, content: Content) -> str:
        """Return the path of a bundle's view, and make it if need be.

        Args:
            artifact: The bundle.
            content: The bytes of its files.

        Raises:
            Damaged: They are not what the bundle says.
            CacheError: There is no place for it.

        Whatever it raises, nothing is left behind.
        """
        base = self._base_for(artifact.size_bytes)
        folder = self._folder_in(base)
        try:
            self._make_folder(base, folder)
            with self._alone(os.path.join(folder, f"{_name_of(artifact)}.lock")):
                path = self.find(artifact)
                if path is None:
                    path = self._make(artifact, content, folder)
            self._evict(folder)
        except OSError as exc:
            reason = f"a view cannot be made: {exc.strerror or exc}"
            raise CacheError(path=folder, reason=reason, hint="set views_dir elsewhere") from exc
        return path

    # --- where ---

    def _bases(self) -> list[str]:
        if self._directory:
            return [self._directory]
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        bases = [runtime] if os.path.isabs(runtime) and os.path.isdir(runtime) else []
        return [*bases, tempfile.gettempdir()]

    def _base_for(self, size_bytes: int) -> str:
        *first, last = self._bases()
        for base in first:
            with contextlib.suppress(OSError):
                status = os.statvfs(base)
                room = status.f_bavail * status.f_frsize
                runs = not status.f_flag & os.ST_NOEXEC
                if runs and room > ROOM_SHARE * size_bytes and os.access(base, os.W_OK):
                    return base
        return last

    def _folder_in(self, base: str) -> str:
        return os.path.join(base, f"ajit-views-{os.geteuid()}", self._boot)

    def _make_folder(self, base: str, folder: str) -> None:
        os.makedirs(base, exist_ok=True)
        _check_base(base)
        for path in (os.path.dirname(folder), folder):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, _PRIVATE)
            _check_private(path)

    @contextlib.contextmanager
    def _alone(self, path: str) -> Iterator[None]:
        """Wait for others that make the same view, but not for ever: it is right without."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + self._patience_seconds
            while not _try_lock(fd) and time.monotonic() < deadline:
                time.sleep(LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(fd)

    # --- making ---

    def _make(self, artifact: BundleArtifact, content: Content, folder: str) -> str:
        half = tempfile.mkdtemp(prefix=f".{artifact.key[:16]}-", dir=folder)
        try:
            _fill(half, artifact, content)
            view = os.path.join(folder, _name_of(artifact))
            _give_name(half, view)
            if not _is_whole(view, artifact.files):
                # There was one that is not whole, or there is one now: ours is.
                os.rename(view, f"{half}.old")
                _give_name(half, view)
        finally:
            _remove(half)
            _remove(f"{half}.old")
        return os.path.join(view, FILES)

    # --- eviction ---

    def _evict(self, folder: str) -> None:
        """Remove what is left of others, and what was used longest ago above the limit."""
        now = time.time()
        _remove_old_boots(os.path.dirname(folder), os.path.basename(folder), now)
        found: list[tuple[float, int, str]] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError, msgspec.MsgspecError):
                    if entry.name.startswith("."):
                        if now - entry.stat(follow_symlinks=False).st_mtime > GARBAGE_SECONDS:
                            _remove(entry.path)
                    elif entry.is_dir(follow_symlinks=False):
                        used = os.stat(os.path.join(entry.path, STAMPS)).st_mtime
                        found.append((used, _read_stamps(entry.path).size_bytes, entry.path))
        total = sum(size for _, size, _ in found)
        for used, size, path in sorted(found):
            if not 0 < self._limit_bytes < total or now - used < SPARE_SECONDS:
                break
            aside = f"{os.path.join(folder, '.')}{os.path.basename(path)[:16]}-{os.getpid()}.gone"
            with contextlib.suppress(OSError):
                os.rename(path, aside)
                total -= size
            _remove(aside)


def _name_of(artifact: BundleArtifact) -> str:
    table = msgspec.msgpack.encode(artifact.files)
    return f"{artifact.key}.{hashlib.sha256(table).hexdigest()[:16]}"


def _fill(half: str, artifact: BundleArtifact, content: Content) -> None:
    root = os.path.join(half, FILES)
    os.mkdir(root, _PRIVATE)
    stamps: dict[str, Stamp] = {}
    for file, pieces in files_of(artifact, content):
        path = os.path.join(root, file.path)
        os.makedirs(os.path.dirname(path), _PRIVATE, exist_ok=True)
        fd = os.open(path, _CREATE, 0o600)
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[os.write(fd, view) :]
            os.fchmod(fd, _EXECUTABLE if file.executable else _READABLE)
        finally:
            os.close(fd)
        stamps[file.path] = _stamp(os.lstat(path))
    data = msgspec.msgpack.encode(_Stamps(artifact.size_bytes, stamps))
    with open(os.path.join(half, STAMPS), "xb") as stamped:
        stamped.write(data)


def _give_name(half: str, view: str) -> None:
    """Make it the view, unless there is one."""
    try:
        os.rename(half, view)
    except OSError as exc:
        if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise


def _is_whole(view: str, files: tuple[BundleFile, ...]) -> bool:
    """Whether each file of a view is the one that was verified."""
    try:
        stamps = _read_stamps(view).files
        if len(stamps) != len(files):
            return False
        root = os.path.join(view, FILES)
        return all(
            _stamp(os.lstat(os.path.join(root, file.path))) == stamps.get(file.path)
            for file in files
        )
    except (OSError, msgspec.MsgspecError):
        return False


def _read_stamps(view: str) -> _Stamps:
    with open(os.path.join(view, STAMPS), "rb") as file:
        return _decoder.decode(file.read())


def _stamp(status: os.stat_result) -> Stamp:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mode,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _try_lock(fd: int) -> bool:
    # Of the node alone, so of this kind: it excludes threads of one process as well.
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        return exc.errno != errno.EWOULDBLOCK  # there are no locks here
    return True


def _check_base(base: str) -> None:
    status = os.stat(base)
    others_write = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
    if status.st_uid not in (0, os.geteuid()) or others_write:
        raise UnsafeCacheDirectory(
            path=base,
            reason=f"other users can replace what is in it: owner {status.st_uid}, "
            f"mode {stat.S_IMODE(status.st_mode):04o}",
            hint="set views_dir to a directory of this user",
        )


def _check_private(path: str) -> None:
    status = os.lstat(path)
    private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    if status.st_uid != os.geteuid() or not private:
        raise UnsafeCacheDirectory(
            path=path,
            reason=f"it is not a private directory of this user: owner {status.st_uid}, "
            f"mode {stat.S_IMODE(status.st_mode):04o}",
            hint="remove it, or set views_dir elsewhere",
        )


def _is_ours(folder: str) -> bool:
    """Whether no other user can have put anything there."""
    try:
        for path in (os.path.dirname(folder), folder):
            _check_private(path)
    except (OSError, UnsafeCacheDirectory):
        return False
    return True


def _remove_old_boots(top: str, boot: str, now: float) -> None:
    for name in os.listdir(top):
        path = os.path.join(top, name)
        if name != boot:
            with contextlib.suppress(OSError):
                if now - os.lstat(path).st_mtime > OTHER_BOOT_SECONDS:
                    _remove(path)


def _remove(path: str) -> None:
    """Remove a directory, or whatever has its name. Never fails."""
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.unlink(path)
