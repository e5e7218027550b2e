"""The cache directory: made, checked, and held open.

A user who can write there can put code into the process, unless entries are authenticated. So the
directory must belong to this user or to root, and no other user may be able to write to it, except
the members of a group that it is shared with (`ajit._cache.files.sharing`). The same holds for each
directory and file below it, which are checked when they are used (`ajit._cache.files.folders`). The
checks use the descriptor that is used afterwards, so swapping a parent directory later changes
nothing. A directory that is something else than a cache is refused (`ajit._cache.files.marker`).

A directory that cannot be written, or not even created, is not an error: kernels are compiled and
returned, but not kept. `CacheDirectory.problem` says why.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ajit._cache.files.advice import TO_READ, advice
from ajit._cache.files.file_system import is_shared_between_nodes, mount_of
from ajit._cache.files.folders import Folders, UnsafeFolder, close_unwritten
from ajit._cache.files.fs import sync_folder
from ajit._cache.files.marker import SUBDIRECTORIES, mark
from ajit._cache.files.sharing import DirectoryRole, Sharing, sharing_with
from ajit._cache.files.troubles import Troubles
from ajit.errors import CacheError, UnsafeCacheDirectory

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit.settings import Settings

__all__ = [
    "SUBDIRECTORIES",
    "CacheDirectory",
    "configured_path",
    "entries_are_authenticated",
    "open_cache_directory",
    "open_configured_cache",
    "silent_cache",
]

LeaseKind = Literal["locks", "directory"]
Access = Literal["writable", "read-only", "none"]

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
        folders: The directories below it.
        lease_kind: How its leases exclude other nodes: by ``locks`` or by ``directory``, see
            `ajit._cache.leases.table`.
        patience_seconds: After how much silence of a holder its waiters lose patience.
        troubles: Calls that failed in the background.
        open_later: Opens it, if it did not answer.
    """

    lease_kind: LeaseKind = "locks"
    patience_seconds: float = 10.0
    open_later: Callable[[], CacheDirectory] | None = None

    def __init__(self, path: str, fd: int, access: Access, problem: str, sharing: Sharing) -> None:
        self.path, self.fd, self.access, self.problem = path, fd, access, problem
        self.sharing = sharing
        self.folders = Folders(fd, sharing)
        self.troubles = Troubles()
        self._identity = _identity(fd)
        self._opened: CacheDirectory | None = None
        self._making = threading.Lock()  # during calls, which may hang
        self._lock = threading.Lock()  # held for a few instructions; guards what follows
        self._renewed = 0
        if fd >= 0:
            weakref.finalize(self, close_unwritten, fd)

    def adopt(self, opened: CacheDirectory) -> None:
        """Become what was opened late. For a directory without a descriptor, from `silent_cache`.

        Any thread: the access, which others look at first, is set last. A second call does nothing.
        """
        with self._lock:
            if self._opened is not None:
                return
            self._opened = opened  # its descriptor lives as long as it
        self.sharing, self.problem = opened.sharing, opened.problem
        self.lease_kind, self.patience_seconds = opened.lease_kind, opened.patience_seconds
        self.folders = opened.folders
        self._identity, self.fd = opened.identity, opened.fd
        self.access = opened.access

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
        with self._making:
            parts = name.split("/")
            for count in range(1, len(parts) + 1):
                self._make("/".join(parts[:count]))

    def renew_if_removed(self) -> None:
        """Create and open the directory again if it was removed, or its mount is gone.

        Raises:
            OSError: It cannot be made.
            CacheError: The directory that is there now cannot be used.
        """
        renewed = self._renewed
        if self._is_gone():
            self._renew(renewed)

    def follow_path(self) -> None:
        """Go where the path leads now, if that is another file system. Nothing is created for it.

        A mount whose server is gone for good may never answer again, not even that it is gone, and
        an administrator mounts a new one over it. So this asks the path, and never what is open.
        A directory that is open on a file system that answers is never left: its file system is the
        same one.

        Raises:
            OSError: The path cannot be looked at, or not be opened.
            CacheError: The directory that is there now cannot be used.
        """
        renewed, leads_to = self._renewed, Path(self.path).stat()
        if self.fd >= 0:
            if leads_to.st_dev != self._identity[0]:
                self._renew(renewed)
        elif self.open_later is not None:
            self.adopt(self.open_later())

    def _is_gone(self) -> bool:
        try:
            return os.fstat(self.fd).st_nlink == 0
        except OSError as exc:
            # Its server was started anew, or exports it anew: the path may lead to it again.
            if exc.errno not in (errno.ENOTCONN, errno.ESTALE):
                raise
            return True

    def _make(self, name: str) -> None:
        above, _, last = name.rpartition("/")
        folder = self.folders.current(above) if above else None
        self.sharing.make_directory(last, self.fd if folder is None else folder.fd)
        if folder is not None:
            sync_folder(folder)
        else:
            with suppress(OSError):
                os.fsync(self.fd)
        self.folders.current(name)  # a link out of the cache is refused

    def _renew(self, known: int) -> None:
        """Open the directory again, unless another thread has done so meanwhile."""
        fd = _open_checked(self.path, self.sharing)
        try:
            mark(self.path, fd)
            identity = _identity(fd)
            with self._lock:
                if self._renewed != known:
                    return
                # Atomic: other threads use either the removed directory or the new one.
                os.dup2(fd, self.fd, inheritable=False)
                self._identity, self._renewed = identity, known + 1
                # A thread that hangs in the old directory may keep its lock for ever.
                self._making = threading.Lock()
        finally:
            close_unwritten(fd)
        self.folders.clear()

    def __repr__(self) -> str:
        problem = f" ({self.problem})" if self.problem else ""
        return f"<CacheDirectory {self.path} {self.access}{problem}>"


