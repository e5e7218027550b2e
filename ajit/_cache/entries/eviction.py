"""Decides which files of a cache are evicted. `collector` removes them.

Rules, the first that fits:

1. A reading list of a base without entries leads nowhere: it is removed when it is no longer new.
2. An entry, reading list or file of digests that was published or touched a moment ago is kept,
   whatever the limits are: a process may be about to load it.
3. One that is unused for longer than the age limit is removed.
4. While the others together are above the size limit, the least recently used one is removed.
5. A failure record that has expired is removed; a temporary file whose writer is dead, or must be
   dead by its age; and permits, digests and history of a machine that was not seen for long.
6. So is the lock file of a base without entries, lists and failures that was not taken for long.

A plan may be given names of condemned files: one that does not verify goes before all others,
however new it is; one that no compiler here can use goes like them, but for the second rule.

An entry and the list that leads to it are touched together. If the list goes first, a look-up of
the entry misses and the kernel is compiled once more, which publishes the list again. If that never
happens, nothing touches the entry any more, and it becomes the least recently used one.

Where a directory could not be listed, what lies there is not known to be gone: then the first and
the last rule remove nothing.

All ages are differences of two times by the file system's clock. Nothing here reads a file.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import msgspec

from ajit._cache.entries.disk import TOP
from ajit._cache.entries.lists import TOP as READS
from ajit._core.reads import BASE_DIGITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["Doomed", "Eviction", "File", "Inventory", "Limits", "Reason", "choose"]

Reason = Literal[
    "age",
    "size",
    "does not verify",
    "no compiler here can use it",
    "list that leads to no entry",
    "stale failure record",
    "orphaned temporary file",
    "permit of a bygone machine",
    "digests of a bygone machine",
    "lock of a bygone key",
    "history of a bygone machine",
]

FRESH_SECONDS = 60.0
"""How long an entry is safe after it was published or touched. Pretty arbitrary: far longer than
from publishing to loading, far shorter than it takes to fill a disk."""

ORPHAN_SECONDS = 24 * 3600.0
"""After this time no process can still be writing the file, not even on another host, whose
processes cannot be seen from here. Pretty arbitrary: a write takes seconds."""

FAILURE_SECONDS = 3600.0
"""How old a failure record must be. Other processes may have a longer ``failure_seconds``."""

LIST_SECONDS = 3600.0
"""How long a list without an entry is kept. Pretty arbitrary: it is published right after its
entry, and an entry that was evicted may be compiled again."""

PERMIT_SECONDS = 30 * 24 * 3600.0
"""Permits are named after one boot of a machine, and useless after it. If one is removed although
it is in use, one compile too many runs, and that is all."""

DIGEST_SECONDS = 30 * 24 * 3600.0
"""A file of digests is touched when a process reads it, and costs only hashing if it is gone."""


LOCK_SECONDS = 24 * 3600.0
"""How long a lock file without anything to lock is kept. Pretty arbitrary: a kernel that is evicted
and compiled anew each hour need not make its lock file each time."""


HISTORY_SECONDS = 30 * 24 * 3600.0
"""A history of compiles that nothing was added to for so long: its machine is gone, or compiles no
more. It has a limit of its own, and does not count for that of the cache."""


class File(msgspec.Struct, frozen=True, gc=False):
    """A file as it was seen.

    Attributes:
        name: Relative name.
        size_bytes: Its size.
        modified_ns: Its modification time; for an entry, when it was last used, to about an hour.
        inode: Its inode; a file that replaced it has another one.
    """

    name: str
    size_bytes: int
    modified_ns: int
    inode: int

    @property
    def key(self) -> str:
        """The key or digest that names it."""
        return self.name.rpartition("/")[2].partition(".")[0]

    @property
    def base(self) -> str:
        """The digits of its base key that an entry's key has, too."""
        folder, _, last = self.name.rpartition("/")
        named = folder.rpartition("/")[2] if self.name.startswith(READS) else last
        return named[:BASE_DIGITS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a cache may hold.

    Attributes:
        max_bytes: Bytes of all entries, reading lists and digests; 0 for any number.
        max_age_seconds: Time without use; 0 for any.
        failure_seconds: How long failure records are valid in this process.
    """

    max_bytes: int = 0
    max_age_seconds: float = 0.0
    failure_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The files of a cache.

    Attributes:
        now: Unix time in seconds, by the file system's clock.
        entries: Entries.
        lists: Reading lists.
        digests: Files of digests, one for each node. Gone through twice.
        failures: Failure records.
        temporaries: Temporary files.
        permits: Lock files of permits, see `ajit._cache.leases.permits`.
        locks: Returns the lock files of bases other than those of the given digits.
        history: Files of history, see `ajit._cache.entries.history`.
        unlisted: Directories that could not be listed, and why. Gone through after the rest.
        outlived: Tells by the last part of a temporary file's name whether its writer is dead.
    """

    now: float
    entries: Iterable[File]
    lists: Iterable[File]
    digests: Sequence[File]
    failures: Iterable[File]
    temporaries: Iterable[File]
    permits: Iterable[File]
    locks: Callable[[set[str]], Iterable[File]]
    outlived: Callable[[str], bool]
    history: Iterable[File] = ()
    unlisted: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Doomed:
    """A file to be removed, and why."""

    file: File
    reason: Reason
    idle_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """The files to be removed. Making a plan changes nothing.

    Attributes:
        entries: Entries, in the order of removal.
        debris: All else: reading lists, digests, failure records, temporary files, permits, locks
            and history.
        kept_entries: Number of entries that are kept.
        kept_bytes: Their size, with that of reading lists and digests.
        unlisted: Directories that could not be listed, and why.
    """

    entries: tuple[Doomed, ...] = ()
    debris: tuple[Doomed, ...] = ()
    kept_entries: int = 0
    kept_bytes: int = 0
    unlisted: Mapping[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Size of all files to be removed."""
        return sum(doomed.file.size_bytes for doomed in (*self.entries, *self.debris))

    @property
    def reasons(self) -> dict[str, int]:
        """Number of files for each reason."""
        return dict(Counter(doomed.reason for doomed in (*self.entries, *self.debris)))


def choose(
    inventory: Inventory, limits: Limits, condemned: Mapping[str, Reason] = MappingProxyType({})
) -> Eviction:
    """Decide what to remove.

    Args:
        inventory: What there is.
        limits: What there may be.
        condemned: Names of files that are to go whatever the limits are, and why.
    """
    entries, failures = list(inventory.entries), list(inventory.failures)
    bases = {entry.base for entry in entries}
    lists, lost = _split_lists(bases, inventory)
    kept = [*entries, *lists, *inventory.digests]
    doomed = list(_condemned(kept, condemned, inventory.now)) if condemned else []
    if doomed:
        names = {one.file.name for one in doomed}
        kept = [file for file in kept if file.name not in names]
    kept_bytes = sum(file.size_bytes for file in kept)
    # Nothing is sorted unless something must be removed: sorting a hundred thousand entries
    # would hold the GIL, and so block the event loop, for too long.
    if _over(kept_bytes, limits) or limits.max_age_seconds:
        queue = [(file.modified_ns, file.name, file) for file in kept]
        heapq.heapify(queue)
        while queue:
            file = heapq.heappop(queue)[2]
            reason = _verdict(_idle(file, inventory.now), kept_bytes, limits)
            if reason is None:
                break
            doomed.append(Doomed(file, reason, _idle(file, inventory.now)))
            kept_bytes -= file.size_bytes
    bases.update(file.base for file in (*lists, *(one.file for one in lost), *failures))
    gone = [one for one in doomed if one.file.name.startswith(TOP)]
    rest = [one for one in doomed if not one.file.name.startswith(TOP)]
    return Eviction(
        entries=tuple(gone),
        debris=(
            *rest,
            *lost,
            *_stale(failures, inventory.now, limits),
            *_debris(inventory, {one.file.name for one in rest}),
            *_bygone_locks(bases, inventory),
        ),
        kept_entries=len(entries) - len(gone),
        kept_bytes=kept_bytes,
        unlisted=inventory.unlisted,
    )


def _split_lists(bases: set[str], inventory: Inventory) -> tuple[list[File], list[Doomed]]:
    """Tell the lists that may lead to an entry from those that cannot."""
    kept, lost = [], []
    for file in inventory.lists:
        idle = _idle(file, inventory.now)
        # An entry that is not seen where not all could be listed may be there.
        if file.base in bases or idle < LIST_SECONDS or inventory.unlisted:
            kept.append(file)
        else:
            lost.append(Doomed(file, "list that leads to no entry", idle))
    return kept, lost


def _condemned(
    files: Iterable[File], condemned: Mapping[str, Reason], now: float
) -> Iterable[Doomed]:
    for file in files:
        reason = condemned.get(file.name)
        idle = _idle(file, now)
        if reason == "does not verify" or (reason is not None and idle >= FRESH_SECONDS):
            yield Doomed(file, reason, idle)


def _verdict(idle_seconds: float, kept_bytes: int, limits: Limits) -> Reason | None:
    """Say why the least recently used file must be removed; None if all of them are kept.

    A time in the future comes from a clock that was wrong: it counts as just now.
    """
    if idle_seconds < FRESH_SECONDS:
        return None
    if limits.max_age_seconds and idle_seconds > limits.max_age_seconds:
        return "age"
    return "size" if _over(kept_bytes, limits) else None


def _over(size_bytes: int, limits: Limits) -> bool:
    return bool(limits.max_bytes) and size_bytes > limits.max_bytes


def _stale(failures: Iterable[File], now: float, limits: Limits) -> Iterable[Doomed]:
    believed = max(FAILURE_SECONDS, limits.failure_seconds)
    for file in failures:
        if _idle(file, now) > believed:
            yield Doomed(file, "stale failure record", _idle(file, now))


def _bygone_locks(bases: set[str], inventory: Inventory) -> Iterable[Doomed]:
    if inventory.unlisted:
        return
    for file in inventory.locks(bases):
        if _idle(file, inventory.now) > LOCK_SECONDS:
            yield Doomed(file, "lock of a bygone key", _idle(file, inventory.now))


def _debris(inventory: Inventory, gone: set[str]) -> Iterable[Doomed]:
    for file in inventory.temporaries:
        last_name = file.name.rpartition("/")[2]
        if inventory.outlived(last_name) or _idle(file, inventory.now) > ORPHAN_SECONDS:
            yield Doomed(file, "orphaned temporary file", _idle(file, inventory.now))
    bygone: list[tuple[Iterable[File], float, Reason]] = [
        (inventory.permits, PERMIT_SECONDS, "permit of a bygone machine"),
        (inventory.digests, DIGEST_SECONDS, "digests of a bygone machine"),
        (inventory.history, HISTORY_SECONDS, "history of a bygone machine"),
    ]
    for files, most_seconds, reason in bygone:
        for file in files:
            if _idle(file, inventory.now) > most_seconds and file.name not in gone:
                yield Doomed(file, reason, _idle(file, inventory.now))


def _idle(file: File, now: float) -> float:
    return now - file.modified_ns / 1e9
