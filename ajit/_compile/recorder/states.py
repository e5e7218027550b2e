"""Whether a compile's reads can be relied on: what it read is still what it was.

Everything blocks, and any thread may call it. Digests are kept by what the file system says about a
file (`ajit._compile.recorder.digests`), for the whole process: a file has one digest, whichever
runtime asks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit._compile.recorder.digests import MAX_FILE_BYTES, FileStamp, digests
from ajit._compile.recorder.own_names import OF_THE_USER, asked_names
from ajit._compile.recorder.today import states_today
from ajit._core.reads import MAX_READS, SAME, Read, ReadingList

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ajit._compile.recorder.places import Places, Searched
    from ajit._core.job import Seen, SeenRead

__all__ = ["Settled", "Unsettled", "missing_note", "settle"]

CLOCK_REALTIME_COARSE = 5
"""From Linux' ``time.h``: the clock that file times are taken from."""

_TICK_NS = int(time.clock_getres(CLOCK_REALTIME_COARSE) * 1e9)

COARSE_NS = 2_000_000_000
"""The step of a file system's clock that shows whole seconds only: FAT's, nothing is coarser."""


_SIZE = 2  # of a stamp


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


def settle(
    seen: Seen,
    places: Places,
    data: Searched,
    texts: Sequence[str] = (),
    sources: Sequence[str] = (),
) -> Settled | Unsettled:
    """Digest what a compile read, right after it.

    Args:
        seen: What was recorded.
        places: The job's places.
        data: The result; places that left a trace in it are listed as well.
        texts: The source and the virtual headers, which are called by the spec's label, and what
            the compiler's options say.
        sources: The paths of the sources, where they were read as files.
    """
    if seen.blind:
        return Unsettled(seen.blind, changed=False)
    if len(seen.reads) > MAX_READS:
        return Unsettled(f"the compiler asked for {len(seen.reads)} files", changed=False)
    reads = [Read(item.place, item.name, item.kind) for item in seen.reads]
    states: list[str] = []
    others = _states_of_others(reads, places)
    raw = [text.encode(errors="surrogateescape") for text in texts]
    named = asked_names(seen, places, raw, sources).union(*map(places.spelt, raw))
    for item, read in zip(seen.reads, reads, strict=True):
        path = places.path(item.place, item.name)
        if item.stamp is not None and item.stamp[_SIZE] > MAX_FILE_BYTES:
            return Unsettled(f"{read} has more than {MAX_FILE_BYTES} bytes", changed=False)
        # They may include by an absolute path what lies in another place; a toolchain's do not.
        if path is not None and item.kind == "file" and item.place[0] in OF_THE_USER:
            named |= _spelt_in(path, places)
        state = others.get(read) if item.kind != "file" else _digest_after(item, path)
        if state is None:
            return Unsettled(f"{read} changed while the compiler worked", changed=True)
        states.append(state)
    traces = [Read(place, digest, "same") for place, digest in places.traces(data, named)]
    return Settled(ReadingList((*reads, *traces)), (*states, *[SAME] * len(traces)))


def _spelt_in(path: str, places: Places) -> set[str]:
    try:
        with open(path, "rb") as file:
            return places.spelt(file.read())
    except OSError:  # it is gone: the state that is asked for next tells
        return set()


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


def _states_of_others(reads: Sequence[Read], places: Places) -> dict[Read, str]:
    """The states of those that were not read. All in one go, as they mostly hold."""
    others = [read for read in reads if read.kind != "file"]
    states = states_today(others, places)
    if states is not None:
        return dict(zip(others, states, strict=True))
    each = ((read, states_today((read,), places)) for read in others)
    return {read: state[0] for read, state in each if state}


def _digest_after(item: SeenRead, path: str | None) -> str | None:
    if path is None or item.stamp is None or not _is_sure(item):
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
