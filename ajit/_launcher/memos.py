"""Making memos: what the quick way of `quick` may rely on next time."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from ajit._cache.files import fs
from ajit._compile.recorder.digests import SETTLED_NS
from ajit._compile.recorder.places import ON_PATH
from ajit._compile.recorder.stat_files import (
    ABSENT,
    DIRECTORY,
    FILE_STATE,
    REGULAR,
    joined_paths,
    stat_files,
)
from ajit._compile.recorder.today import states_today
from ajit._launcher.outputs import STDERR, STDOUT
from ajit._launcher.quick import Memo

if TYPE_CHECKING:
    from ajit._cache.files.directory import CacheDirectory
    from ajit._launcher.base import Wanted
    from ajit._launcher.cache import Hit

__all__ = ["is_swept", "make_memo", "sweep_memos"]

IDLE_SECONDS = 7 * 24 * 3600.0
"""How long a memo is kept. Pretty arbitrary: without it a hit takes some 100 ms more, once."""

SWEEP_SECONDS = 3600.0
"""How often launchers look what can be removed."""

_SWEPT = "launcher/swept"

MOST_READ_BYTES = 4 * 1024 * 1024
"""Of files that are too new to rely on what ``stat`` says. Pretty arbitrary: hashed in 10 ms."""


def make_memo(wanted: Wanted, hit: Hit) -> Memo | None:
    """Return a memo of a result that was found, or None where none can be relied on. Blocks."""
    # The compiler itself is in no list: it is in the base key.
    files: list[tuple[str, str]] = [(wanted.compiler, "")]
    programs: dict[str, str] = {}
    for read, state in zip(hit.reads, hit.states, strict=True):
        path = None if read.kind == "same" else wanted.places.path(read.place, read.name)
        if read.place == ON_PATH and path is None:
            programs[read.name] = ""  # there is none
        if path is not None:
            files.append((path, state if read.kind == "file" else ""))
            if read.place == ON_PATH:
                programs[read.name] = path
    paths = joined_paths([path for path, _ in files])
    if paths is None:
        return None
    # Twice, with the digests between: what did not change between them has those digests.
    found = stat_files(paths, len(files))
    if states_today(hit.reads, wanted.places) != hit.states:
        return None
    if found != stat_files(paths, len(files)):
        return None
    made = _Making({os.path.abspath(source) for source in wanted.command.sources})
    for (name, digest), fields in zip(files, FILE_STATE.iter_unpack(found), strict=True):
        made.add(name, digest, fields)
    return made.memo(hit.key, _outputs(wanted, hit), programs)


def is_swept(directory: CacheDirectory) -> bool:
    """Whether any process has called `sweep_memos` not long ago. Blocks."""
    try:
        age = time.time() - fs.stat_file(directory, _SWEPT).st_mtime
    except FileNotFoundError:
        return False
    return age < SWEEP_SECONDS


def sweep_memos(directory: CacheDirectory) -> int:
    """Remove memos that are old, those of earlier boots above all; return how many. Blocks.

    Raises:
        OSError: The cache cannot be written.
    """
    fs.publish_file(directory, _SWEPT, b"", replace=True)
    removed = 0
    for node in fs.list_names(directory, "launcher"):
        for shard in fs.list_names(directory, f"launcher/{node}"):
            for name in fs.list_names(directory, f"launcher/{node}/{shard}"):
                path = f"launcher/{node}/{shard}/{name}"
                if time.time() - fs.stat_file(directory, path).st_mtime > IDLE_SECONDS:
                    removed += fs.remove_file(directory, path)
    return removed


def _outputs(wanted: Wanted, hit: Hit) -> dict[str, str]:
    names = {section.name for section in hit.sections} - {STDOUT, STDERR}
    return {name: path for name, path in wanted.command.outputs if name in names}


class _Making:
    """A memo that is being made.

    Args:
        sources: Files that are read rather than relied on by their stamp: a build system that
            writes them again must not lose its hits.
    """

    def __init__(self, sources: set[str]) -> None:
        self._sources = sources
        self._paths: list[str] = []
        self._states: list[bytes] = []
        self._folders: list[str] = []
        self._read: dict[str, str] = {}
        self._read_bytes = 0
        self._newest = time.time_ns() - SETTLED_NS
        self._possible = True

    def add(self, path: str, digest: str, state: tuple[int, ...]) -> None:
        what, _, _, size, *times = state
        if what == DIRECTORY:
            # What ``stat`` says of it changes with every file in it.
            self._folders.append(path)
        elif what == REGULAR and digest and (max(times) > self._newest or path in self._sources):
            self._read[path] = digest
            self._read_bytes += size
        elif what == ABSENT or (what == REGULAR and max(times) <= self._newest):
            self._paths.append(path)
            self._states.append(FILE_STATE.pack(*state))
        else:
            self._possible = False

    def memo(self, key: str, outputs: dict[str, str], programs: dict[str, str]) -> Memo | None:
        joined = joined_paths(self._paths)
        if not self._possible or self._read_bytes > MOST_READ_BYTES or joined is None:
            return None
        states = b"".join(self._states)
        return Memo(key, outputs, joined, states, self._folders, self._read, programs)
