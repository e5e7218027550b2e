"""The check of the cache's entries: how many of them the compilers of this machine can use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ajit.cache.opened import OpenedCache
from ajit.cache.usability import fingerprints_here, is_usable
from ajit.cli.findings import Check
from ajit.cli.output import count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._compile.toolchains.toolchains import Toolchains
    from ajit.settings import Settings

__all__ = ["check_entries"]

NAME = "cache entries"

MOST_READ = 1000
"""Entries that are read, those used last. Pretty arbitrary: reading them takes a second or two."""


def check_entries(settings: Settings, toolchains: Toolchains) -> Iterator[Check]:
    """Read the entries used last, and say how many a server of today would find.

    Raises:
        CacheError: The cache cannot be read.
    """
    cache = OpenedCache(settings)
    infos = sorted(cache.entries(), key=lambda info: info.modified, reverse=True)
    if not infos:
        return
    here = fingerprints_here(toolchains)
    usable = foreign = unknown = bad = 0
    for info in infos[:MOST_READ]:
        found = cache.store.manifest(info.key)
        if not isinstance(found, tuple):
            bad += 1
            continue
        answer = is_usable(found.manifest.key_fields, here)
        usable += answer is True
        foreign += answer is False
        unknown += answer is None
    yield _told(len(infos), usable, foreign, unknown, bad)


def _told(number: int, usable: int, foreign: int, unknown: int, bad: int) -> Check:
    looked = f", {MOST_READ} looked at" if number > MOST_READ else ""
    parts = [f"{usable} made by the compilers found here"]
    parts += [f"{foreign} by others"] if foreign else []
    parts += [f"{unknown} by builds, which alone can tell"] if unknown else []
    parts += [f"{bad} that do not verify"] if bad else []
    found = f"{count(number, 'entry', 'entries')}{looked}: {', '.join(parts)}"
    if foreign and not usable and not unknown:
        advice = "no compiler here can use any: all is compiled again. Was a compiler upgraded?"
        return Check(NAME, "warning", found, advice)
    advice = "ajit cache prune --unusable removes what others made, if no machine needs it"
    return Check(NAME, "ok", found, advice if foreign else "")
