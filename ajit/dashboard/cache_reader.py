"""Reads a cache for the live page. Everything here blocks, for as long as the disk takes.

Nothing is made and nothing is removed. The cache is opened at the first look that finds one, and
from then on followed by its path. Of its entries only names, sizes and times are listed; those that
are shown are read and verified, once, a bounded number of bytes at each look.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ajit._cache.entries.history_reader import read_history
from ajit._cache.entries.holders import held_leases
from ajit._cache.files import fs
from ajit.cache.opened import OpenedCache
from ajit.dashboard.entries import Listed, by_size, by_use, outstanding
from ajit.dashboard.snapshot import CacheEntry, CacheState, short

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ajit._cache.entries.history import Compiled
    from ajit._cache.entries.holders import HeldLease
    from ajit.settings import Settings

__all__ = ["CacheReader"]

MOST_LISTED = 200_000
"""Entries of a cache that are looked at."""

MOST_LEASES = 256

MOST_COMPILES = 200

READ_BYTES = 128 * 1024 * 1024
"""Of entries, at each look. Pretty arbitrary: a tenth of a second on a good disk."""


class CacheReader:
    """One cache. A thread for each of its methods may use it.

    Args:
        settings: Returns which cache it is, and how it is opened.
    """

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._opened_by: Settings | None = None
        self._opened: OpenedCache | None = None
        self._described: dict[tuple[str, int], CacheEntry] = {}

    def close(self) -> None:
        """Keep nothing of the cache open. The next read opens it again."""
        self._opened = None

    def leases(self) -> tuple[HeldLease, ...]:
        """Return who holds what.

        Raises:
            CacheError: There is no cache, or it cannot be used.
        """
        cache = self._open()
        return tuple(islice(held_leases(cache.store.directory, cache.trust), MOST_LEASES))

    def history(self) -> tuple[Compiled, ...]:
        """Return the last compiles of all processes, the newest first.

        Raises:
            CacheError: There is no cache, or it cannot be used.
        """
        return tuple(reversed(read_history(self._open().store.directory, MOST_COMPILES)))

    def entries(self) -> CacheState:
        """Return what is in the cache.

        Raises:
            CacheError: There is no cache, or it cannot be used.
        """
        cache = self._open()
        now = fs.now(cache.store.directory)
        unlisted: list[str] = []
        entries = cache.store.entries(failed=lambda name, _: unlisted.append(name))
        found = [
            Listed(info.key, info.size_bytes, info.modified)
            for info in islice(entries, MOST_LISTED + 1)
        ]
        listed = found[:MOST_LISTED]
        shown = outstanding(listed)
        self._describe(cache, (one for group in shown.values() for one in group))
        rows = {name: tuple(self._row(one, now) for one in group) for name, group in shown.items()}
        return CacheState(
            path=short(str(cache.path)),
            entries=len(listed),
            size_bytes=sum(one.size_bytes for one in listed),
            partial=len(found) > MOST_LISTED or bool(unlisted),
            limit_bytes=self._settings().cache_limit_bytes,
            by_size=by_size(listed),
            by_use=by_use(listed, now),
            largest=rows["largest"],
            newest=rows["newest"],
            unused=rows["unused"],
        )

    def _open(self) -> OpenedCache:
        """The cache that the path leads to now: it may have been removed, or be another one."""
        settings, opened = self._settings(), self._opened
        if opened is None or settings is not self._opened_by or not _leads_to(opened):
            opened = OpenedCache(settings)
            self._opened, self._opened_by = opened, settings
        return opened

    def _describe(self, cache: OpenedCache, entries: Iterator[Listed]) -> None:
        """Read those that are shown and not known yet, and forget the others."""
        left, known = READ_BYTES, self._described
        self._described = {}
        for one in entries:
            place = (one.key, one.size_bytes)
            row = self._described.get(place) or known.get(place)
            if row is None and one.size_bytes <= left:
                left -= one.size_bytes
                row = _described(cache, one)
            if row is not None:
                self._described[place] = row

    def _row(self, one: Listed, now: float) -> CacheEntry:
        known = self._described.get((one.key, one.size_bytes)) or _unread(one)
        return _used(known, one, now)


def _leads_to(opened: OpenedCache) -> bool:
    directory = opened.store.directory
    try:
        status = Path(directory.path).stat()
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == directory.identity


def _described(cache: OpenedCache, one: Listed) -> CacheEntry | None:
    """What an entry says of itself; None if it is gone."""
    found = cache.store.manifest(one.key)
    if not isinstance(found, tuple):
        return _unread(one, found.reason) if found.reason else None
    manifest = found.manifest
    return CacheEntry(
        key=one.key,
        name=short(manifest.name),
        kind=short(manifest.kind),
        arch=short(manifest.arch),
        compiler=short(f"{manifest.compiler} {manifest.compiler_version}"),
        size_bytes=one.size_bytes,
        created=manifest.created,
        compile_seconds=manifest.seconds,
    )


def _unread(one: Listed, problem: str = "") -> CacheEntry:
    return CacheEntry(key=one.key, size_bytes=one.size_bytes, problem=short(problem))


def _used(row: CacheEntry, one: Listed, now: float) -> CacheEntry:
    return msgspec.structs.replace(row, unused_seconds=max(0.0, now - one.used))
