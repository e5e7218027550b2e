"""Eviction: keeps a cache within its limits, beside readers, publishers and other evictors.

`ajit._cache.entries.eviction` decides what is removed. Before an entry or a reading list is
removed, the lease of its base is taken, and the file must not have changed: one that is being
replaced, or was used meanwhile, is kept. A process that is reading a removed entry can finish. Only
one process at a time removes anything from a cache: it holds the evictors' lease.

The lock file of a key of which nothing else is left goes after a day, by who holds its lock, see
`ajit._cache.leases.lock_file`. On a file system that other nodes may have mounted it is kept: there
unlinking it might be seen too late, which would split its waiters over two files. Directories are
kept as well, since the next publish needs them.

Nothing here raises for what the file system does: what cannot be removed is reported.
Everything blocks: call it from a thread.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from ajit._cache.entries.disk import SUFFIX, TOP, is_entry_key
from ajit._cache.entries.eviction import Doomed, Eviction, File, Inventory, Limits, choose
from ajit._cache.entries.history import TOP as HISTORY
from ajit._cache.entries.history import is_history_name
from ajit._cache.entries.lists import TOP as READS
from ajit._cache.entries.lists import base_folders, remove_list
from ajit._cache.entries.node_digests import TOP as DIGESTS
from ajit._cache.entries.node_digests import is_node_name
from ajit._cache.files import fs
from ajit._cache.files.file_system import is_local, mount_of
from ajit._cache.leases.permits import PERMIT_PREFIX, is_permit_file
from ajit._cache.leases.table import Busy, Lease, LeaseTable, Unavailable
from ajit._core.key import is_key
from ajit._core.reads import BASE_DIGITS
from ajit._core.seal import NO_TRUST
from ajit._system.process import this_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ajit._cache.entries.eviction import Reason
    from ajit._cache.files.directory import CacheDirectory
    from ajit._core.seal import Trust

__all__ = ["EVICTION_LEASE", "Collected", "Collector", "Eviction", "Limits", "Skipped"]

EVICTION_LEASE = "eviction"
"""Name of the evictors' lease. It is not a key, so no kernel has it."""

BEAT_SECONDS = 1.0

