"""Digests of files, cached by what the file system says about them.

A digest is kept under (device, inode, size, mtime, ctime) and never under a path: a replaced file
has another inode, a moved one keeps its digest. A file written within the last two seconds is read
again each time, because a second write in the same tick of a coarse clock changes none of the five.

A process forgets its digests when it ends, so sources can be attached that do not: the cache keeps
one file of digests for each node.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["FileCache", "FileStamp", "Source", "Stamp", "digests", "sha256_file"]

T = TypeVar("T")

SETTLED_NS = 2_000_000_000
"""FAT and some network file systems keep times in steps of two seconds; nothing is coarser."""

CHUNK_BYTES = 1024 * 1024

MAX_FILE_BYTES = 1024**3
"""A larger file has no digest: a list that was forged could name one that takes hours. Pretty
arbitrary: twice as much as the largest library of a compiler, and a matter of seconds."""

MAX_VALUES = 200_000
"""Above it a process begins anew. Pretty arbitrary: far above any tree of headers, some 60 MB."""

Stamp: TypeAlias = tuple[int, int, int, int, int]
"""The fields of a `FileStamp`, as a plain tuple: three times as fast to make."""


class FileStamp(NamedTuple):
    """What identifies a file's content without reading it."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: str) -> FileStamp | None:
        """Return the stamp of a regular file, or None if there is none at that path."""
        try:
            info = os.stat(path)
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(info.st_mode):
            return None
        return cls(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)

    def settled(self) -> bool:
        """Whether any later write is sure to show in the stamp."""
        return time.time_ns() - max(self.mtime_ns, self.ctime_ns) > SETTLED_NS


class Source(Protocol[T]):
    """Keeps values longer than this process lives. Any thread may call it, and it never raises."""

    def known(self, stamp: Stamp) -> T | None:
        """Return the value kept for a stamp, or None. It may read a file the first time."""

    def learned(self, values: Mapping[Stamp, T]) -> None:
        """Take values to keep; each stamp was settled. Does not block."""


class FileCache(Generic[T]):
    """Something computed from a file's content, kept as long as its stamp stays. Any thread.

    Attributes:
        reads: How often a file was read.
    """

    def __init__(self, compute: Callable[[str], T]) -> None:
        self._compute = compute
        # Read without the lock: a look-up in a dictionary is atomic, and values only come in here.
        self._values: dict[Stamp, T] = {}
        self._sources: tuple[Source[T], ...] = ()
        self._lock = threading.Lock()
        self.reads = 0

    def attach(self, source: Source[T]) -> None:
        """Ask a source, too, from now on, and tell it what is known and what will be."""
        with self._lock:
            self._sources = (*self._sources, source)
            known = dict(self._values)
        if known:
            source.learned(known)

    def detach(self, source: Source[T]) -> None:
        """Undo `attach`; nothing if that was done already."""
        with self._lock:
            self._sources = tuple(other for other in self._sources if other is not source)

    def get(self, path: str) -> T | None:
        """Return the value for a file, or None if it is no readable regular file, or too large."""
        try:
            info = os.stat(path)
        except (OSError, ValueError):
            return None
        stamp = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        if not stat.S_ISREG(info.st_mode):
            return None
        value = self.kept(stamp)
        return self._read(path, FileStamp(*stamp)) if value is None else value

    def kept(self, stamp: Stamp) -> T | None:
        """Return the value of a regular file that a `stat` said this about, if it is known."""
        value = self._values.get(stamp)
        return self._recall(stamp) if value is None else value

    def _recall(self, stamp: Stamp) -> T | None:
        """Ask the sources: the first that knows wins, and the others learn it."""
        for source in self._sources:
            value = source.known(stamp)
            if value is not None:
                self._keep(stamp, value, told_by=source)
                return value
        return None

    def _read(self, path: str, stamp: FileStamp) -> T | None:
        if stamp.size > MAX_FILE_BYTES:
            return None
        with self._lock:
            self.reads += 1
        try:
            value = self._compute(path)
        except OSError:
            return None
        # A write during the read shows as another stamp; the value is then not kept.
        if stamp.settled() and FileStamp.of(path) == stamp:
            self._keep(stamp, value)
        return value

    def _keep(self, stamp: Stamp, value: T, told_by: Source[T] | None = None) -> None:
        with self._lock:
            if len(self._values) >= MAX_VALUES:
                self._values = {}
            self._values[stamp] = value
            sources = self._sources
        for source in sources:
            if source is not told_by:
                source.learned({stamp: value})


def sha256_file(path: str) -> str:
    """Return the SHA-256 of a file's content in hex.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


digests: FileCache[str] = FileCache(sha256_file)
"""The digests of this process: a file has one, whichever runtime asks."""
