"""``ajit.cache.verify``: whether what is in a cache is what was put there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ajit._cache.entries.disk import Found, Missing, Rejected
from ajit._cache.entries.lists import list_name
from ajit._cache.entries.node_digests import TOP as DIGESTS
from ajit._cache.entries.results import entry_name
from ajit._cache.files import fs
from ajit._core.elf import fault_of
from ajit.cache.opened import OpenedCache, settings_for

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from ajit._cache.entries.disk import Lookup
    from ajit._core.seal import Method, SealInfo
    from ajit.settings import Settings

__all__ = [
    "BadDigests",
    "BadEntry",
    "BadList",
    "CheckedDigests",
    "CheckedLists",
    "NotRemoved",
    "Seals",
    "Unread",
    "UnsafeFolder",
    "Verification",
    "fault_in",
    "verify",
]


@dataclass(frozen=True, slots=True)
class BadEntry:
    """An entry that does not verify. It counts as a miss, unless only its bytes are cut short."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class BadList:
    """A reading list that counts as not there."""

    base: str
    digest: str
    reason: str


@dataclass(frozen=True, slots=True)
class BadDigests:
    """A file of digests that counts as not there."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class UnsafeFolder:
    """A directory that is not used, since another user could put files into it.

    Or what lies in the place of a file of the history and is none: no compile is noted there.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unread:
    """What could not be read just now. It may be good, and is never removed for that."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class NotRemoved:
    """A file or directory of the cache that is bad and still there."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Seals:
    """How many good entries one key has sealed.

    Attributes:
        method: ``hmac`` or ``ed25519``.
        key_id: Id of the key, in hex.
        name: What the key is called here, or "".
        state: ``good`` or ``unknown``: there is no such key here.
        entries: How many.
    """

    method: Method
    key_id: str
    name: str
    state: Literal["good", "bad", "unknown"]
    entries: int


@dataclass(frozen=True, slots=True)
class CheckedLists:
    """How many reading lists were checked, and the bad ones."""

    checked: int
    bad: tuple[BadList, ...]


@dataclass(frozen=True, slots=True)
class CheckedDigests:
    """How many files of digests were checked, and the bad ones."""

    checked: int
    bad: tuple[BadDigests, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was checked and what is bad.

    Attributes:
        cache_dir: The cache.
        checked: Entries that were read.
        bad: Those that are bad.
        other_versions: Entries of other versions of ajit, which alone can verify them.
        seals: Which keys have sealed the good entries.
        reading_lists: The same of reading lists.
        digests: The same of the digests of files.
        unsafe: Directories and files of history that are not used until a person has removed them.
        unread: What could not be read just now, and may be good.
        removed: With ``fix``: names of the bad files that were removed.
        not_removed: With ``fix``: what is bad and still there.
    """

    cache_dir: Path
    checked: int
    bad: tuple[BadEntry, ...]
    other_versions: int
    seals: tuple[Seals, ...]
    reading_lists: CheckedLists
    digests: CheckedDigests
    unsafe: tuple[UnsafeFolder, ...]
    unread: tuple[Unread, ...] = ()
    removed: tuple[str, ...] = ()
    not_removed: tuple[NotRemoved, ...] = ()

    @property
    def good(self) -> bool:
        """Whether everything could be read, and nothing bad was found."""
        bad = self.bad or self.reading_lists.bad or self.digests.bad or self.unsafe
        return not (bad or self.unread)


def verify(
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    settings: Settings | None = None,
    fix: bool = False,
) -> Verification:
    """Read all that is in a cache, and check it. Layers are not checked. Blocks.

    Args:
        cache_dir: The cache; None for the one that settings name.
        settings: How it is opened, and the seals that are asked for; None for those of this
            process.
        fix: Remove bad entries, reading lists and files of digests, while servers may use the
            cache. An entry that was replaced meanwhile is read once more, and stays if it is good.

    Raises:
        CacheError: There is no cache, or it cannot be read.
        UnsafeCacheDirectory: Another user could put code there.
    """
    cache = OpenedCache(settings_for(cache_dir, settings))
    found = _checked(cache)
    return _fixed(cache, found) if fix else found


def fault_in(lookup: Lookup) -> str:
    """Return what is wrong with an entry that was read, or "".

    Of one of another version, and of one that could not be read, nothing is said. Beside its
    checksum and key, whether its compiled bytes are whole: one that is cut short was published so.
    """
    if isinstance(lookup, Missing):
        return ""
    if isinstance(lookup, Rejected):
        return "" if lookup.other_version else lookup.reason
    held = lookup.artifact
    # The files of a bundle have digests of their own, which were looked at.
    fault = "" if held.kind == "bundle" else fault_of(held.kind, held.data, held.lowered.values())
    return f"its compiled bytes are cut short: {fault}" if fault else ""


def _checked(cache: OpenedCache) -> Verification:
    checked, others = 0, 0
    bad: list[BadEntry] = []
    unread: list[Unread] = []
    seals: Counter[SealInfo] = Counter()
    for key, lookup in cache.verify():
        checked += 1
        others += isinstance(lookup, Rejected) and lookup.other_version
        if reason := fault_in(lookup):
            bad.append(BadEntry(key, reason))
        if isinstance(lookup, Missing) and lookup.reason:
            unread.append(Unread(entry_name(key), lookup.reason))
        if isinstance(lookup, Found) and lookup.seal is not None:
            seals[lookup.seal] += 1
    lists, digests = cache.lists(), cache.digests()
    unread += [Unread(list_name(x.base, x.digest), x.problem) for x in lists if x.unread]
    unread += [Unread(f"{DIGESTS}/{x.node}", x.problem) for x in digests if x.unread]
    bad_lists = (BadList(x.base, x.digest, x.problem) for x in lists if x.is_bad)
    bad_digests = (BadDigests(x.node, x.problem) for x in digests if x.is_bad)
    return Verification(
        cache_dir=cache.path,
        checked=checked,
        bad=tuple(bad),
        other_versions=others,
        seals=tuple(
            Seals(seal.method, seal.key_id, seal.name, seal.state, number)
            for seal, number in sorted(seals.items(), key=lambda pair: pair[0].key_id)
        ),
        reading_lists=CheckedLists(len(lists), tuple(bad_lists)),
        digests=CheckedDigests(len(digests), tuple(bad_digests)),
        unsafe=tuple(UnsafeFolder(name, reason) for name, reason in cache.unsafe()),
        unread=(*unread, *(Unread(*item) for item in cache.unlisted.items())),
    )


def _fixed(cache: OpenedCache, found: Verification) -> Verification:
    """Remove the bad files that a check has found."""
    names = [entry_name(one.key) for one in found.bad if fault_in(cache.read(one.key))]
    names += [list_name(x.base, x.digest) for x in found.reading_lists.bad]
    names += [f"{DIGESTS}/{x.node}" for x in found.digests.bad]
    removed, stuck = [], []
    for name in names:
        if reason := _remove(cache, name):
            stuck.append(NotRemoved(name, reason))
        else:
            removed.append(name)
    # A directory is a person's affair.
    stuck += [NotRemoved(folder.name, folder.reason) for folder in found.unsafe]
    return replace(found, removed=tuple(removed), not_removed=tuple(stuck))


def _remove(cache: OpenedCache, name: str) -> str:
    """Remove a file, and return "" or why it is still there."""
    try:
        fs.remove_file(cache.store.directory, name)
    except OSError as exc:
        return exc.strerror or str(exc)
    return ""
