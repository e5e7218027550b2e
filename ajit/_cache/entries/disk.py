"""The disk tier: one file per entry, verified on every read, published create-only.

A read returns `Found`, `Missing` or `Rejected`, whatever it meets on the disk. A publish returns
`Published`, `Lost` or `PublishFailed`. Neither raises for a failure of the disk: after a publish
the caller still has the compiled bytes and goes on with them. Everything here blocks: call it from
a thread. Any number of threads may use one store.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from ajit._cache.entries.touch import Touches
from ajit._cache.files import fs
from ajit._core.entry import (
    Artifact,
    EntryInvalid,
    EntryOfOtherVersion,
    Manifest,
    decode,
    decode_manifest,
    encode,
)
from ajit.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._cache.files.directory import CacheDirectory

__all__ = [
    "DiskStatistics",
    "DiskStore",
    "EntryInfo",
    "Found",
    "Lookup",
    "Lost",
    "Missing",
    "PublishFailed",
    "PublishResult",
    "Published",
    "Rejected",
]

TOP = "entries"
SUFFIX = ".ajit"

is_entry_key = re.compile(r"[0-9a-f]{64}").fullmatch
"""Matches a text that may become a file name. As `ajit._core.key.is_key`, but ten times faster."""


# Structs and not dataclasses: a fresh process reads hundreds of entries, and a frozen dataclass
# takes a microsecond to make, a tenth of what a small entry takes to read.


class Found(msgspec.Struct, frozen=True):
    """The entry is there and verified.

    Attributes:
        artifact: What it holds.
        size_bytes: Size of its file.
    """

    artifact: Artifact
    size_bytes: int


class Missing(msgspec.Struct, frozen=True):
    """There is no entry.

    Attributes:
        reason: "", or why an entry that may exist cannot be read.
    """

    reason: str = ""


class Rejected(msgspec.Struct, frozen=True):
    """There is an entry, but it did not verify: it counts as a miss and is replaced.

    Attributes:
        reason: Why not.
        other_version: Whether another version of ajit wrote it. No look-up meets such an entry.
    """

    reason: str
    other_version: bool = False


@dataclass(frozen=True, slots=True)
class Published:
    """The entry is on disk.

    Attributes:
        method: The call that gave the file its name.
        size_bytes: Size of its file.
    """

    method: fs.PublishMethod
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Lost:
    """An entry of that key was there already. It was not touched; the caller keeps its bytes."""


@dataclass(frozen=True, slots=True)
class PublishFailed:
    """Nothing was published and nothing is left behind; the caller keeps its bytes."""

    reason: str


Lookup = Found | Missing | Rejected
PublishResult = Published | Lost | PublishFailed


@dataclass(frozen=True, slots=True)
class EntryInfo:
    """A file of the cache, not verified.

    Attributes:
        key: Hex key, by its name.
        size_bytes: Size of the file.
        modified: Unix time in seconds, by the file system's clock. Only for people.
    """

    key: str
    size_bytes: int
    modified: float


@dataclass(frozen=True, slots=True)
class DiskStatistics:
    """Counts of a store since it was made: one for each read and publish."""

    found: int = 0
    missing: int = 0
    rejected: int = 0
    published: int = 0
    lost: int = 0
    failed: int = 0


_COUNTED: dict[type, str] = {
    Found: "found",
    Missing: "missing",
    Rejected: "rejected",
    Published: "published",
    Lost: "lost",
    PublishFailed: "failed",
}


class DiskStore:
    """The entries of one cache directory.

    Args:
        directory: From `ajit._cache.files.directory.open_cache_directory`. Temporary files that
            dead processes of this host have left in it are removed.
        secret: The key that entries are authenticated with, from
            `ajit._cache.files.secret.load_secret`; an entry without its tag is then `Rejected`.
            None accepts every entry.
    """

    def __init__(self, directory: CacheDirectory, secret: bytes | None = None) -> None:
        self.directory = directory
        self._secret = secret
        self._counts = dict.fromkeys(DiskStatistics.__slots__, 0)
        self._lock = threading.Lock()
        self._touches = Touches(directory)
        if directory.access == "writable":
            fs.sweep_temporaries(directory)

    @property
    def identity(self) -> tuple[int, int]:
        """Equal for all stores of one directory, whatever path it was opened by."""
        return self.directory.identity

    def read(self, key: str) -> Lookup:
        """Read and verify an entry: one open, one read; nothing is used before the digest matches.

        Raises:
            ValueError: The text is not a key.
        """
        lookup = self._read(key, used=True)
        self._count(_COUNTED[type(lookup)])
        return lookup

    def publish(self, artifact: Artifact, *, replace: bool = False) -> PublishResult:
        """Put an artifact on disk under its key. Whatever it returns, the artifact can be used.

        Args:
            artifact: What to publish.
            replace: Replace the entry, which was `Rejected` by a read just before.

        Raises:
            ValueError: The artifact's key is not a key.
        """
        name = _file_name(artifact.key)
        result: PublishResult
        if self.directory.access != "writable":
            result = PublishFailed(f"cache is {self._access()}: {self.directory.problem}")
        else:
            result = self._publish(name, encode(artifact, self._secret), replace=replace)
        self._count(_COUNTED[type(result)])
        return result

    def manifest(self, key: str) -> tuple[Manifest, int] | Missing | Rejected:
        """Verify an entry and return its manifest and the size of its compiled bytes.

        Raises:
            ValueError: The text is not a key.
        """
        try:
            data = fs.read_file(self.directory, _file_name(key))
            manifest, size_bytes = decode_manifest(data, self._secret)
        except FileNotFoundError:
            return Missing()
        except OSError as exc:
            return Missing(_reason(exc))
        except EntryInvalid as exc:
            return Rejected(str(exc))
        if manifest.key != key:
            return Rejected(f"entry of key {manifest.key[:16]}, not of {key[:16]}")
        return manifest, size_bytes

    def entries(self) -> Iterator[EntryInfo]:
        """Yield the files of the cache by key, without those that are removed meanwhile."""
        for name, key in fs.list_files(self.directory, TOP, SUFFIX):
            if is_entry_key(key) is None:
                continue
            try:
                status = os.stat(name, dir_fd=self.directory.fd, follow_symlinks=False)
            except OSError:
                continue
            yield EntryInfo(key, status.st_size, status.st_mtime)

    def verify(self) -> Iterator[tuple[str, Lookup]]:
        """Read every entry and yield the result; not counted in `statistics`."""
        for entry in self.entries():
            yield entry.key, self._read(entry.key, used=False)

    def remove(self, key: str) -> bool:
        """Remove an entry; a process that is reading it can finish. False if there was none.

        Raises:
            ValueError: The text is not a key.
            OSError: It could not be removed.
        """
        return fs.remove_file(self.directory, _file_name(key))

    def statistics(self) -> DiskStatistics:
        """What this store has done so far."""
        with self._lock:
            return DiskStatistics(**self._counts)

    def __repr__(self) -> str:
        return f"<DiskStore {self.directory.path} {self._access()} {self.statistics()}>"

    def _read(self, key: str, *, used: bool) -> Lookup:
        name = _file_name(key)
        try:
            data, modified = fs.read_dated_file(self.directory, name)
            found = Found(decode(data, key, self._secret), len(data))
        except FileNotFoundError:
            return Missing()
        except OSError as exc:
            # No permission, an I/O error, a link in its place: the entry cannot be used, and the
            # kernel is compiled instead.
            return Missing("" if self.directory.access == "none" else _reason(exc))
        except EntryInvalid as exc:
            return Rejected(str(exc), isinstance(exc, EntryOfOtherVersion))
        if used:
            self._touches.note(name, modified)
        return found

    def _publish(self, name: str, data: bytes, *, replace: bool) -> PublishResult:
        try:
            return Published(
                fs.publish_file(self.directory, name, data, replace=replace), len(data)
            )
        except FileExistsError:
            return Lost()
        except (OSError, CacheError) as exc:
            return PublishFailed(_reason(exc))

    def _access(self) -> str:
        access = self.directory.access
        return "absent" if access == "none" else access

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1


def _file_name(key: str) -> str:
    if is_entry_key(key) is None:
        raise ValueError(f"not a key: {key[:80]!r} (64 hexadecimal digits)")
    return f"{TOP}/{key[:2]}/{key}{SUFFIX}"


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.strerror} ({exc.filename})" if exc.filename else exc.strerror
    return str(exc)
