"""The disk tier: one file per entry, verified on every read, published create-only.

A read returns `Found`, `Missing` or `Rejected`, whatever it meets on the disk. A publish returns
`Published`, `Lost` or `PublishFailed`. Neither raises for a failure of the disk: after a publish
the caller still has the compiled bytes and goes on with them. Everything here blocks: call it from
a thread. Any number of threads may use one store.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit._cache.entries.bundles import BundleStore
from ajit._cache.entries.results import (
    SUFFIX,
    TOP,
    Described,
    Found,
    Lookup,
    Lost,
    Missing,
    Published,
    PublishFailed,
    PublishResult,
    Rejected,
    entry_name,
    is_entry_key,
    look_up,
    reason_of,
)
from ajit._cache.entries.touch import Touches
from ajit._cache.files import fs
from ajit._core.entry import (
    Artifact,
    CannotEncode,
    EntryInvalid,
    decode,
    decode_manifest,
    encode,
    seal_of,
)
from ajit._core.manifest import MAX_MANIFEST_BYTES
from ajit._core.reads import BASE_DIGITS
from ajit._core.seal import NO_TRUST, CannotSeal
from ajit.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._cache.files.directory import CacheDirectory
    from ajit._core.seal import Trust

__all__ = [
    "MAX_CODE_BYTES",
    "SUFFIX",
    "TOP",
    "Described",
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
    "has_entries",
    "is_entry_key",
]

OVERHEAD_BYTES = MAX_MANIFEST_BYTES + 64 * 1024
"""What an entry may have besides its compiled bytes: the manifest, its frame and a seal."""

MAX_CODE_BYTES = 1024 * 1024 * 1024
"""The most compiled bytes that are read where no setting says. Pretty arbitrary: four times what a
compile may make by default."""


@dataclass(frozen=True, slots=True)
class EntryInfo:
    """A file of the cache, not verified.

    Attributes:
        key: Hex key, by its name.
        size_bytes: Size of the file.
        modified: Unix time in seconds, by the file system's clock. Only for people.
        inode: Its inode.
    """

    key: str
    size_bytes: int
    modified: float
    inode: int = 0


@dataclass(frozen=True, slots=True)
class DiskStatistics:
    """Counts of a store since it was made: one for each read and publish of an entry.

    Attributes:
        found: Looks that found an entry that verified.
        missing: Looks that found none, or none that could be read. A kernel that is compiled counts
            once, however often its walk looks.
        rejected: Looks that found an entry that did not verify, likewise; such a kernel is
            compiled, too.
        published: Entries that were written.
        lost: Entries that were not written, because another process had written the same before.
        failed: Entries that could not be written.
    """

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


def has_entries(directory: CacheDirectory, base: str) -> bool:
    """Whether a cache has any entry of a base key, whatever its compile has read."""
    try:
        return any(True for _ in fs.list_files(directory, TOP, SUFFIX, base[:BASE_DIGITS]))
    except OSError:
        return False


class DiskStore:
    """The entries of one cache directory.

    Args:
        directory: From `ajit._cache.files.directory.open_cache_directory`. Temporary files that
            dead processes of this host have left in it are removed.
        trust: Which seal of an entry is asked for, from `ajit._cache.files.trust.load_trust`; an
            entry without a good one is `Rejected`.
        max_code_bytes: An entry with more compiled bytes is `Rejected`, unread.

    Attributes:
        directory: The cache.
        bundles: What of it is bundles. `read` and `publish` are for the other entries.
        limit_bytes: The most that an entry's file may have.
    """

    def __init__(
        self,
        directory: CacheDirectory,
        trust: Trust = NO_TRUST,
        max_code_bytes: int = MAX_CODE_BYTES,
    ) -> None:
        self.directory = directory
        self.limit_bytes = max_code_bytes + OVERHEAD_BYTES
        self._trust = trust
        self._counts = dict.fromkeys(DiskStatistics.__slots__, 0)
        self._lock = threading.Lock()
        self._touches = Touches(directory)
        self.bundles = BundleStore(directory, trust, self.count)
        if directory.access == "writable":
            fs.sweep_temporaries(directory)

    @property
    def identity(self) -> tuple[int, int]:
        """Equal for all stores of one directory, whatever path it was opened by."""
        return self.directory.identity

    def read(self, key: str, *, counted: bool = True) -> Lookup:
        """Read and verify an entry: one open, one read; nothing is used before the digest matches.

        Args:
            key: Whose.
            counted: Whether it is counted in `statistics`; else who asks does (`count`).

        Raises:
            ValueError: The text is not a key.
        """
        lookup = self._read(key, used=True)
        if counted:
            self.count(type(lookup))
        return lookup

    def publish(self, artifact: Artifact, *, replace: bool = False) -> PublishResult:
        """Put an artifact on disk under its key. Whatever it returns, the artifact can be used.

        Args:
            artifact: What to publish.
            replace: Replace the entry, which was `Rejected` by a read just before.

        Raises:
            ValueError: The artifact's key is not a key.
        """
        entry_name(artifact.key)
        result: PublishResult
        if self.directory.access != "writable":
            result = PublishFailed(f"cache is {self._access()}: {self.directory.problem}")
        else:
            result = self._publish(artifact, replace=replace)
        self.count(type(result))
        return result

    def manifest(self, key: str) -> Described | Missing | Rejected:
        """Verify an entry and return what it says of itself.

        Raises:
            ValueError: The text is not a key.
        """
        try:
            is_bundle = self.bundles.has(key)
        except OSError as exc:
            return Missing(reason_of(exc))
        return self.bundles.describe(key) if is_bundle else self._describe(key)

    def _describe(self, key: str) -> Described | Missing | Rejected:
        try:
            data = fs.read_file(self.directory, entry_name(key), self.limit_bytes)
            manifest, size_bytes = decode_manifest(data, self._trust)
            seal = seal_of(data, self._trust)
        except FileNotFoundError:
            return Missing()
        except fs.UnusableFile as exc:
            return Rejected(reason_of(exc))
        except (OSError, MemoryError) as exc:
            return Missing(reason_of(exc))
        except EntryInvalid as exc:
            return Rejected(str(exc))
        if manifest.key != key:
            return Rejected(f"entry of key {manifest.key[:16]}, not of {key[:16]}")
        return Described(manifest, size_bytes, seal)

    def entries(
        self, digits: str = "", failed: fs.Failed = lambda _name, _error: None
    ) -> Iterator[EntryInfo]:
        """Yield the files of the cache by key, without those that are removed meanwhile.

        Args:
            digits: How their keys begin: two digits or more, or "" for all.
            failed: Is told of a directory that cannot be listed, and of a file of which nothing
                can be told.
        """
        for name, key in fs.list_files(self.directory, TOP, SUFFIX, digits, failed):
            if is_entry_key(key) is None:
                continue
            try:
                status = fs.stat_file(self.directory, name)
            except FileNotFoundError:
                continue
            except OSError as exc:
                failed(name, exc)
                continue
            yield EntryInfo(key, status.st_size, status.st_mtime, status.st_ino)

    def verify(
        self, failed: fs.Failed = lambda _name, _error: None
    ) -> Iterator[tuple[str, Lookup]]:
        """Read every entry and yield the result; not counted in `statistics`.

        Args:
            failed: Is told of a directory that cannot be listed.
        """
        for entry in self.entries(failed=failed):
            yield entry.key, self.read_whole(entry.key)

    def read_whole(self, key: str) -> Lookup:
        """Read an entry, with all of its files if it is a bundle. It is not counted as used.

        Raises:
            ValueError: The text is not a key.
        """
        try:
            is_bundle = self.bundles.has(key)
        except OSError as exc:
            return Missing(reason_of(exc))
        return self.bundles.verify(key) if is_bundle else self._read(key, used=False)

    def remove(self, key: str) -> bool:
        """Remove an entry; a process that is reading it can finish. False if there was none.

        Raises:
            ValueError: The text is not a key.
            OSError: It could not be removed.
        """
        return fs.remove_file(self.directory, entry_name(key))

    def statistics(self) -> DiskStatistics:
        """What this store has done so far."""
        with self._lock:
            return DiskStatistics(**self._counts)

    def __repr__(self) -> str:
        return f"<DiskStore {self.directory.path} {self._access()} {self.statistics()}>"

    def _read(self, key: str, *, used: bool) -> Lookup:
        name = entry_name(key)

        def read() -> Found:
            data, modified = fs.read_dated_file(self.directory, name, self.limit_bytes)
            artifact = decode(data, key, self._trust)
            if used:
                self._touches.note(name, modified)
                return Found(artifact, len(data))
            return Found(artifact, len(data), seal_of(data, self._trust))

        return look_up(self.directory, read)

    def _publish(self, artifact: Artifact, *, replace: bool) -> PublishResult:
        """Put an entry there, and tell that only if it, or another good one, can be read."""
        result = self._put(artifact, replace=replace)
        if isinstance(result, PublishFailed):
            return result
        there = self._read(artifact.key, used=False)
        if isinstance(there, Found):
            return result
        if isinstance(result, Lost) and not replace:
            # What has the name is no entry, whatever a look before may have met.
            return self._publish(artifact, replace=True)
        return PublishFailed(
            f"what was written cannot be read back: {there.reason or 'it is gone'}"
        )

    def _put(self, artifact: Artifact, *, replace: bool) -> Published | Lost | PublishFailed:
        name = entry_name(artifact.key)
        try:
            data = encode(artifact, self._trust)
            return Published(
                fs.publish_file(self.directory, name, data, replace=replace), len(data)
            )
        except FileExistsError:
            return Lost()
        except (OSError, CacheError, CannotEncode, CannotSeal) as exc:
            return PublishFailed(reason_of(exc))

    def _access(self) -> str:
        access = self.directory.access
        return "absent" if access == "none" else access

    def count(self, result: type) -> None:
        """Count a result of a read or a publish; bundles are counted here, too."""
        with self._lock:
            self._counts[_COUNTED[result]] += 1