def open_cache_directory(
    path: str | Path,
    *,
    allow_unsafe: bool = False,
    shared_group: str = "",
    authenticated: bool = False,
) -> CacheDirectory:
    """Make the cache directory if it is missing, check it and open it.

    Args:
        path: Where it is. A symbolic link here is followed, and its target is checked.
        allow_unsafe: Accept a directory that others own or may write to.
        shared_group: Name or number of a group whose members share it. A new directory is created
            for the group; an existing one is accepted if it belongs to the group.
        authenticated: Whether who reads its files demands that they are authenticated. Then it does
            not matter who owns the directory, or may write to it.

    Returns:
        The directory. If it cannot be written or created, it is returned with another ``access``
        and with the reason in ``problem``. So is one whose files are authenticated and that others
        may write to, if something is in it that does not belong there.

    Raises:
        CacheError: The path, or a parent of it, is not a directory; it is a directory of something
            else, to which no others may write; or there is no such group. Nothing was written.
        UnsafeCacheDirectory: Another user could put code there. Nothing was read from it.
    """
    absolute = str(Path(path).expanduser().absolute())
    sharing = sharing_with(
        shared_group, path=absolute, allow_unsafe=allow_unsafe, authenticated=authenticated
    )
    try:
        return _open(absolute, sharing)
    except OSError as exc:
        # A directory that could not be checked is neither read nor written.
        return CacheDirectory(absolute, -1, "none", _reason(exc), sharing)


def entries_are_authenticated(settings: Settings) -> bool:
    """Whether settings demand a seal of what is read from the cache, see `load_trust`."""
    if settings.trust != "auto":
        return settings.trust != "none"
    return any(
        (
            settings.hmac_key,
            settings.hmac_key_file,
            settings.public_key_files,
            settings.signing_key_file,
        )
    )


def open_configured_cache(settings: Settings) -> CacheDirectory:
    """Open the cache directory that settings name, as `open_cache_directory` does."""
    directory = open_cache_directory(
        settings.cache_dir,
        allow_unsafe=settings.allow_unsafe_cache,
        shared_group=settings.shared_group,
        authenticated=entries_are_authenticated(settings),
    )
    directory.lease_kind = _lease_kind(settings.lease, directory)
    directory.patience_seconds = settings.patience_seconds
    return directory


def _lease_kind(wanted: str, directory: CacheDirectory) -> LeaseKind:
    if wanted == "auto" and directory.access != "none":
        kind = mount_of(directory.path, directory.fd).kind
        return "directory" if is_shared_between_nodes(kind) else "locks"
    return "directory" if wanted == "directory" else "locks"


def configured_path(settings: Settings) -> str:
    """Return the absolute path of the cache directory that settings name. Touches nothing."""
    return str(Path(settings.cache_dir).expanduser().absolute())


