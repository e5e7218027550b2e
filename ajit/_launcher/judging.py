"""Whether the result of a compile can be kept, from what was recorded while it ran.

The record shows what no reading of options can: that the sources were read where the recorder
sees it, and that nothing was written but what the command line says.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit._compile.recorder.own_names import asks_for_name
from ajit._compile.recorder.places import ANYWHERE, LABEL
from ajit._compile.recorder.states import Settled, Unsettled, settle
from ajit._compile.worker.recording import seen_by_program
from ajit._compile.worker.records import READ, WRITTEN
from ajit._core.reads import SAME, Read
from ajit._launcher.outputs import STDERR, STDOUT, Section

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ajit._compile.worker.records import Record
    from ajit._launcher.base import Wanted
    from ajit._launcher.running import Ran

__all__ = ["CannotKeep", "Kept", "judge", "judge_failure"]


class CannotKeep(Exception):
    """The result is the caller's alone.

    Attributes:
        reason: Why, in a few words: they are counted.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Kept:
    """A result that can be kept.

    Attributes:
        reads: What the compile read.
        states: The state of each.
        sections: What it wrote and printed.
    """

    reads: tuple[Read, ...]
    states: tuple[str, ...]
    sections: list[Section]


_CLOCK = re.compile(rb"__(?:DATE|TIME|TIMESTAMP)__")
_TIMESTAMP = re.compile(rb"__TIMESTAMP__")

_MODULE_ID = re.compile(rb"_[0-9a-f]{8}_\d+_|tmpxft_")
"""What nvcc makes of the absolute path of its source, in names of internal symbols; and the name of
a temporary file, which is in every object of the host."""

_PRECOMPILED = (".gch", ".pch", ".pcm", ".gcm")

_PTX_HEAD_BYTES = 4096
"""Far above the comment that compilers begin it with."""

MOST_TEXT_BYTES = 64 * 1024 * 1024
"""A larger file is no source text: what it holds is not searched."""


def judge(wanted: Wanted, ran: Ran) -> Kept:
    """Say what can be kept of a compile that succeeded. Blocks: reads all that it read.

    Raises:
        CannotKeep: Nothing.
    """
    if not ran.whole:
        raise CannotKeep("printed or looked too much")
    _check_written(wanted, ran)
    _check_proof(wanted, ran.records)
    named = _check_texts(wanted, ran.records)
    sections = list(_sections(wanted, ran))
    data = b"\0".join(map(_searchable, sections))
    reads, states = _settled(wanted, ran, data, named)
    return Kept(reads, states, sections)


def judge_failure(wanted: Wanted, ran: Ran) -> tuple[tuple[Read, ...], tuple[str, ...]]:
    """Say what a compile read that failed.

    Raises:
        CannotKeep: Nothing that another could rely on.
    """
    if not ran.whole:
        raise CannotKeep("printed or looked too much")
    _check_proof(wanted, ran.records)
    named = _spelt_places(wanted, os.fsencode(wanted.spelt))
    return _settled(wanted, ran, ran.stdout + ran.stderr, named)


def _check_written(wanted: Wanted, ran: Ran) -> None:
    expected = {os.path.abspath(path) for _, path in wanted.command.outputs}
    if not all(map(os.path.isfile, expected)):
        raise CannotKeep("writes elsewhere")
    _check_fresh(expected, ran.records)
    if not expected <= {os.path.normpath(path) for kind, path, _ in ran.records if kind == WRITTEN}:
        raise CannotKeep("writes elsewhere")  # what is there was there before
    private = os.path.join(ran.folder, "")
    for path in {path for kind, path, _ in ran.records if kind == WRITTEN}:
        plain = os.path.normpath(path)
        if plain not in expected and not path.startswith(private) and os.path.isfile(plain):
            raise CannotKeep("writes more files")


def _check_fresh(outputs: set[str], records: Sequence[Record]) -> None:
    """Make sure that no output is read before it is written: an archive may be added to."""
    written: set[str] = set()
    for kind, path, _ in records:
        if kind == WRITTEN:
            written.add(os.path.normpath(path))
        elif kind == READ and os.path.normpath(path) in outputs - written:
            raise CannotKeep("adds to its output")


def _check_proof(wanted: Wanted, records: Sequence[Record]) -> None:
    """Make sure that the sources were seen being read: else nothing was."""
    read = {path for kind, path, _ in records if kind == READ}
    here = os.path.join(os.getcwd(), "")
    for source in wanted.command.sources:
        if os.path.isfile(source) and os.path.join(here, source) not in read:
            raise CannotKeep("reads cannot be seen")


def _check_texts(wanted: Wanted, records: Sequence[Record]) -> set[str]:
    """Look through all texts that were read; return the places that one of them spells out.

    A file of such a place may have been read by that text, wherever the place is elsewhere.
    """
    known = "SOURCE_DATE_EPOCH" in os.environ
    pattern = _TIMESTAMP if known else _CLOCK
    options = "\0".join(part for token in wanted.command.tokens for part in token.text())
    if pattern.search(os.fsencode(options)):
        raise CannotKeep("date or time")
    named = _spelt_places(wanted, os.fsencode(wanted.spelt)) | _written_otherwise(wanted)
    if asks_for_name(os.fsencode(options)):
        named |= {LABEL, *_users(wanted)}
    for path in {path for kind, path, _ in records if kind == READ}:
        if path.endswith(_PRECOMPILED):
            raise CannotKeep("modules or precompiled header")
        content = _content(path) if _is_text(path) else b""
        if pattern.search(content):
            raise CannotKeep("date or time")
        named |= _spelt_places(wanted, content)
    return named


