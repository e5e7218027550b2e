"""What the files of a reading list are today.

Everything blocks, and any thread may call it. Each file costs one ``stat``
(`ajit._compile.recorder.stat_files`). Its digest is kept by what that says about it, for the whole
process (`ajit._compile.recorder.digests`). A list that was looked at before, and about whose files
``stat`` says the same now, has the same states: then nothing more is done for each file.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, TypeAlias

from ajit._compile.recorder.digests import FileStamp, digests
from ajit._compile.recorder.places import ON_PATH
from ajit._compile.recorder.stat_files import ABSENT as NOT_THERE
from ajit._compile.recorder.stat_files import (
    DIRECTORY,
    FILE_STATE,
    REGULAR,
    joined_paths,
    stat_files,
)
from ajit._core.reads import ABSENT, FOLDER, PRESENT, SAME, Read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit._compile.recorder.places import Places
    from ajit._core.reads import ReadingList

__all__ = ["LOOK_UP_BYTES", "Budget", "ListsToday", "state_now", "states_today"]

MAX_KEPT_READS = 200_000
"""Reads of all lists whose paths are kept in memory; some 30 MB."""

LOOK_UP_BYTES = 2 * 1024**3
"""How much one look-up reads to learn digests. A list is not authentic: a forged one could name
hundreds of large files, and each look-up would take minutes. Pretty arbitrary: a few seconds, and
some times what a toolchain has. What was read is known then, so the next look-up comes further."""

_SIZE = 2  # of the fields of a `Stamp`

States: TypeAlias = tuple[str, ...]


class Budget:
    """How much one look-up may still read. Belongs to one thread.

    Args:
        left_bytes: How much that is.
    """

    def __init__(self, left_bytes: int = LOOK_UP_BYTES) -> None:
        self._left_bytes = left_bytes

    def take(self, size_bytes: int) -> bool:
        """Take so much of it, and return true, if there is so much."""
        if size_bytes > self._left_bytes:
            return False
        self._left_bytes -= size_bytes
        return True


def states_today(
    reads: Sequence[Read], places: Places, budget: Budget | None = None
) -> States | None:
    """Return the state of each read, or None if the list does not hold today.

    It does not if a file that was read is gone, one that was looked for in vain has appeared, or
    the spec has no such place here; or if it needs more than is left of the budget.
    """
    return _FilesOfList(reads, places).states(budget)


def state_now(read: Read, places: Places) -> str | None:
    """Return what is where a read looked, whatever it found then. For people.

    A file that was only asked for is not read now either. None: the spec has no such place.
    """
    if read.kind == "same":
        return SAME if places.is_same(read.place, read.name) else "another path"
    path = places.path(read.place, read.name)
    if path is None:
        return ABSENT if read.place == ON_PATH else None
    if not os.path.exists(path):
        return ABSENT
    if os.path.isdir(path):
        return FOLDER
    return PRESENT if read.kind == "present" else digests.get(path) or PRESENT


class ListsToday:
    """The reading lists that one cache was asked for, with what their files were last time.

    Any thread may use it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[object, _FilesOfList] = {}
        self._kept_reads = 0

    def states(
        self, digest: str, found: ReadingList, places: Places, budget: Budget | None = None
    ) -> States | None:
        """Return what `states_today` does.

        Args:
            digest: The digest of the list.
            found: The list.
            places: Where its files lie.
            budget: A list that needs more than is left of it counts as one that does not hold.
        """
        if not found.reads:
            return ()
        about = (digest, places.told_apart)
        with self._lock:
            files = self._kept.get(about)
        if files is None:
            files = _FilesOfList(found.reads, places)
            self._keep(about, files, len(found.reads))
        return files.states(budget)

    def _keep(self, about: object, files: _FilesOfList, reads: int) -> None:
        with self._lock:
            if self._kept_reads + reads > MAX_KEPT_READS:
                self._kept.clear()
                self._kept_reads = 0
            if self._kept.setdefault(about, files) is files:
                self._kept_reads += reads


class _FilesOfList:
    """The paths of a list's reads in some places."""

    def __init__(self, reads: Sequence[Read], places: Places) -> None:
        self._reads = reads
        self._places = places
        directories = {place: places.directory(place) for place in {read.place for read in reads}}
        # What is told without a path, or by another one each time.
        self._others: list[tuple[int, Read]] = []
        self._indexes: list[int] = []
        self._paths: list[str] = []
        holds = True
        for index, read in enumerate(reads):
            directory = directories[read.place]
            if read.kind == "same" or read.place == ON_PATH:
                self._others.append((index, read))
            elif directory is None:
                holds = False
            else:
                self._indexes.append(index)
                self._paths.append(directory + read.name)
        self._joined = joined_paths(self._paths) if holds else None
        # What was found last, and the states then: one tuple, so that threads need no lock.
        self._last: tuple[tuple[bytes, list[str | None]], States] | None = None

    def states(self, budget: Budget | None = None) -> States | None:
        """Return the state of each read today, or None if the list does not hold."""
        others = [self._other(read, budget) for _, read in self._others]
        if self._joined is None or None in others:
            return None
        found = (stat_files(self._joined, len(self._paths)), others)
        last = self._last
        if last is not None and last[0] == found:
            return last[1]
        states: list[str | None] = [None] * len(self._reads)
        for (index, _), state in zip(self._others, others, strict=True):
            states[index] = state
        lasting = self._fill(states, found[0], budget)
        if None in states:
            return None
        result = tuple(state for state in states if state is not None)
        if lasting:
            self._last = (found, result)
        return result

    def _fill(self, states: list[str | None], found: bytes, budget: Budget | None) -> bool:
        """Fill in the states of files. Return whether they are the same while ``stat`` is."""
        kept, reads, lasting = digests.kept, self._reads, True
        # One pass without a call for each read that is absent, as most of a list are.
        for index, path, (what, *stamp) in zip(
            self._indexes, self._paths, FILE_STATE.iter_unpack(found), strict=True
        ):
            kind = reads[index].kind
            if kind == "absent":
                state = ABSENT if what == NOT_THERE else None
            elif kind == "present":
                state = _state_there(what)
            else:
                state = kept(tuple(stamp)) if what == REGULAR else None
                if state is None:
                    if budget is not None and not budget.take(stamp[_SIZE]):
                        return False
                    # It may have been written just now: then it is read each time.
                    state, lasting = digests.get(path), False
            if state is None:
                return False
            states[index] = state
        return lasting

    def _other(self, read: Read, budget: Budget | None) -> str | None:
        if read.kind == "same":
            return SAME if self._places.is_same(read.place, read.name) else None
        program = self._places.path(ON_PATH, read.name)
        if read.kind == "absent":
            return None if program else ABSENT
        return _digest(program, budget) if program else None


def _digest(path: str, budget: Budget | None) -> str | None:
    stamp = FileStamp.of(path)
    if stamp is None:
        return None
    known = digests.kept(stamp)
    if known is None and (budget is None or budget.take(stamp.size)):
        return digests.get(path)
    return known


def _state_there(what: int) -> str | None:
    if what == DIRECTORY:
        return FOLDER
    return PRESENT if what > NOT_THERE else None
