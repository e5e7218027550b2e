"""How a lock file is opened: made if it is missing, and never another user's file.

The holder's record is written into it, so whatever has its name must be a lock file: a regular
file of a user who may write to the cache, and under no other name. A hard link there may lead to
any file of the file system that its maker could link. What is no lock file is replaced by a new
one: if it was in use as one, its holder and the next one both compile, which a lock that only saves
work allows.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ajit._cache.files import fs
from ajit._cache.leases import posix

if TYPE_CHECKING:
    from ajit._cache.files.directory import CacheDirectory
    from ajit._cache.files.folders import Folder

__all__ = ["open_to_lock", "open_to_look"]


def open_to_lock(directory: CacheDirectory, name: str) -> int:
    """Open a lock file to lock and write it; make it if it is missing.

    Raises:
        OSError: It cannot be opened or made.
        CacheError: The cache directory cannot be used any more.
    """
    try:
        return _open(directory, name)
    except fs.UnusableFile:
        fs.publish_file(directory, name, b"", replace=True)
    return _open(directory, name)


def open_to_look(directory: CacheDirectory, name: str) -> int:
    """Open a lock file to read it.

    Raises:
        OSError: There is none, or it cannot be opened.
    """
    parent, _, last = name.rpartition("/")
    sharing = directory.sharing
    return directory.folders.retry(
        parent, lambda folder: fs.open_checked(folder, last, posix.OPEN_TO_READ, sharing)
    )


def _open(directory: CacheDirectory, name: str) -> int:
    parent, _, last = name.rpartition("/")
    sharing = directory.sharing

    def open_it(folder: Folder) -> int:
        return fs.open_checked(folder, last, posix.OPEN_TO_LOCK, sharing, only_name=True)

    def open_or_make(folder: Folder) -> int:
        try:
            return open_it(folder)  # almost always it is there already
        except FileNotFoundError:
            return make_it(folder)

    def make_it(folder: Folder) -> int:
        try:
            # Exclusively: what is made is ours, and has one name. (A temporary file that is linked
            # to its name, as entries are, has two for a moment, and others would replace it.)
            flags = posix.OPEN_TO_LOCK | os.O_CREAT | os.O_EXCL
            fd = os.open(last, flags, sharing.file_mode, dir_fd=folder.fd)
        except FileExistsError:
            return open_it(folder)
        try:
            # The umask may have taken rights, our own to open it again as well.
            os.fchmod(fd, sharing.file_mode)
        except BaseException:
            fs.close_unwritten(fd)
            raise
        return fd

    return fs.in_folder(directory, parent, open_or_make)
