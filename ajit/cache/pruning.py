"""``ajit.cache.prune``: remove what is above a cache's limits, and what is of no use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ajit._cache.entries.collector import Collector, Limits
from ajit._cache.entries.lists import list_name
from ajit._cache.entries.results import Missing, entry_name
from ajit._compile.toolchains.toolchains import Toolchains
from ajit._core.seal import NO_TRUST
from ajit.cache.checking import Unread, fault_in
from ajit.cache.opened import OpenedCache, settings_for
from ajit.cache.usability import fingerprints_here, is_usable
from ajit.errors import CacheError

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from ajit._cache.entries.collector import Collected
    from ajit._cache.entries.eviction import Eviction, Reason
    from ajit.settings import Settings

__all__ = ["Pruned", "PrunedFile", "Skipped", "prune"]


@dataclass(frozen=True, slots=True)
class PrunedFile:
    """A file that was removed, or would be.

    Attributes:
        file: Its name in the cache.
        size_bytes: Its size.
        idle_seconds: For how long it was not used.
        reason: ``size``, ``age``, ``does not verify``, ...
    """

    file: str
    size_bytes: int
    idle_seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was to be removed and is still there, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was removed, or would be.

    Attributes:
        cache_dir: The cache.
        dry_run: Whether nothing was removed.
        limit_bytes: The limit of its size; 0: none.
        max_age_seconds: The limit of the time without use; 0: none.
        removed: What was removed; in a dry run, what would be.
        removed_bytes: Its size.
        skipped: What could not be removed, or is in use.
        unread: What could not be read just now. It stays, as it may be good.
        kept_entries: Entries that are left.
        kept_bytes: Their size, with that of reading lists and digests.
    """

    cache_dir: Path
    dry_run: bool
    limit_bytes: int
    max_age_seconds: float
    removed: tuple[PrunedFile, ...]
    removed_bytes: int
    skipped: tuple[Skipped, ...]
    unread: tuple[Unread, ...]
    kept_entries: int
    kept_bytes: int


class PruneBusy(CacheError):
    """Another process is removing from this cache. Nothing was done."""


def prune(
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    settings: Settings | None = None,
    max_bytes: int | None = None,
    max_age_seconds: float | None = None,
    dry_run: bool = False,
    verify: bool = True,
    unusable: bool = False,
) -> Pruned:
    """Remove what is above the limits, and what is bad. Safe while servers use the cache. Blocks.

    What was used in the last minute is kept, unless it is bad, and so is what is leased.

    Args:
        cache_dir: The cache; None for the one that settings name.
        settings: How it is opened, and its limits; None for those of this process.
        max_bytes: Limit of its size in place of theirs; 0: none.
        max_age_seconds: Limit of the time without use in place of theirs; 0: none.
        dry_run: Remove nothing, and return what would be removed.
        verify: Read every entry and reading list, and remove what does not verify, whatever seals
            they ask for. Else no file is read.
        unusable: Remove also entries that no compiler of this machine looks up. Other machines that
            share the cache may still use them.

    Raises:
        CacheError: There is no cache, it cannot be used, or another process is removing from it.
        UnsafeCacheDirectory: Another user could put code there.
    """
    settings = settings_for(cache_dir, settings)
    if max_bytes is not None:
        settings = replace(settings, cache_limit_bytes=max_bytes)
    if max_age_seconds is not None:
        settings = replace(settings, cache_max_age_seconds=max_age_seconds)
    cache = OpenedCache(settings)
    condemned: dict[str, Reason] = _unusable(cache, settings) if unusable else {}
    unread: list[Unread] = []
    if verify:
        bad, unread = _bad(cache, settings)
        condemned |= bad
    collector = Collector(cache.store.directory, _limits(settings), cache.trust)
    plan = collector.plan(condemned)
    unread += [Unread(*item) for item in {**cache.unlisted, **plan.unlisted}.items()]
    if dry_run:
        return _pruned(settings, plan, None, unread)
    done = collector.perform(plan)
    if done is None:
        reason = "another process is removing entries right now; try again later"
        raise PruneBusy(path=str(settings.cache_dir), reason=reason)
    return _pruned(settings, plan, done, unread)


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_bytes=settings.cache_limit_bytes,
        max_age_seconds=settings.cache_max_age_seconds,
        failure_seconds=settings.failure_seconds,
    )


def _bad(cache: OpenedCache, settings: Settings) -> tuple[dict[str, Reason], list[Unread]]:
    """The files that do not verify, for this process and for those that ask for other seals.

    And those that could not be read just now.
    """
    bad: list[str] = []
    unread: list[Unread] = []
    for key, found in _unsealed(cache, settings).verify():
        if fault_in(found):
            bad.append(entry_name(key))
        elif isinstance(found, Missing) and found.reason:
            unread.append(Unread(entry_name(key), found.reason))
    for listed in cache.lists():
        name = list_name(listed.base, listed.digest)
        if listed.is_bad:
            bad.append(name)
        elif listed.unread:
            unread.append(Unread(name, listed.problem))
    return dict.fromkeys(bad, "does not verify"), unread


def _unsealed(cache: OpenedCache, settings: Settings) -> OpenedCache:
    """The same cache, opened by one who asks for no seal."""
    if cache.trust.required == "none":
        return cache
    return OpenedCache(settings, trust=NO_TRUST)


def _unusable(cache: OpenedCache, settings: Settings) -> dict[str, Reason]:
    """The entries that no compiler of this machine looks up."""
    here = fingerprints_here(Toolchains(settings))
    gone = []
    for info in cache.entries():
        found = cache.store.manifest(info.key)
        if isinstance(found, tuple) and is_usable(found.manifest.key_fields, here) is False:
            gone.append(entry_name(info.key))
    return dict.fromkeys(gone, "no compiler here can use it")


def _pruned(
    settings: Settings, plan: Eviction, done: Collected | None, unread: list[Unread]
) -> Pruned:
    skipped = () if done is None else done.skipped
    stay = {item.name for item in skipped}
    files = tuple(
        PrunedFile(one.file.name, one.file.size_bytes, one.idle_seconds, one.reason)
        for one in (*plan.entries, *plan.debris)
        if one.file.name not in stay
    )
    return Pruned(
        cache_dir=settings.cache_dir,
        dry_run=done is None,
        limit_bytes=settings.cache_limit_bytes,
        max_age_seconds=settings.cache_max_age_seconds,
        removed=files,
        removed_bytes=sum(file.size_bytes for file in files),
        skipped=tuple(Skipped(item.name, item.reason) for item in skipped),
        unread=tuple(unread),
        kept_entries=plan.kept_entries if done is None else done.kept_entries,
        kept_bytes=plan.kept_bytes if done is None else done.kept_bytes,
    )