LOCKS = "locks"
LOCK_SUFFIX = ".lock"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that could not be removed, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What was done.

    Attributes:
        entries: Entries removed.
        debris: Reading lists, digests, failure records, temporary files, permits, locks and history
            removed.
        bytes: Their size.
        kept_entries: Entries that are left, or that were not gone through yet.
        kept_bytes: Their size, with that of reading lists and digests.
        skipped: Files of the plan that were not removed.
        finished: Whether the whole plan was carried out; if not, the next one continues.
    """

    entries: int = 0
    debris: int = 0
    bytes: int = 0
    kept_entries: int = 0
    kept_bytes: int = 0
    skipped: tuple[Skipped, ...] = ()
    finished: bool = True


class Collector:
    """Finds and removes the files that are above a cache's limits.

    Args:
        directory: The cache.
        limits: What it may hold.
        trust: Which seal its lease has.
    """

    def __init__(self, directory: CacheDirectory, limits: Limits, trust: Trust = NO_TRUST) -> None:
        self._directory = directory
        self._limits = limits
        self._leases = LeaseTable(directory, trust)

    def plan(self, condemned: Mapping[str, Reason] = MappingProxyType({})) -> Eviction:
        """Look at every file of the cache, without opening it, and decide what to remove.

        Args:
            condemned: Names of files that are to go whatever the limits are, and why.
        """
        return choose(self._inventory(), self._limits, condemned)

    def perform(self, plan: Eviction, *, work_seconds: float = float("inf")) -> Collected | None:
        """Remove the files of a plan, except those that have changed since.

        Args:
            plan: From `plan`.
            work_seconds: Stop after this time; the next plan has the rest.

        Returns:
            What was done; or None if another process is removing files, and nothing was done.
        """
        with self._as_only_evictor() as lease:
            return None if isinstance(lease, Busy) else self._perform(plan, lease, work_seconds)

    def collect(
        self, *, every_seconds: float = 0.0, work_seconds: float = float("inf")
    ) -> Collected | None:
        """Plan and perform, for a thread in the background.

        Args:
            every_seconds: Do nothing if any process did this in the last so many seconds.
            work_seconds: Stop removing after this time.

        Returns:
            What was done; or None if another process is removing files, or was just now.
        """
        if self._seconds_since_last() < every_seconds:
            return None
        with self._as_only_evictor() as lease:
            if isinstance(lease, Busy):
                return None
            return self._perform(self.plan(), lease, work_seconds)

    @contextmanager
    def _as_only_evictor(self) -> Iterator[Lease | Busy | Unavailable]:
        lease = self._leases.try_acquire(EVICTION_LEASE, "eviction")
        try:
            # Without locks two evictors may run: each removes what the other has left.
            yield lease
        finally:
            if isinstance(lease, Lease):
                lease.release()

    def _perform(
        self, plan: Eviction, lease: Lease | Unavailable, work_seconds: float
    ) -> Collected:
        removed: list[Doomed] = []
        skipped: list[Skipped] = []
        begun = beat = time.monotonic()
        finished = True
        bases = _LeasedBases(self._directory)
        for doomed in (*plan.entries, *plan.debris):
            now = time.monotonic()
            if now - begun > work_seconds:
                finished = False
                break
            if now - beat > BEAT_SECONDS and isinstance(lease, Lease):
                lease.beat()
                beat = now
            reason = self._remove(doomed, bases)
            if reason:
                skipped.append(Skipped(doomed.file.name, reason))
            else:
                removed.append(doomed)
        return _collected(plan, removed, skipped, finished=finished)

    def _remove(self, doomed: Doomed, bases: _LeasedBases) -> str:
        """Remove one file, and return "" or why it was not removed."""
        if doomed.reason == "lock of a bygone key":
            return self._discard(doomed.file)
        try:
            base = bases.of(doomed.file) if doomed.file.name.startswith((TOP, READS)) else None
        except OSError as exc:
            return f"whether it is leased cannot be known: {exc.strerror or exc}"
        if base is None:
            return self._unlink(doomed.file)
        # No claim of its own for each file: it would leave more behind than it removes.
        lease = self._leases.try_acquire(base, "eviction", claim=False)
        if isinstance(lease, Busy):
            return "its lease is held"
        if not isinstance(lease, Lease):
            return self._unlink(doomed.file)
        with lease:
            return self._unlink(doomed.file)

    def _discard(self, file: File) -> str:
        """Remove a lock file. A process on its way to the lock finds out, and makes a new one."""
        try:
            if not self._is_as_seen(file):
                return "it was used or replaced meanwhile"
        except OSError as exc:
            return exc.strerror or str(exc)
        lease = self._leases.try_acquire(file.key, "eviction")
        if isinstance(lease, Busy):
            return "its lease is held"
        if not isinstance(lease, Lease):
            return lease.reason
        return "" if lease.discard() else "it is in use, or cannot be removed"

    def _is_as_seen(self, file: File) -> bool:
        status = fs.stat_file(self._directory, file.name)
        return (status.st_ino, status.st_mtime_ns) == (file.inode, file.modified_ns)

    def _unlink(self, file: File) -> str:
        try:
            if not self._is_as_seen(file):
                return "it was used or replaced meanwhile"
            if file.name.startswith(READS):
                remove_list(self._directory, file.name)
            elif not fs.remove_file(self._directory, file.name):
                return "it is already gone"
        except FileNotFoundError:
            return "it is already gone"
        except OSError as exc:
            self._directory.troubles.note("evict", exc)
            return exc.strerror or str(exc)
        return ""

    def _inventory(self) -> Inventory:
        unlisted: dict[str, str] = {}

        def failed(name: str, error: OSError) -> None:
            unlisted[name] = error.strerror or str(error)

        return Inventory(
            now=fs.now(self._directory),
            entries=self._sharded(TOP, SUFFIX, failed),
            lists=self._lists(failed),
            digests=tuple(self._files(DIGESTS, is_node_name, failed)),
            failures=self._sharded("failures", ".json", failed),
            temporaries=self._files(fs.TEMPORARY, fs.is_temporary, failed),
            permits=self._files(f"locks/{PERMIT_PREFIX[:2]}", is_permit_file, failed),
            locks=partial(self._locks, failed),
            outlived=this_process().outlived,
            history=self._files(HISTORY, is_history_name, failed),
            unlisted=unlisted,
        )

    def _sharded(self, top: str, suffix: str, failed: fs.Failed) -> Iterator[File]:
        """The files ``<top>/<2 hex>/<key><suffix>``; what has another name is not ajit's."""
        for shard in fs.list_names(self._directory, top, failed):

            def is_ours(name: str, shard: str = shard) -> bool:
                return _is_key_file(name, suffix) and name.startswith(shard)

            yield from self._files(f"{top}/{shard}", is_ours, failed)

    def _locks(self, failed: fs.Failed, bases: set[str]) -> Iterator[File]:
        """The lock files of other bases, where they may be removed."""
        directory = self._directory
        if directory.lease_kind != "locks" or not is_local(mount_of(directory.path, directory.fd)):
            return
        for shard in fs.list_names(directory, LOCKS, failed):
            for name in fs.list_names(directory, f"{LOCKS}/{shard}", failed):
                ours = name.startswith(shard) and _is_key_file(name, LOCK_SUFFIX)
                if ours and name[:BASE_DIGITS] not in bases:
                    yield from self._file(f"{LOCKS}/{shard}/{name}")

    def _file(self, name: str) -> Iterator[File]:
        with suppress(OSError):  # removed meanwhile
            status = fs.stat_file(self._directory, name)
            yield File(name, status.st_size, status.st_mtime_ns, status.st_ino)

    def _lists(self, failed: fs.Failed) -> Iterator[File]:
        for folder in base_folders(self._directory, failed=failed):
            yield from self._files(folder, is_key, failed)

    def _files(
        self, folder: str, is_ours: Callable[[str], object], failed: fs.Failed
    ) -> Iterator[File]:
        """Yield the regular files of a directory that have a name of ours."""
        for last, status in fs.regular_files(self._directory, folder, failed):
            if is_ours(last):
                name = f"{folder}/{last}"
                yield File(name, status.st_size, status.st_mtime_ns, status.st_ino)

    def _seconds_since_last(self) -> float:
        """Seconds since an evictor released its lease, which writes its record."""
        last = self._leases.last_written(EVICTION_LEASE)
        return float("inf") if last is None else abs(fs.now(self._directory) - last)