def _spelt_places(wanted: Wanted, text: bytes) -> set[str]:
    return {
        place
        for place, directory in wanted.places.dirs
        if place[0] == "i" and os.fsencode(directory.rstrip(os.sep) or os.sep) in text
    }


_PLAIN = re.compile(r"[\w./+@%=,~^:-]*", re.ASCII)


def _written_otherwise(wanted: Wanted) -> set[str]:
    """The places that a result may hold in another form than they are given in.

    Make's syntax escapes blanks and ``$``, that of the assembler quotes and what is not ASCII.
    """
    return {
        place
        for place, directory in wanted.places.dirs
        if place[0] == "i"
        and not (_PLAIN.fullmatch(directory) and os.path.normpath(directory) + os.sep == directory)
    }


def _users(wanted: Wanted) -> set[str]:
    return {place for place, _ in wanted.places.dirs if place[0] == "i"}


def _is_text(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return not file.read(8).startswith((b"\x7fELF", b"!<arch>"))
    except OSError:
        return False  # temporary, and gone


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(MOST_TEXT_BYTES)


def _sections(wanted: Wanted, ran: Ran) -> Iterator[Section]:
    for name, path in wanted.command.outputs:
        try:
            with open(path, "rb") as file:
                yield Section(name, os.fstat(file.fileno()).st_mode & 0o777, file.read())
        except OSError as exc:
            raise CannotKeep("writes elsewhere") from exc
    for name, text in ((STDOUT, ran.stdout), (STDERR, ran.stderr)):
        if text:
            yield Section(name, 0, text)


_NUMBERS = re.compile(rb"\{((?:\d{1,3}, ?)+\d{1,3})\}")


def _searchable(section: Section) -> bytes:
    """A result with what a path in it is found by: PTX has the bytes of texts as numbers."""
    data = bytes(section.data)
    if b".version" not in data[:_PTX_HEAD_BYTES]:
        return data
    listed = ([int(number) for number in found.split(b",")] for found in _NUMBERS.findall(data))
    return b"\0".join((data, *(bytes(byte & 255 for byte in numbers) for numbers in listed)))


def _settled(
    wanted: Wanted, ran: Ran, data: bytes, named: set[str]
) -> tuple[tuple[Read, ...], tuple[str, ...]]:
    private = (os.path.join(ran.folder, ""),)
    seen = seen_by_program(ran.records, wanted.places, private, wanted.compiler)
    if seen.blind:
        raise CannotKeep("reads cannot be seen")
    if private[0].encode() in data:
        raise CannotKeep("holds a temporary name")
    sources = [os.path.abspath(source) for source in wanted.command.sources]
    result = settle(seen, wanted.places, data, (wanted.spelt,), sources)
    if isinstance(result, Unsettled):
        raise CannotKeep("changed meanwhile" if result.changed else "reads cannot be seen")
    _check_names(wanted, result.list.reads)
    if wanted.command.has_module_id and _MODULE_ID.search(data):
        named = {LABEL, *_users(wanted)}
    if wanted.command.tells_deps:
        named |= _linked_places(wanted, result.list.reads)
    return _with_places(wanted, result, named)


def _linked_places(wanted: Wanted, reads: Sequence[Read]) -> set[str]:
    """The places of headers that lie behind a link: gcc lists the shorter of their names."""
    found: set[str] = set()
    for read in reads:
        path = wanted.places.path(read.place, read.name) if read.kind == "file" else None
        if path is None or read.place[0] != "i" or read.place in found:
            continue
        if os.path.realpath(path) != os.path.normpath(path):
            found.add(read.place)
    return found


def _check_names(wanted: Wanted, reads: Sequence[Read]) -> None:
    """Make sure that no file of a place was found under another name of that place.

    It would be listed by its path, and be looked for there wherever the place is elsewhere.
    """
    dirs = [directory for place, directory in wanted.places.dirs if place[0] == "i"]
    real = tuple(os.path.join(os.path.realpath(directory), "") for directory in dirs)
    known: dict[str, bool] = {}
    for read in reads:
        if read.place != ANYWHERE:
            continue
        above = os.path.dirname(read.name)
        if above not in known:
            known[above] = os.path.join(os.path.realpath(above), "").startswith(real)
        if known[above]:
            raise CannotKeep("a path with two names")


def _with_places(
    wanted: Wanted, result: Settled, named: set[str]
) -> tuple[tuple[Read, ...], tuple[str, ...]]:
    reads, states = result.list.reads, result.states
    same = [Read(place, digest, "same") for place, digest in wanted.places.traces(b"", named)]
    more = [read for read in same if read not in reads]
    return (*reads, *more), (*states, *[SAME] * len(more))
