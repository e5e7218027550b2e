"""Places: how a reading list names files without naming directories of this machine.

The worker turns the paths that a compiler asked for into places and names; a look-up, on this or
another machine, turns them into paths again. Both number the directories alike: the spec's own,
then those that its options name.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Protocol

from ajit._compile.recorder.flags import option_dirs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

__all__ = [
    "ANYWHERE", "LABEL", "ON_PATH", "Places", "Searched", "places_of", "program_on_path", "root_of",
]  # fmt: skip

ANYWHERE = "/"
LABEL = "label"
ON_PATH = "path"
"""Not a directory: a program that was started by its name alone, from whichever directory of PATH
comes first."""


class Searched(Protocol):
    """What a text may be in: bytes, or the files of a bundle."""

    def __contains__(self, text: bytes, /) -> bool:
        """Whether it is."""


class Places:
    """The directories of one spec with one toolchain on this machine.

    Args:
        dirs: Name of each place, and its directory as the compiler is told it.
        label: The name under which compilers see the source.
    """

    def __init__(self, dirs: Sequence[tuple[str, str]], label: str) -> None:
        self._dirs = tuple((place, _closed(directory)) for place, directory in dirs)
        # Longest first, since one directory may lie in another; of two alike, the first.
        self._by_length = sorted(self._dirs, key=lambda item: -len(item[1]))
        self._directories = dict(reversed(self._dirs))
        self._label = label

    @property
    def dirs(self) -> tuple[tuple[str, str], ...]:
        """Each place with its directory, which has a slash at its end.

        Equal where the same files are found.
        """
        return self._dirs

    @property
    def told_apart(self) -> tuple[object, ...]:
        """Equal where a list means the same: directories and label."""
        return (self._dirs, self._label)

    def nesting(self) -> Iterator[str]:
        """Yield how the spec's directories lie in each other, and in those of the toolchain.

        A file is called by the innermost place that it lies in, though it may have been found from
        another one: with ``-I a -I a/inc``, ``#include "inc/x.h"`` reads ``x.h`` of the second. A
        list says what is read only where the directories lie in the same way.
        """
        for place, directory in self._dirs:
            for other, above in self._dirs:
                concerns_spec = "i" in (place[0], other[0])
                if place != other and concerns_spec and directory.startswith(above):
                    yield f"{place} in {other}: {directory[len(above) :]}"

    def spelt(self, text: bytes) -> set[str]:
        """Return the places whose directories a text spells out.

        A file of such a place may be read by this text, wherever the place is elsewhere.
        """
        return {
            place
            for place, directory in self._dirs
            if place[0] == "i" and os.fsencode(directory.rstrip(os.sep)) in text
        }

    def name(self, path: str) -> tuple[str, str]:
        """Return place and name of an absolute path, which is kept as it is spelt.

        The name of a place's directory itself is empty.
        """
        closed = _closed(path)
        for place, directory in self._by_length:
            if closed.startswith(directory):
                return place, path[len(directory) :]
        return ANYWHERE, path

    def directory(self, place: str) -> str | None:
        """Return what comes before a name of a place; None if this spec has no such place."""
        return "" if place == ANYWHERE else self._directories.get(place)

    def path(self, place: str, name: str) -> str | None:
        """Return the path that a read means here; None if this spec has no such place."""
        if place == ON_PATH:
            return program_on_path(name)
        directory = self.directory(place)
        return None if directory is None else directory + name

    def traces(self, data: Searched, named: Collection[str] = ()) -> list[tuple[str, str]]:
        """Return the places that left a trace in a result, each with the digest of its path.

        Debug information and ``__FILE__`` hold paths, or the spec's label. Such a result is right
        only where these are the same.

        Args:
            data: The result.
            named: Places that count in any case: of ``__FILE__`` only the length may be in there.
        """
        found = []
        for place, directory in self._dirs:
            held = len(directory) > 1 and os.fsencode(directory.rstrip(os.sep)) in data
            if held or place in named:
                found.append((place, _digest(directory)))
        if LABEL in named or self._label.encode() in data:
            found.append((LABEL, _digest(self._label)))
        return found

    def is_same(self, place: str, digest: str) -> bool:
        """Whether a place is what it was where a result with a trace of it was made."""
        if place == LABEL:
            return _digest(self._label) == digest
        # A toolchain behind a link has two directories.
        return any(_digest(path) == digest for name, path in self._dirs if name == place)


def program_on_path(name: str) -> str | None:
    """Return the path of the program that a name alone starts; None if there is none."""
    for directory in filter(None, os.environ.get("PATH", "").split(os.pathsep)):
        path = os.path.join(directory, name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def places_of(
    include_dirs: Sequence[str],
    options: Sequence[str],
    given_dirs: Sequence[str],
    program: str,
    label: str,
) -> Places:
    """Return the places of a job.

    Args:
        include_dirs: The spec's include directories; relative ones count from the working
            directory.
        options: Its options, which may name more of them.
        given_dirs: Directories that the toolchain is given.
        program: The toolchain's program, or "" if it is a library.
        label: The name under which compilers see the source.
    """
    user = [os.path.abspath(path) for path in (*include_dirs, *option_dirs(options))]
    dirs = [(f"i{number}", path) for number, path in enumerate(user)]
    dirs += [(f"t{number}", path) for number, path in enumerate(given_dirs)]
    if program:
        # A program may be found by a link, and finds its own files by where it really lies.
        for path in dict.fromkeys((program, os.path.realpath(program))):
            dirs.append(("tool", root_of(path)))
    return Places(dirs, label)


def root_of(program: str) -> str:
    """Return where a toolchain's own files lie: above ``bin``, or beside a program that is in none.

    Above the folder of zig's wheel lies every other package.
    """
    directory = os.path.dirname(program)
    return os.path.dirname(directory) if os.path.basename(directory) == "bin" else directory


def _closed(directory: str) -> str:
    return directory if directory.endswith(os.sep) else directory + os.sep


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()
