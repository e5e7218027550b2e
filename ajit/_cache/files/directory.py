"""The cache directory: made, checked, and held open.

A user who can write there can put code into the process. So the directory must belong to this user
or to root, and no other user may be able to write to it, except the members of a group that it is
shared with (`ajit._cache.files.sharing`). The checks use the descriptor that is used afterwards, so
swapping a parent directory later changes nothing.

A directory that cannot be written, or not even created, is not an error: kernels are compiled and
returned, but not kept. `CacheDirectory.problem` says why.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ajit._cache.files import fs
from ajit._cache.files.sharing import DirectoryRole, Sharing, sharing_with
from ajit.errors import CacheError, UnsafeCacheDirectory

if TYPE_CHECKING:
    from ajit.settings import Settings

__all__ = ["SUBDIRECTORIES", "CacheDirectory", "open_cache_directory", "open_configured_cache"]

Access = Literal["writable", "read-only", "none"]

SUBDIRECTORIES = ("entries", "reads", "digests", "locks", "failures", "tmp")

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class CacheDirectory:
    """A cache directory that was checked. Get one from `open_cache_directory`.

    There is no ``close``: threads that wait for locks use the descriptor for as long as they
    live, and the number of a closed descriptor would soon belong to another file. It is closed when
    the last user has dropped the object.

    Attributes:
        path: Absolute path, for messages.
        fd: Descriptor of the directory, or -1 with access ``none``: every call through it then
            fails like one on a bad descriptor.
        access: ``writable``, ``read-only`` or ``none``.
        problem: Why it is not writable, or "".
        sharing: Users who may write to it.
    """

    def __init__(self, path: str, fd: int, access: Access, problem: str, sharing: Sharing) -> None:
        self.path, self.fd, self.access, self.problem = path, fd, access, problem
        self.sharing = sharing
        self._identity = _identity(fd)
        self._lock = threading.Lock()
        if fd >= 0:
            weakref.finalize(self, fs.close_unwritten, fd)

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode: equal for every path to the same directory."""
        return self._identity

    def make(self, name: str) -> None:
        """Create a subdirectory, after a call that needs it has failed with ENOENT.

        Directories are created only when a call needs them: almost always they exist. If the whole
        cache was removed (``rm -rf`` on a running server), it is created and checked again, and the
        descriptor's number then refers to the new directory.

        Raises:
            OSError: It cannot be made.
            CacheError: The cache directory that is there now cannot be used.
        """
        self.renew_if_removed()
        with self._lock:
            parts = name.split("/")
            for count in range(1, len(parts) + 1):
                self._make("/".join(parts[:count]))
            fs.sync_directory(self.fd, "/".join(parts[:-1]) or ".")

    def renew_if_removed(self) -> None:
        """Create and open the directory again if it was removed.

        Raises:
            OSError: It cannot be made.
            CacheError: The directory that is there now cannot be used.
        """
        with self._lock:
            if os.fstat(self.fd).st_nlink == 0:
                self._renew()

    def _make(self, name: str) -> None:
        self.sharing.make_directory(name, self.fd)
        # O_NOFOLLOW: a link out of the cache is refused.
        fs.close_unwritten(os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self.fd))

    def _renew(self) -> None:
        fd = _open_checked(self.path, self.sharing)
        try:
            # Atomic: other threads use either the removed directory or the new one.
            os.dup2(fd, self.fd, inheritable=False)
        finally:
            fs.close_unwritten(fd)
        self._identity = _identity(self.fd)

    def __repr__(self) -> str:
        problem = f" ({self.problem})" if self.problem else ""
        return f"<CacheDirectory {self.path} {self.access}{problem}>"


