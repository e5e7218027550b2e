"""The leases of a cache that are held now. For people to read; no decision may depend on it.

A record alone proves nothing, since a holder that was killed leaves its record behind. So a lease
counts as held if the kernel, or the file server, says that its file is locked. Where leases are
directories, only the record tells, and a holder that was killed on another node is a silent one.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ajit._cache.entries.collector import EVICTION_LEASE
from ajit._cache.files import fs
from ajit._cache.leases.permits import PERMIT_PREFIX
from ajit._cache.leases.table import LeaseTable
from ajit._core.seal import NO_TRUST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._cache.files.directory import CacheDirectory
    from ajit._cache.leases.holder import HolderRecord
    from ajit._core.seal import Trust

__all__ = ["HeldLease", "held_leases"]

Kind = Literal["kernel", "permit", "eviction"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLease:
    """A lease that is held.

    Attributes:
        kind: The lease of a ``kernel``, a compile ``permit`` of the machine, or the ``eviction``.
        key: Hex key of a kernel; the name of any other.
        record: The holder's record.
        age_seconds: Since it was taken; up to the last beat if the holder is on another host.
        silent_seconds: Since the last beat, by the file system's clock.
        waiters: Threads of this machine that are blocked in its lock.
        authentic: Whether the record has the seal that is asked for. If not, it is not believed,
            and its holder counts as silent.
    """

    kind: Kind
    key: str
    record: HolderRecord
    age_seconds: float
    silent_seconds: float
    waiters: int
    authentic: bool


def held_leases(directory: CacheDirectory, trust: Trust = NO_TRUST) -> Iterator[HeldLease]:
    """Yield the leases that are held. Opens every lock file; blocks."""
    now, waiters = fs.now(directory), _waiters()
    for name, key in fs.list_files(directory, "locks", ".lock"):
        of_node = _kind(key) == "permit"
        table = LeaseTable(directory, of_node=of_node)
        believed = LeaseTable(directory, trust, of_node=of_node)
        record = table.read_holder(key)
        if record is None:
            continue
        written = table.last_written(key)
        with suppress(OSError):  # the cache was removed just now
            status = fs.stat_file(directory, name)
            yield HeldLease(
                kind=_kind(key),
                key=key,
                record=record,
                age_seconds=record.age_seconds(),
                # The record is written at every beat.
                silent_seconds=0.0 if written is None else max(0.0, now - written),
                waiters=waiters[status.st_ino],
                authentic=believed.read_holder(key) is not None,
            )


def _kind(key: str) -> Kind:
    if key == EVICTION_LEASE:
        return "eviction"
    return "permit" if key.startswith(PERMIT_PREFIX) else "kernel"


def _waiters() -> Counter[int]:
    """Number of lock waiters for each inode, as the kernel lists them."""
    found: Counter[int] = Counter()
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            # 1: -> POSIX  ADVISORY  WRITE 4711 fe:00:12345 0 EOF
            words = line.split()
            if len(words) > 6 and words[1] == "->":
                found[int(words[6].rpartition(":")[2])] += 1
    return found
