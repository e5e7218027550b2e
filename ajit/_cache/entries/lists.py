"""Reading lists on disk: ``reads/<2 hex>/<base key>/<digest of the list>``.

A list is immutable and its name is the digest of its content, so that two processes that write the
same one write the same bytes, and a file that does not fit its name counts as not there. A base has
as many lists as its compiles took different ways through their headers: mostly one.

A list names what was read and vouches for nothing: a forged one only leads to the key of an entry
that is not there. So it needs no authentication.

Everything blocks. What was read is kept in memory by digest, since many kernels include the same.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ajit._cache.entries.touch import Touches
from ajit._cache.files import fs
from ajit._core.key import is_key
from ajit._core.reads import NOTHING_READ, ReadingListInvalid, decode_list
from ajit.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._cache.files.directory import CacheDirectory
    from ajit._core.reads import ReadingList

__all__ = ["TOP", "ListInfo", "ListStore", "base_folders", "list_name", "remove_list"]

TOP = "reads"

MAX_LIST_BYTES = 16 * 1024 * 1024
"""A larger file is not even read, and a larger list not stored: `MAX_READS` names of 300 bytes."""

MAX_LISTS = 64
"""Lists of one base that a look-up goes through. Pretty arbitrary: more of them would mean a header
that chooses anew each time what else is included."""

MAX_KEPT_READS = 200_000
"""Reads of all lists kept in memory; some 20 MB."""

_NOTHING = NOTHING_READ.digest


class ListInfo(NamedTuple):
    """One file of a reading list.

    Attributes:
        base: Hex base key.
        digest: The digest that names it.
        size_bytes: Its size.
        reads: How many reads it lists.
        problem: Why it counts as not there, or "".
        unread: Whether it could not be read now: it may be good.
    """

    base: str
    digest: str
    size_bytes: int
    reads: int
    problem: str
    unread: bool = False

    @property
    def is_bad(self) -> bool:
        """Whether it was read, and is not what its name says."""
        return bool(self.problem) and not self.unread


class ListStore:
    """The reading lists of one cache directory. Any thread may use it."""

    def __init__(self, directory: CacheDirectory) -> None:
        self._directory = directory
        self._touches = Touches(directory)
        self._lock = threading.Lock()
        self._kept: dict[str, ReadingList] = {}
        self._kept_reads = 0

    def lists(self, base: str) -> Iterator[tuple[str, ReadingList]]:
        """Yield digest and list for every list of a base, and the list of nothing where that fits.

        A compile that read nothing has no file. So that list comes first where there are no files,
        which is how most sources without an include are found, and last where there are some.
        """
        for digest in self._digests(f"{TOP}/{base[:2]}/{base}"):
            found = self._read(base, digest)
            if found is not None:
                yield digest, found
        yield _NOTHING, NOTHING_READ

    def named(self, base: str, digits: str) -> ReadingList | None:
        """Return the list of a base whose digest begins with these digits, if it is there."""
        folder = f"{TOP}/{base[:2]}/{base}"
        for digest in fs.list_names(self._directory, folder):
            if digest.startswith(digits):
                return self._read(base, digest)
        return None

    def used(self, base: str, digest: str) -> None:
        """Note that a list led to an entry."""
        if digest != _NOTHING:
            name = list_name(base, digest)
            self._touches.note(name, _modified(self._directory, name))

    def files(
        self, base: str = "", failed: fs.Failed = lambda _name, _error: None
    ) -> Iterator[ListInfo]:
        """Yield every list on disk, or every one of a base, verified and not counted as used.

        Args:
            base: Hex base key, or "" for all.
            failed: Is told of a directory that cannot be listed.
        """
        for folder in base_folders(self._directory, base, failed):
            for digest in filter(is_key, fs.list_names(self._directory, folder, failed)):
                with suppress(FileNotFoundError):  # removed meanwhile
                    yield self._info(folder, digest)

    def publish(self, base: str, made: ReadingList) -> str:
        """Put a list on disk, whatever is there by that name. Return "" or why that failed."""
        if not made.reads:
            return ""
        data, digest = made.encode(), made.digest
        if objection := self._objection(data):
            return objection
        name = list_name(base, digest)
        if self._is_there(name, data):
            # It may have been unused for long, and must not be evicted now.
            self._touches.note(name, 0.0)
            return ""
        try:
            # Replacing: what is there has these bytes, or was torn.
            fs.publish_file(self._directory, name, data, replace=True)
        except (OSError, CacheError) as exc:
            return str(exc)
        if not self._is_there(name, data):
            return f"{name} cannot be read back after it was written"
        self._keep(digest, made)
        return ""

    def _objection(self, data: bytes) -> str:
        if self._directory.access != "writable":
            return f"cache is {self._directory.access}: {self._directory.problem}"
        if len(data) > MAX_LIST_BYTES:
            return f"the reading list has {len(data)} bytes, at most {MAX_LIST_BYTES}"
        return ""

    def _is_there(self, name: str, data: bytes) -> bool:
        try:
            return fs.read_file(self._directory, name, MAX_LIST_BYTES) == data
        except OSError:
            return False

    def _digests(self, folder: str) -> list[str]:
        """The lists of one base that a look-up goes through: those used last, if there are many."""
        directory = self._directory
        names = fs.list_names(directory, folder)
        if len(names) > 1:
            names.sort(key=lambda name: _modified(directory, f"{folder}/{name}"), reverse=True)
        return names[:MAX_LISTS]

    def _info(self, folder: str, digest: str) -> ListInfo:
        base = folder.rpartition("/")[2]
        look = partial(ListInfo, base, digest)
        try:
            data = fs.read_file(self._directory, f"{folder}/{digest}", MAX_LIST_BYTES)
        except FileNotFoundError:
            raise
        except OSError as exc:
            unread = not isinstance(exc, fs.UnusableFile)
            return look(0, 0, exc.strerror or str(exc), unread)
        try:
            return look(len(data), len(decode_list(data, digest).reads), "")
        except ReadingListInvalid as exc:
            return look(len(data), 0, str(exc))
        except MemoryError:
            return look(len(data), 0, "out of memory", unread=True)

    def _read(self, base: str, digest: str) -> ReadingList | None:
        with self._lock:
            found = self._kept.get(digest)
        if found is not None:
            return found
        try:
            data = fs.read_file(self._directory, list_name(base, digest), MAX_LIST_BYTES)
            found = decode_list(data, digest)
        except (OSError, ReadingListInvalid, MemoryError):
            return None
        self._keep(digest, found)
        return found

    def _keep(self, digest: str, found: ReadingList) -> None:
        with self._lock:
            if self._kept_reads > MAX_KEPT_READS:
                self._kept.clear()
                self._kept_reads = 0
            if digest not in self._kept:
                self._kept[digest] = found
                self._kept_reads += len(found.reads)


def base_folders(
    directory: CacheDirectory, prefix: str = "", failed: fs.Failed = lambda _name, _error: None
) -> Iterator[str]:
    """Yield the relative name of every base's folder, or of those whose base key begins so.

    Args:
        directory: The cache.
        prefix: How the base keys begin.
        failed: Is told of a directory that cannot be listed.
    """
    for shard in [prefix[:2]] if prefix else fs.list_names(directory, TOP, failed):
        for base in fs.list_names(directory, f"{TOP}/{shard}", failed):
            if base.startswith(prefix or shard) and is_key(base):
                yield f"{TOP}/{shard}/{base}"


def list_name(base: str, digest: str) -> str:
    """Return the relative name of a list."""
    return f"{TOP}/{base[:2]}/{base}/{digest}"


def remove_list(directory: CacheDirectory, name: str) -> None:
    """Unlink a list, and its base's folder if that is empty now.

    Raises:
        OSError: The list could not be unlinked.
    """
    if not fs.remove_file(directory, name):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    # A folder that is not empty stays. A process that publishes in between makes it again.
    with suppress(OSError):
        fs.remove_empty(directory, name.rpartition("/")[0])


def _modified(directory: CacheDirectory, name: str) -> float:
    try:
        return fs.stat_file(directory, name).st_mtime
    except OSError:
        return 0.0
