"""Digests of files, cached by what the file system says about them.

A digest is kept under (device, inode, size, mtime, ctime) and never under a path: a replaced file
has another inode, a moved one keeps its digest. A file written within the last two seconds is read
again each time, because a second write in the same tick of a coarse clock changes none of the five.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FileCache", "FileStamp", "sha256_file"]

T = TypeVar("T")

SETTLED_NS = 2_000_000_000
"""FAT and some network file systems keep times in steps of two seconds; nothing is coarser."""

CHUNK_BYTES = 1024 * 1024


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


class FileCache(Generic[T]):
    """Something computed from a file's content, kept as long as its stamp stays. Any thread."""

    def __init__(self, compute: Callable[[str], T]) -> None:
        self._compute = compute
        self._values: dict[FileStamp, T] = {}
        self._lock = threading.Lock()
        self.reads = 0

    def get(self, path: str) -> T | None:
        """Return the value for a file, or None if it is not a readable regular file."""
        stamp = FileStamp.of(path)
        if stamp is None:
            return None
        with self._lock:
            if stamp in self._values:
                return self._values[stamp]
            self.reads += 1
        try:
            value = self._compute(path)
        except OSError:
            return None
        # A write during the read shows as another stamp; the value is then not kept.
        if stamp.settled() and FileStamp.of(path) == stamp:
            with self._lock:
                self._values[stamp] = value
        return value


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