def open_cache_directory(
    path: str | Path, *, allow_unsafe: bool = False, shared_group: str = ""
) -> CacheDirectory:
    """Make the cache directory if it is missing, check it and open it.

    Args:
        path: Where it is. A symbolic link here is followed, and its target is checked.
        allow_unsafe: Accept a directory that others own or may write to.
        shared_group: Name or number of a group whose members share it. A new directory is created
            for the group; an existing one is accepted if it belongs to the group.

    Returns:
        The directory. If it cannot be written or created, it is returned with another ``access``
        and with the reason in ``problem``.

    Raises:
        CacheError: The path, or a parent of it, is not a directory, or there is no such group.
        UnsafeCacheDirectory: Another user could put code there. Nothing was read from it.
    """
    absolute = str(Path(path).expanduser().absolute())
    sharing = sharing_with(shared_group, path=absolute, allow_unsafe=allow_unsafe)
    try:
        return _open(absolute, sharing)
    except OSError as exc:
        # A directory that could not be checked is neither read nor written.
        return CacheDirectory(absolute, -1, "none", _reason(exc), sharing)


def open_configured_cache(settings: Settings) -> CacheDirectory:
    """Open the cache directory that settings name, as `open_cache_directory` does."""
    return open_cache_directory(
        settings.cache_dir,
        allow_unsafe=settings.allow_unsafe_cache,
        shared_group=settings.shared_group,
    )


def _open(path: str, sharing: Sharing) -> CacheDirectory:
    fd = _open_checked(path, sharing)
    try:
        problem = _make_subdirectories(path, fd, sharing)
        access: Access = "read-only" if problem else "writable"
        return CacheDirectory(path, fd, access, problem, sharing)
    except BaseException:
        fs.close_unwritten(fd)
        raise


def _open_checked(path: str, sharing: Sharing) -> int:
    try:
        fd = _open_or_make(path, sharing)
    except (NotADirectoryError, FileExistsError) as exc:
        raise CacheError(
            path=path,
            reason="it, or a parent of it, is not a directory",
            hint="remove the file, or set AJIT_CACHE_DIR to another place",
        ) from exc
    try:
        _check_safe(path, fd, sharing)
    except BaseException:
        fs.close_unwritten(fd)
        raise
    return fd


def _open_or_make(path: str, sharing: Sharing) -> int:
    try:
        return os.open(path, _DIRECTORY)
    except FileNotFoundError:
        _make_with_parents(path, sharing, "cache")
        return os.open(path, _DIRECTORY)


def _make_with_parents(path: str, sharing: Sharing, place: DirectoryRole) -> None:
    try:
        sharing.make_directory(path, place=place)
    except FileNotFoundError:
        _make_with_parents(str(Path(path).parent), sharing, "parent")
        sharing.make_directory(path, place=place)


def _make_subdirectories(path: str, root: int, sharing: Sharing) -> str:
    """Create and check the subdirectories; return why that is impossible, or ""."""
    for name in SUBDIRECTORIES:
        try:
            sharing.make_directory(name, root)
            fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
        except OSError as exc:
            if exc.errno in (errno.ENOTDIR, errno.ELOOP):
                reason = f"{name} in it is not a directory"
                raise CacheError(path=path, reason=reason, hint="remove it") from exc
            return _reason(exc)
        try:
            _check_safe(f"{path}/{name}", fd, sharing)
        finally:
            fs.close_unwritten(fd)
    # mkdir says EEXIST before it says EROFS or EACCES, so ask for the right to write as well.
    if not os.access("tmp", os.W_OK | os.X_OK, dir_fd=root, effective_ids=True):
        return "no permission to write to it, or mounted read-only"
    return ""


def _check_safe(path: str, fd: int, sharing: Sharing) -> None:
    reason = sharing.objection(os.fstat(fd))
    if reason:
        hint = (
            "chmod go-w it, set AJIT_CACHE_DIR to another place, set AJIT_SHARED_GROUP to the "
            "group that shares it, or set AJIT_ALLOW_UNSAFE_CACHE=1"
        )
        raise UnsafeCacheDirectory(path=path, reason=reason, hint=hint)


def _identity(fd: int) -> tuple[int, int]:
    if fd < 0:
        return (-1, -1)
    status = os.fstat(fd)
    return (status.st_dev, status.st_ino)


def _reason(exc: OSError) -> str:
    return f"{exc.strerror or exc}: {exc.filename}" if exc.filename else str(exc.strerror or exc)
