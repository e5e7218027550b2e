"""Reading lists on disk: ``reads/<2 hex>/<base key>/<digest of the list>``.

A list is immutable and its name is the digest of its content, so that two processes that write the
same one write the same bytes, and a file that does not fit its name counts as not there. A base has
as many lists as its compiles took different ways through their headers: mostly one.

A list names what was read and vouches for nothing: a forged one only leads to the key of an entry
that is not there. So it needs no authentication.

Everything blocks. What was read is kept in memory by digest, since many kernels include the same.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ajit._cache.entries.touch import Touches
from ajit._cache.files import fs
from ajit._core.reads import NOTHING_READ, ReadingListInvalid, decode_list
from ajit.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._cache.files.directory import CacheDirectory
    from ajit._core.reads import ReadingList

__all__ = ["ListStore"]

TOP = "reads"

MAX_LISTS = 64
"""Lists of one base that a look-up goes through. Pretty arbitrary: more of them would mean a header
that chooses anew each time what else is included."""

MAX_KEPT_READS = 200_000
"""Reads of all lists kept in memory; some 20 MB."""


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
        digests = fs.list_names(self._directory.fd, f"{TOP}/{base[:2]}/{base}")[:MAX_LISTS]
        for digest in digests:
            found = self._read(base, digest)
            if found is not None:
                yield digest, found
        yield NOTHING_READ.digest, NOTHING_READ

    def publish(self, base: str, made: ReadingList) -> str:
        """Put a list on disk, whatever is there by that name. Return "" or why that failed."""
        if not made.reads:
            return ""
        if self._directory.access != "writable":
            return f"cache is {self._directory.access}: {self._directory.problem}"
        data, digest = made.encode(), made.digest
        name = f"{TOP}/{base[:2]}/{base}/{digest}"
        if self._is_there(name, data):
            return ""
        try:
            # Replacing: what is there has these bytes, or was torn.
            fs.publish_file(self._directory, name, data, replace=True)
        except (OSError, CacheError) as exc:
            return str(exc)
        self._keep(digest, made)
        return ""

    def _is_there(self, name: str, data: bytes) -> bool:
        try:
            return fs.read_file(self._directory, name) == data
        except OSError:
            return False

    def _read(self, base: str, digest: str) -> ReadingList | None:
        name = f"{TOP}/{base[:2]}/{base}/{digest}"
        with self._lock:
            found = self._kept.get(digest)
        if found is not None:
            return found
        try:
            data, modified = fs.read_dated_file(self._directory, name)
            found = decode_list(data, digest)
        except (OSError, ReadingListInvalid):
            return None
        self._touches.note(name, modified)
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
