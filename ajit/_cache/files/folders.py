"""Directories below a cache: opened once, checked, and kept open.

A name such as ``entries/ab/<key>.ajit`` is a promise about three directories, and any of them may
have been made, or put there as a link, by another user while the cache was open to all. So no file
of a cache is opened by such a name. Its directory is opened first, one step at a time, from the
directory above it, which was checked before; no link is followed, and owner and mode are checked on
the descriptor that is used afterwards. Then the file is opened relative to it.

Some descriptors are kept: those of the top directories, and those that were opened last. They are
``O_PATH``: that asks a file server for nothing, and is all that opening a file in them needs. A
directory may be removed, moved away and made again at any time. So a reader that finds nothing asks
whether the name still leads to the directory that was opened (`Folders.is_current`), and who writes
asks before.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from ajit._cache.files.sharing import Sharing

__all__ = [
    "MAX_KEPT",
    "NO_DESCRIPTORS",
    "OPEN_PATH",
    "Folder",
    "Folders",
    "UnsafeFolder",
    "close_unwritten",
]

T = TypeVar("T")

MAX_KEPT = 16
"""Descriptors that one cache keeps. Few, since a process begins with a table for 64, and where it
has threads Linux takes several milliseconds to make that larger: as long as it takes to open a
thousand directories."""

OPEN_PATH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_NO_DIRECTORY = frozenset({errno.ENOTDIR, errno.ELOOP})
_SERVER_CHANGED = frozenset({errno.ESTALE, errno.ENOTCONN})
NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


class UnsafeFolder(OSError):
    """A directory of the cache is a link, or another user could put files into it.

    An `OSError`, since what is to be done is the same as where it cannot be opened: nothing is read
    from it, and nothing written to it.
    """

    def __str__(self) -> str:
        return str(self.strerror)


class Folder:
    """A directory below the cache that was checked. It is closed when the last user drops it.

    Attributes:
        name: Relative name.
        fd: ``O_PATH`` descriptor.
        identity: Device and inode.
    """

    __slots__ = ("fd", "identity", "name")

    def __init__(self, name: str, fd: int) -> None:
        self.name, self.fd = name, fd
        self.identity = (-1, -1)

    def __del__(self, _close: Callable[[int], None] = os.close) -> None:
        # The function is bound: at the interpreter's exit there may be no modules any more.
        try:  # noqa: SIM105  # as in `close_unwritten`
            _close(self.fd)
        except OSError:
            pass

    def __repr__(self) -> str:
        return f"<Folder {self.name} fd={self.fd}>"


class Folders:
    """The checked directories of one cache. Any thread may use it.

    Keep a `Folder` while its descriptor is used: it may be dropped here meanwhile.

    Args:
        root: Descriptor of the cache directory, which was checked; -1 if there is none.
        sharing: Users who may write to it.
    """

    def __init__(self, root: int, sharing: Sharing) -> None:
        self._root = root
        self._sharing = sharing
        self._lock = threading.Lock()  # held for a few instructions
        self._kept: dict[str, Folder] = {}

    def get(self, name: str) -> Folder:
        """Return a directory, as it was opened at first.

        Raises:
            FileNotFoundError: There is none.
            UnsafeFolder: It must not be used.
            OSError: It cannot be opened.
        """
        return self._kept.get(name) or self._open(name, self.get)

    def current(self, name: str) -> Folder:
        """Return the directory that has this name now.

        Raises:
            FileNotFoundError, UnsafeFolder, OSError: As `get`.
        """
        folder = self._kept.get(name)
        if folder is not None:
            if self.is_current(folder):
                return folder
            self.forget(folder)
        return self._open(name, self.current)

    def is_current(self, folder: Folder) -> bool:
        """Whether its name still leads to this directory."""
        try:
            status = os.stat(folder.name, dir_fd=self._root, follow_symlinks=False)
        except OSError:  # removed, or the file server has lost it: opening it again will tell
            return False
        return (status.st_dev, status.st_ino) == folder.identity

    def retry(self, name: str, operation: Callable[[Folder], T]) -> T:
        """Run an operation on a directory; once more if that had no descriptors, or was renewed.

        Raises:
            OSError: What opening the directory or the operation raised.
        """
        try:
            return operation(self.get(name))
        except OSError as exc:
            if not self._may_help(exc, name):
                raise
        return operation(self.current(name))

    def forget(self, folder: Folder) -> None:
        """Open this directory anew when it is next wanted."""
        with self._lock:
            if self._kept.get(folder.name) is folder:
                del self._kept[folder.name]

    def clear(self) -> None:
        """Open all directories anew."""
        with self._lock:
            kept, self._kept = self._kept, {}
        kept.clear()  # closes descriptors, so not under the lock

    def _may_help(self, exc: OSError, name: str) -> bool:
        """Whether it may go well with directories that are opened now."""
        if exc.errno in NO_DESCRIPTORS:
            self.clear()
            return True
        if exc.errno == errno.ENOENT:
            # Of the directories on the way, the last that was opened tells of those above it.
            above = name.rpartition("/")[0]
            folder = self._kept.get(name) or self._kept.get(above)
            return folder is not None and not self.is_current(folder)
        # On NFS the file or directory behind a name may be replaced on the server between look-up
        # and read, and a server may be started anew. A second look-up asks the server again.
        if exc.errno in _SERVER_CHANGED:
            self.clear()
            return True
        return False

    def _open(self, name: str, open_above: Callable[[str], Folder]) -> Folder:
        above, _, last = name.rpartition("/")
        parent = open_above(above) if above else None
        fd = self._open_here(self._root if parent is None else parent.fd, name, last)
        folder = Folder(name, fd)  # from here on it closes the descriptor
        status = os.fstat(fd)
        reason = self._sharing.objection(status)
        if reason:
            raise UnsafeFolder(errno.EPERM, f"{name}: {reason}; remove it")
        folder.identity = (status.st_dev, status.st_ino)
        self._keep(folder)
        return folder

    def _open_here(self, above: int, name: str, last: str) -> int:
        try:
            return os.open(last, OPEN_PATH, dir_fd=above)
        except OSError as exc:
            if exc.errno not in _NO_DIRECTORY:
                raise
            raise UnsafeFolder(exc.errno, f"{name} is not a directory; remove it") from exc

    def _keep(self, folder: Folder) -> None:
        dropped = None
        with self._lock:
            if len(self._kept) >= MAX_KEPT:
                # The shard that was opened first: a dictionary has its order.
                dropped = self._kept.pop(next(name for name in self._kept if "/" in name))
            self._kept[folder.name] = folder
        del dropped  # closes a descriptor, so not under the lock

    def __repr__(self) -> str:
        return f"<Folders {len(self._kept)} kept>"


def close_unwritten(fd: int) -> None:
    """Close a descriptor through which nothing was written."""
    # Linux frees the number whatever close() reports. An error would not matter here: the bytes
    # were read, and are verified by content.
    try:  # noqa: SIM105  # ten times as fast as suppress(), for each entry that is read
        os.close(fd)
    except OSError:
        pass
