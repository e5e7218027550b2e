"""The kernel cache as Python sees it: look at it, check it, keep it within its limits.

::

    import ajit.cache

    found = ajit.cache.scan()  # the cache that settings name, and its layers
    print(found.file_bytes, [entry.entries for entry in found.entries if entry.arch == "sm_90a"])
    ajit.cache.verify(fix=True).removed  # what was bad
    ajit.cache.prune(max_bytes=2 << 30, dry_run=True).removed  # what would go

These functions block, as long as the disk takes: in an event loop call them in a thread
(``await anyio.to_thread.run_sync(ajit.cache.scan)``). They start nothing, and need neither a
runtime nor a device. ``ajit cache ls``, ``verify`` and ``prune`` are made of them. All of them are
safe while servers use the cache.

What they return is frozen. A cache that is not there is a `CacheError`, and never made.
"""

from __future__ import annotations

from ajit.cache.checking import (
    BadDigests,
    BadEntry,
    BadList,
    CheckedDigests,
    CheckedLists,
    NotRemoved,
    Seals,
    UnsafeFolder,
    Verification,
    verify,
)
from ajit.cache.pruning import Pruned, PrunedFile, Skipped, prune
from ajit.cache.scanning import CachedEntry, CacheScan, scan

__all__ = [
    "BadDigests",
    "BadEntry",
    "BadList",
    "CacheScan",
    "CachedEntry",
    "CheckedDigests",
    "CheckedLists",
    "NotRemoved",
    "Pruned",
    "PrunedFile",
    "Seals",
    "Skipped",
    "UnsafeFolder",
    "Verification",
    "prune",
    "scan",
    "verify",
]
