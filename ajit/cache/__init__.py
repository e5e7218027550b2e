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

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ajit.cache.checking import BadDigests as BadDigests
    from ajit.cache.checking import BadEntry as BadEntry
    from ajit.cache.checking import BadList as BadList
    from ajit.cache.checking import CheckedDigests as CheckedDigests
    from ajit.cache.checking import CheckedLists as CheckedLists
    from ajit.cache.checking import NotRemoved as NotRemoved
    from ajit.cache.checking import Seals as Seals
    from ajit.cache.checking import Unread as Unread
    from ajit.cache.checking import UnsafeFolder as UnsafeFolder
    from ajit.cache.checking import Verification as Verification
    from ajit.cache.checking import verify as verify
    from ajit.cache.pruning import Pruned as Pruned
    from ajit.cache.pruning import PrunedFile as PrunedFile
    from ajit.cache.pruning import Skipped as Skipped
    from ajit.cache.pruning import prune as prune
    from ajit.cache.scanning import CachedEntry as CachedEntry
    from ajit.cache.scanning import CacheScan as CacheScan
    from ajit.cache.scanning import scan as scan

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
    "Unread",
    "UnsafeFolder",
    "Verification",
    "prune",
    "scan",
    "verify",
]

_HOMES = {
    "BadDigests": "checking",
    "BadEntry": "checking",
    "BadList": "checking",
    "CheckedDigests": "checking",
    "CheckedLists": "checking",
    "NotRemoved": "checking",
    "Seals": "checking",
    "Unread": "checking",
    "UnsafeFolder": "checking",
    "Verification": "checking",
    "verify": "checking",
    "Pruned": "pruning",
    "PrunedFile": "pruning",
    "Skipped": "pruning",
    "prune": "pruning",
    "CachedEntry": "scanning",
    "CacheScan": "scanning",
    "scan": "scanning",
}


def __getattr__(name: str) -> object:
    # On first use: who scans a cache does not wait for what removes from it.
    if name not in _HOMES:
        raise AttributeError(f"module 'ajit.cache' has no attribute {name!r}")
    value: Any = getattr(importlib.import_module(f"ajit.cache.{_HOMES[name]}"), name)
    value.__module__ = "ajit.cache"
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
