"""Looking at files of a cache: by descriptors of checked directories, and at our own files only.

A name below the cache may lead to anything: a link, a FIFO, a directory, a file that another user
has put there while he could. So what is opened is checked by its descriptor before a byte of it is
read: it must be a regular file, and belong to a user who may write to the cache. Everything here
blocks: call it from a thread.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from ajit._cache.files.folders import UnsafeFolder, close_unwritten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ajit._cache.files.directory import CacheDirectory
    from ajit._cache.files.folders import Folder
    from ajit._cache.files.sharing import Sharing

__all__ = [
    "LIST_DIRECTORY",
    "OPEN_TO_READ",
    "TEMPORARY",
    "Failed",
    "UnusableFile",
    "is_temporary",
    "list_files",
    "list_names",
    "list_names_or_raise",
    "now",
    "open_checked",
    "read_dated_file",
    "read_file",
    "regular_files",
    "stat_file",
    "touch_file",
    "unsafe_folders",
]

Failed: TypeAlias = "Callable[[str, OSError], None]"
"""Is told of a directory, by its relative name, that cannot be listed, and why."""

TEMPORARY = "tmp"

is_temporary = re.compile(r"[A-Za-z0-9-]+(\.[0-9]+){3}\.[0-9a-f]{16}").fullmatch
"""Matches the last part of a temporary file's name, as ajit makes it, and no other name."""

_is_folder_name = re.compile(r"[a-z]+/([0-9a-f]{2}|pe|ev)(/[0-9a-f]{64})?").fullmatch

OPEN_TO_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""A link is not followed, and a FIFO in its place must not hang: on regular files the flag has no
effect."""

LIST_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

# A link, a directory that is to be written, a socket, a file that may not be read.
_NOT_OURS = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES})

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


class UnusableFile(OSError):
    """There is something by that name, but no file that ajit may use. It may be replaced."""

    def __str__(self) -> str:
        return str(self.strerror)


def read_file(directory: CacheDirectory, name: str, limit_bytes: int) -> bytes:
    """Return the bytes of a file below the cache directory.

    Args:
        directory: The cache.
        name: Relative name.
        limit_bytes: The most that a file of its kind may have. Of a larger one no byte is read: a
            file without blocks on the disk may say that it has any size, and would fill the memory.

    Raises:
        FileNotFoundError: There is none.
        UnusableFile: It is no regular file, too large, may not be read, or belongs to another user.
        OSError: It cannot be read, or there is not the memory for it.
    """
    return read_dated_file(directory, name, limit_bytes)[0]


def read_dated_file(directory: CacheDirectory, name: str, limit_bytes: int) -> tuple[bytes, float]:
    """Return the same, and the Unix time of its last modification by the file system's clock."""
    parent, _, last = name.rpartition("/")
    sharing = directory.sharing
    return directory.folders.retry(
        parent, lambda folder: _read_once(folder.fd, last, sharing, limit_bytes)
    )


def open_checked(
    folder: Folder, name: str, flags: int, sharing: Sharing, *, only_name: bool = False
) -> int:
    """Open a file that is there, and check what was opened.

    Args:
        folder: Its directory.
        name: Its name in that.
        flags: As for `os.open`; no link is followed and nothing waits, whatever they are.
        sharing: Users whose files are accepted.
        only_name: Refuse a file that has other names as well: what is a hard link to another
            file must not be written to.

    Raises:
        FileNotFoundError: There is none.
        UnusableFile: It is not such a file. Nothing was read or written.
        OSError: It cannot be opened.
    """
    fd = _open(folder.fd, name, flags)
    try:
        status = os.fstat(fd)
        _check(status, name, sharing)
        if only_name:
            _check_links(status, name)
    except BaseException:
        close_unwritten(fd)
        raise
    return fd


def stat_file(directory: CacheDirectory, name: str) -> os.stat_result:
    """Return the status of a file, or of the link that is in its place.

    Raises:
        OSError: There is none, or it cannot be known.
    """
    parent, _, last = name.rpartition("/")
    return directory.folders.retry(
        parent, lambda folder: os.stat(last, dir_fd=folder.fd, follow_symlinks=False)
    )


def touch_file(directory: CacheDirectory, name: str) -> None:
    """Set the time of a file's last modification to the file server's now.

    Raises:
        OSError: It could not be set.
    """
    parent, _, last = name.rpartition("/")
    directory.folders.retry(
        parent, lambda folder: os.utime(last, dir_fd=folder.fd, follow_symlinks=False)
    )


def now(directory: CacheDirectory) -> float:
    """Return the Unix time by the file system's clock, which may be another machine's.

    Ages of files are differences of its times. If it cannot be read, this machine's clock is used.
    """
    with suppress(OSError):
        folder = directory.folders.current(TEMPORARY)
        os.utime(".", dir_fd=folder.fd, follow_symlinks=False)
        return os.stat(".", dir_fd=folder.fd).st_mtime
    return time.time()


def list_names(
    directory: CacheDirectory, name: str, failed: Failed = lambda _name, _error: None
) -> list[str]:
    """Names in a directory, sorted; none if it does not exist, cannot be read, or is not safe.

    Args:
        directory: The cache.
        name: Relative name of the directory.
        failed: Is told of one that cannot be read: it is not empty for that. Nothing lies in one
            that is not there, and what lies in one that is not safe is never used.
    """
    try:
        return list_names_or_raise(directory, name)
    except UnsafeFolder:
        return []
    except OSError as exc:  # an I/O error in the middle; half a list would look like a whole one
        failed(name, exc)
        return []


