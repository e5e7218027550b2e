"""Include directories that are one directory under two names, as behind a link.

gcc drops all but one of them before it looks for any header, so that it asks for nothing in the
others. Should such a name mean another directory later, it would look there. So what was asked for
in the one counts for all: each name of the directory gets the same reads. Those names are the
places, and whatever else was looked at through a link, as relative directories and those of
variables are.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ajit._compile.recorder.places import Places
    from ajit._core.job import SeenRead

__all__ = ["with_twins"]


def with_twins(
    reads: tuple[SeenRead, ...], places: Places, linked: Iterable[str] = ()
) -> tuple[SeenRead, ...]:
    """Return reads, and after them what they are under other names of an include directory.

    Args:
        reads: What was asked for.
        places: Where it lies.
        linked: Other directories that were looked at under a name which leads through a link.
    """
    listed = {(read.place, read.name): read for read in reads}
    for twin in _twins(reads, places, linked):
        listed.setdefault((twin.place, twin.name), twin)
    return tuple(listed.values())


def _twins(reads: Iterable[SeenRead], places: Places, linked: Iterable[str]) -> Iterator[SeenRead]:
    known: dict[str, tuple[int, int] | None] = {}
    named: dict[tuple[int, int], list[tuple[str, str]]] = {}
    for place, directory in places.dirs:
        identity = _identity(directory.rstrip(os.sep), known)
        if place != "tool" and identity is not None:
            named.setdefault(identity, []).append((place, directory))
    for folder in linked:
        place, name = places.name(f"{folder}{os.sep}")
        identity = _identity(folder, known)
        # The name of a place itself is there already, and of a toolchain its fingerprint knows.
        if name and place != "tool" and identity is not None:
            named.setdefault(identity, []).append((place, f"{folder}{os.sep}"))
    for read in reads:
        path = places.path(read.place, read.name) or ""
        for parent in _parents(path):
            for place, directory in named.get(_identity(parent, known) or (0, 0), ()):
                if directory != f"{parent}{os.sep}":
                    name = path[len(parent) + 1 :]
                    before = directory.removeprefix(places.directory(place) or "")
                    yield msgspec.structs.replace(read, place=place, name=before + name)


def _parents(path: str) -> Iterator[str]:
    """Every directory on the way to a path but the root, which may be written ``//`` as well."""
    parent = os.path.dirname(path)
    while parent.strip(os.sep):
        yield parent
        parent = os.path.dirname(parent)


def _identity(directory: str, known: dict[str, tuple[int, int] | None]) -> tuple[int, int] | None:
    if directory not in known:
        try:
            info = os.stat(directory)
        except OSError:
            known[directory] = None
        else:
            known[directory] = (info.st_dev, info.st_ino)
    return known[directory]
