"""What the files of a reading list are today, and whether a compile's reads can be relied on.

Everything blocks, and any thread may call it. Digests are kept by what the file system says about a
file (`ajit._compile.recorder.digests`), for the whole process: a file has one digest, whichever
runtime asks.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit._compile.recorder.digests import FileCache, FileStamp, digests
from ajit._compile.recorder.places import LABEL, ON_PATH
from ajit._core.reads import ABSENT, FOLDER, MAX_READS, PRESENT, SAME, Read, ReadingList

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit._compile.recorder.places import Places
    from ajit._core.job import Seen, SeenRead

__all__ = ["Settled", "Unsettled", "missing_note", "settle", "states_today"]

_ASKS_FOR_NAME = re.compile(rb"__(?:BASE_)?FILE|__builtin_FILE|source_location")
"""Text that may ask how its file is called, so that a result may depend on that without holding it:
on the length of a path, or on a digest that the compiler works out."""


def _asks_for_name(path: str) -> bool:
    with open(path, "rb") as file:
        return _ASKS_FOR_NAME.search(file.read()) is not None


_asking: FileCache[bool] = FileCache(_asks_for_name)

CLOCK_REALTIME_COARSE = 5
"""From Linux' ``time.h``: the clock that file times are taken from."""

_TICK_NS = int(time.clock_getres(CLOCK_REALTIME_COARSE) * 1e9)

_F_OK = os.F_OK

COARSE_NS = 2_000_000_000
"""The step of a file system's clock that shows whole seconds only: FAT's, nothing is coarser."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The reads of a compile, all of them what they were when they were read.

    Attributes:
        list: The reading list.
        states: The state of each.
    """

    list: ReadingList
    states: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsettled:
    """It cannot be told what a compile read: its result must not be shared.

    Attributes:
        reason: Why.
        changed: Whether a file changed meanwhile; otherwise the reads could not be seen.
    """

    reason: str
    changed: bool


def states_today(reads: Sequence[Read], places: Places) -> tuple[str, ...] | None:
    """Return the state of each read, or None if the list does not hold today.

    It does not if a file that was read is gone, one that was looked for in vain has appeared, or
    the spec has no such place here.
    """
    # One pass without a call for each read: a list has thousands, and a warm look-up of 900 headers
    # may take 5 ms beside its system calls.
    get, access, directory = digests.get, os.access, places.directory
    directories = {place: directory(place) for place in {read.place for read in reads}}
    states: list[str] = []
    for read in reads:
        kind = read.kind
        if kind == "same":
            state = SAME if places.is_same(read.place, read.name) else None
        elif read.place == ON_PATH:
            state = get(places.path(ON_PATH, read.name) or "")
        else:
            root = directories[read.place]
            if root is None:
                return None
            if kind == "file":
                state = get(root + read.name)
            # access() and not stat(), which raises: most of a list is absent, and this is three
            # times as fast. It follows links, as a compiler does.
            elif access(root + read.name, _F_OK):
                state = _state_there(root + read.name) if kind == "present" else None
            else:
                state = ABSENT if kind == "absent" else None
        if state is None:
            return None
        states.append(state)
    return tuple(states)


def _state_there(path: str) -> str:
    return FOLDER if os.path.isdir(path) else PRESENT


def settle(
    seen: Seen, places: Places, data: bytes, texts: Sequence[str] = ()
) -> Settled | Unsettled:
    """Digest what a compile read, right after it.

    Args:
        seen: What was recorded.
        places: The job's places.
        data: The result; places that left a trace in it are listed as well.
        texts: The source and the virtual headers, which are called by the spec's label.
    """
    if seen.blind:
        return Unsettled(seen.blind, changed=False)
    if len(seen.reads) > MAX_READS:
        return Unsettled(f"the compiler asked for {len(seen.reads)} files", changed=False)
    reads = [Read(item.place, item.name, item.kind) for item in seen.reads]
    states = []
    named = {LABEL} if any(map(_ASKS_FOR_NAME.search, map(str.encode, texts))) else set()
    for item, read in zip(seen.reads, reads, strict=True):
        path = places.path(item.place, item.name)
        # Of the user's alone: CUDA's and C++'s headers ask for it in what says where it failed.
        # Before the state is told, which makes sure that it is the text that the compiler read.
        if path is not None and item.kind == "file" and item.place[0] == "i" and _asking.get(path):
            named |= {item.place, LABEL}
        state = None if path is None else _state_after(item, read, path, places)
        if state is None:
            return Unsettled(f"{read} changed while the compiler worked", changed=True)
        states.append(state)
    traces = [Read(place, digest, "same") for place, digest in places.traces(data, named)]
    return Settled(ReadingList((*reads, *traces)), (*states, *[SAME] * len(traces)))


def missing_note(seen: Seen, log: str, include_dirs: Sequence[str]) -> str | None:
    """Return a note for a `CompileError` that an include which was found nowhere may have caused.

    Args:
        seen: What the compiler asked for.
        log: What it printed; an absent header that it does not name was only asked for.
        include_dirs: The spec's, as given.
    """
    # A header's name may be the end of a path, and a missing directory stands for all below it.
    found = "".join(f"/{item.name}/\n" for item in seen.reads if item.kind != "absent")
    looked: dict[str, None] = {}
    for item in seen.reads:
        if item.kind != "absent" or not item.name or item.place[0] not in "it":
            continue
        if f"/{item.name}/" not in found and _says_missing(log, item.name):
            looked[item.name] = None
    if not looked:
        return None
    searched = ", ".join(include_dirs) or "no include_dirs were given"
    return f"not found: {', '.join(looked)}; searched: {searched}, then the compiler's own headers"


def _says_missing(log: str, name: str) -> bool:
    """Whether a line names it as what could not be opened, in the words of any compiler here."""
    return any(
        name in line and ("No such file" in line or "cannot open" in line or "not found" in line)
        for line in log.splitlines()
    )


def _state_after(item: SeenRead, read: Read, path: str, places: Places) -> str | None:
    if item.kind != "file":
        states = states_today((read,), places)
        return None if states is None else states[0]
    if item.stamp is None or not _is_sure(item):
        return None
    before = FileStamp.of(path)
    if before != item.stamp:
        return None
    digest = digests.get(path)
    return digest if FileStamp.of(path) == before else None


def _is_sure(item: SeenRead) -> bool:
    """Whether a write after the file was opened is certain to show in its stamp.

    It does not if the file was written in the same step of the file system's clock.
    """
    assert item.stamp is not None
    ctime = item.stamp[4]
    step = COARSE_NS if ctime % 1_000_000_000 == 0 else _TICK_NS
    # In both directions: the file system's clock may be another machine's.
    return abs(item.opened_ns - ctime) >= step