def list_names_or_raise(directory: CacheDirectory, name: str) -> list[str]:
    """The same, for those to whom a list that cannot be read is not an empty one.

    Raises:
        OSError: It cannot be read, or is not safe.
    """
    try:
        return directory.folders.retry(name, _names)
    except FileNotFoundError:
        return []


def list_files(
    directory: CacheDirectory,
    top: str,
    suffix: str,
    begins: str = "",
    failed: Failed = lambda _name, _error: None,
) -> Iterator[tuple[str, str]]:
    """Yield relative name and stem of every file ``<top>/<2 hex>/<stem><suffix>``, sorted.

    Only of those that lie where their name says: in the directory of its first two characters.

    Args:
        directory: The cache.
        top: Which of its directories.
        suffix: How the files' names end.
        begins: How they begin: two characters or more, or "" for all.
        failed: Is told of a directory that cannot be listed, see `list_names`.
    """
    for shard in [begins[:2]] if begins else list_names(directory, top, failed):
        for file in list_names(directory, f"{top}/{shard}", failed):
            if file.endswith(suffix) and file[:2] == shard and file.startswith(begins):
                yield f"{top}/{shard}/{file}", file.removesuffix(suffix)


def unsafe_folders(directory: CacheDirectory) -> Iterator[tuple[str, str]]:
    """Yield name and reason of every directory below the cache that is not used. For people.

    With an unsafe top directory no cache is opened, but for that of the history, see
    `ajit._cache.entries.history_reader.unusable_history`.
    """
    tops = ("entries", "reads", "locks", "failures")
    shards = [f"{top}/{name}" for top in tops for name in list_names(directory, top)]
    bases = [
        f"{shard}/{name}"
        for shard in shards
        if shard.startswith("reads/")
        for name in list_names(directory, shard)
    ]
    for name in filter(_is_folder_name, [*shards, *bases]):
        try:
            directory.folders.current(name)
        except UnsafeFolder as exc:
            yield name, str(exc)
        except OSError:
            continue  # it cannot be opened just now, or was removed


def regular_files(
    directory: CacheDirectory, name: str, failed: Failed = lambda _name, _error: None
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield name and status of the regular files in a directory, as far as it can be read.

    Args:
        directory: The cache.
        name: Relative name of the directory.
        failed: Is told if it cannot be read, or not to the end, see `list_names`.
    """
    try:
        folder = directory.folders.current(name)
        fd = os.open(".", LIST_DIRECTORY, dir_fd=folder.fd)
        try:
            with os.scandir(fd) as found:
                for entry in found:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:  # removed meanwhile
                        continue
                    except OSError as exc:
                        failed(f"{name}/{entry.name}", exc)
                        continue
                    if stat.S_ISREG(status.st_mode):
                        yield entry.name, status
        finally:
            close_unwritten(fd)
    except (FileNotFoundError, UnsafeFolder):
        return
    except OSError as exc:
        failed(name, exc)


def _names(folder: Folder) -> list[str]:
    fd = os.open(".", LIST_DIRECTORY, dir_fd=folder.fd)
    try:
        with os.scandir(fd) as found:
            return sorted(entry.name for entry in found)
    finally:
        close_unwritten(fd)


def _read_once(dir_fd: int, name: str, sharing: Sharing, limit_bytes: int) -> tuple[bytes, float]:
    fd = _open(dir_fd, name, OPEN_TO_READ)
    try:
        # The size by the descriptor, not by the name: it is that of the file which is read, and
        # allows one allocation of the right size.
        status = os.fstat(fd)
        _check(status, name, sharing)
        size = status.st_size
        if size > limit_bytes:
            reason = f"{name} has {size} bytes, and a file of its kind at most {limit_bytes}"
            raise UnusableFile(errno.EFBIG, reason)
        data = os.read(fd, size)
        # Network file systems may cut a read short; so does Linux above 2 GiB.
        while len(data) < size and (more := os.read(fd, size - len(data))):
            data += more
    except MemoryError as exc:
        raise OSError(errno.ENOMEM, f"{os.strerror(errno.ENOMEM)} to read {name}") from exc
    finally:
        close_unwritten(fd)
    return data, status.st_mtime


def _open(dir_fd: int, name: str, flags: int) -> int:
    """Open a file; what can be no file of ours is an `UnusableFile`."""
    try:
        return os.open(name, flags | OPEN_TO_READ, dir_fd=dir_fd)
    except OSError as exc:
        if exc.errno in _NOT_OURS:
            raise _unusable(exc, name) from exc
        raise


def _check(status: os.stat_result, name: str, sharing: Sharing) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a device")
        raise UnusableFile(errno.EINVAL, f"{name} is {kind}, and not a regular file")
    reason = sharing.objection(status)
    if reason:
        raise UnusableFile(errno.EPERM, f"{name}: {reason}")


def _check_links(status: os.stat_result, name: str) -> None:
    if status.st_nlink > 1:
        raise UnusableFile(errno.EMLINK, f"{name}: it is a hard link to another file")


def _unusable(exc: OSError, name: str) -> UnusableFile:
    kind = "it is a symbolic link" if exc.errno == errno.ELOOP else exc.strerror
    return UnusableFile(exc.errno, f"{name}: {kind}")
