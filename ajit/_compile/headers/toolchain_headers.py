"""What a toolchain's own headers may take from a user's directories.

A compiler looks into the user's include directories before its own. So a user's ``cuda_fp16.h``
stands in for the toolchain's, also where only a header of the toolchain includes it. Such a file
has to be in the key; but following the toolchain's headers for every spec is out of the question
(CUB reaches 1 400 files, 0.4 s in every process). So first comes a look whether the user's
directories have any file of the same path as one of the toolchain's, which costs a few listings and
is nearly always answered with no. Only then the toolchain's headers are followed, without their
comments and conditionals being looked at: a name too many costs a few looks.
"""

from __future__ import annotations

import os
import posixpath
import re
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from ajit._compile.headers.digests import SETTLED_NS, FileCache, FileStamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["OwnHeaders"]

_INCLUDED = re.compile(
    rb'(?:include|include_next|import|embed)\s*\(?\s*(?:<([^>\n]+)>|"([^"\n]+)")'
)
"""Directives, and ``__has_include(<...>)``, which ends alike."""


class _Listing(NamedTuple):
    """A directory: device, inode and time of its last change, and which names are directories."""

    stamp: tuple[int, int, int]
    names: dict[str, bool]

    @property
    def identity(self) -> tuple[int, int]:
        return self.stamp[:2]


class OwnHeaders:
    """Headers of toolchains, kept as long as their files stay. Thread-safe; everything blocks."""

    def __init__(self) -> None:
        self._included = FileCache(_included)
        self._lock = threading.Lock()
        self._listings: dict[str, _Listing] = {}
        self._reached: dict[tuple[object, ...], frozenset[str]] = {}

    def are_shadowed(self, dirs: Iterable[str], own_dirs: Sequence[str]) -> bool:
        """Whether a user's directories hold a file of the same path as one of the toolchain's.

        Args:
            dirs: The user's include directories.
            own_dirs: The toolchain's. One that is also the user's hides nothing.
        """
        return any(self._share_a_file(a, b, set()) for a in dirs for b in own_dirs)

    def reached(self, name: str, own_dirs: Sequence[str]) -> frozenset[str]:
        """Return every name that a toolchain's header includes, itself or through others.

        Args:
            name: The header, as included; if the toolchain has none of that name, nothing is
                reached.
            own_dirs: The toolchain's directories.
        """
        stamps = tuple(FileStamp.of(os.path.join(folder, name)) for folder in own_dirs)
        if not any(stamps):
            return frozenset()
        place = (name, tuple(own_dirs), stamps)
        with self._lock:
            known = self._reached.get(place)
        if known is None:
            known = self._follow(name, own_dirs)
            with self._lock:
                self._reached[place] = known
        return known

    def _follow(self, name: str, own_dirs: Sequence[str]) -> frozenset[str]:
        names: set[str] = set()
        seen: set[str] = set()
        queue = [os.path.join(folder, name) for folder in own_dirs]
        while queue:
            path = queue.pop()
            if path in seen:
                continue
            seen.add(path)
            for included in self._included.get(path) or ():
                # Beside the includer, which is where its quotes mean, or in any directory.
                queue.append(posixpath.normpath(os.path.join(os.path.dirname(path), included)))
                if included not in names:
                    names.add(included)
                    queue += (os.path.join(folder, included) for folder in own_dirs)
        return frozenset(names)

    def _share_a_file(self, a: str, b: str, seen: set[tuple[object, object]]) -> bool:
        first, second = self._list(a), self._list(b)
        if first is None or second is None or first.identity == second.identity:
            return False
        pair = (first.identity, second.identity)
        if pair in seen:
            return False  # links lead in a circle
        seen.add(pair)
        for name in first.names.keys() & second.names.keys():
            folders = first.names[name], second.names[name]
            if not any(folders):
                return True
            below = os.path.join(a, name), os.path.join(b, name)
            if all(folders) and self._share_a_file(*below, seen):
                return True
        return False

    def _list(self, path: str) -> _Listing | None:
        try:
            info = os.stat(path)
            stamp = (info.st_dev, info.st_ino, info.st_mtime_ns)
            with self._lock:
                known = self._listings.get(path)
            if known is not None and known.stamp == stamp:
                return known
            with os.scandir(path) as entries:
                listing = _Listing(stamp, {entry.name: entry.is_dir() for entry in entries})
        except (OSError, ValueError):
            return None
        # As with files: a second change in one tick of a coarse clock does not show.
        if time.time_ns() - info.st_mtime_ns > SETTLED_NS:
            with self._lock:
                self._listings[path] = listing
        return listing


def _included(path: str) -> frozenset[str]:
    with open(path, "rb") as file:
        found = _INCLUDED.findall(file.read())
    return frozenset(os.fsdecode(angled or quoted) for angled, quoted in found)