def silent_cache(settings: Settings, problem: str) -> CacheDirectory:
    """Return a directory without access, for a cache whose file system does not answer."""
    sharing = Sharing(allow_unsafe=settings.allow_unsafe_cache)
    silent = CacheDirectory(configured_path(settings), -1, "none", problem, sharing)
    silent.open_later = partial(open_configured_cache, settings)
    return silent


def _open(path: str, sharing: Sharing) -> CacheDirectory:
    fd = _open_checked(path, sharing)
    try:
        sharing = sharing.adopting(os.fstat(fd))
        access, problem = _prepare(path, fd, sharing)
        if access == "none":
            close_unwritten(fd)
            fd = -1
        return CacheDirectory(path, fd, access, problem, sharing)
    except BaseException:
        close_unwritten(fd)
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
        _check_safe(path, os.fstat(fd), sharing)
    except BaseException:
        close_unwritten(fd)
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


def _prepare(path: str, root: int, sharing: Sharing) -> tuple[Access, str]:
    """Mark the directory, make and check what is in it; return what can be done, and why no more.

    Raises:
        CacheError: Something is in it that must not be there, and no stranger can have put it
            there: so a setting is wrong.
    """
    try:
        mark(path, root)
        return _make_subdirectories(path, root, sharing)
    except CacheError as exc:
        if not sharing.may_be_spoilt(os.fstat(root)):
            raise
        # Or any user who may write to it, and has no key, could keep servers from starting.
        return "none", f"{exc.reason}; {exc.hint}" if exc.hint else exc.reason


def _make_subdirectories(path: str, root: int, sharing: Sharing) -> tuple[Access, str]:
    """Create and check the subdirectories; return what can be done with them, and why no more."""
    access: Access = "writable"
    problem = ""
    folders = Folders(root, sharing)
    for name in SUBDIRECTORIES:
        try:
            sharing.make_directory(name, root)
        except OSError as exc:  # one that is there can be used all the same
            access, problem = "read-only", _reason(exc)
        try:
            folders.get(name)
        except UnsafeFolder as exc:
            raise _unsafe(path, name, exc, root, sharing) from exc
        except OSError as exc:
            access, problem = "read-only", problem or _reason(exc)
    for name in ("entries", "reads"):
        if not _may(name, os.R_OK | os.X_OK, root) and _is_there(name, root):
            return "none", f"no permission to read {name} in it ({TO_READ})"
    # mkdir says EEXIST before it says EROFS or EACCES, so ask for the right to write as well.
    if access == "writable" and not _may("tmp", os.W_OK | os.X_OK, root):
        return "read-only", "no permission to write to it, or mounted read-only"
    return access, problem


def _unsafe(path: str, name: str, exc: UnsafeFolder, root: int, sharing: Sharing) -> CacheError:
    if exc.errno in (errno.ENOTDIR, errno.ELOOP):
        return CacheError(path=path, reason=f"{name} in it is not a directory", hint="remove it")
    status = os.stat(name, dir_fd=root, follow_symlinks=False)
    return _unsafe_directory(f"{path}/{name}", status, sharing) or CacheError(
        path=path, reason=str(exc)
    )


def _may(name: str, right: int, root: int) -> bool:
    return os.access(name, right, dir_fd=root, effective_ids=True)


def _is_there(name: str, root: int) -> bool:
    with suppress(OSError):
        os.stat(name, dir_fd=root, follow_symlinks=False)
        return True
    return False


def _check_safe(path: str, status: os.stat_result, sharing: Sharing) -> None:
    error = _unsafe_directory(path, status, sharing)
    if error is not None:
        raise error


def _unsafe_directory(
    path: str, status: os.stat_result, sharing: Sharing
) -> UnsafeCacheDirectory | None:
    reason = sharing.objection(status)
    return (
        UnsafeCacheDirectory(path=path, reason=reason, hint=advice(path, status))
        if reason
        else None
    )


def _identity(fd: int) -> tuple[int, int]:
    if fd < 0:
        return (-1, -1)
    status = os.fstat(fd)
    return (status.st_dev, status.st_ino)


def _reason(exc: OSError) -> str:
    reason = f"{exc.strerror or exc}: {exc.filename}" if exc.filename else str(exc.strerror or exc)
    return f"{reason} ({TO_READ})" if isinstance(exc, PermissionError) else reason