class _LeasedBases:
    """The base keys that were ever leased here, by the digits that their entries share with them.

    An entry does not tell its base key without being read, but its publisher has left a lock file.
    Where there is none, no lease is held, and none is made for a file that is going away.
    """

    def __init__(self, directory: CacheDirectory) -> None:
        self._directory = directory
        self._shards: dict[str, dict[str, str]] = {}

    def of(self, file: File) -> str | None:
        shard = file.base[:2]
        if shard not in self._shards:
            names = (name.partition(".")[0] for name in self._names(shard))
            self._shards[shard] = {name[:BASE_DIGITS]: name for name in names if is_key(name)}
        return self._shards[shard].get(file.base)

    def _names(self, shard: str) -> list[str]:
        try:
            return fs.list_names_or_raise(self._directory, f"locks/{shard}")
        except fs.UnsafeFolder:
            return []  # no lease is taken there


def _collected(
    plan: Eviction, removed: list[Doomed], skipped: list[Skipped], *, finished: bool
) -> Collected:
    entries = sum(doomed.file.name.startswith(TOP) for doomed in removed)
    gone = {doomed.file.name for doomed in removed}
    stayed = [doomed.file for doomed in plan.entries if doomed.file.name not in gone]
    return Collected(
        entries=entries,
        debris=len(removed) - entries,
        bytes=sum(doomed.file.size_bytes for doomed in removed),
        kept_entries=plan.kept_entries + len(stayed),
        kept_bytes=plan.kept_bytes + sum(file.size_bytes for file in stayed),
        skipped=tuple(skipped),
        finished=finished,
    )


def _is_key_file(name: str, suffix: str) -> bool:
    return name.endswith(suffix) and is_entry_key(name.removesuffix(suffix)) is not None
