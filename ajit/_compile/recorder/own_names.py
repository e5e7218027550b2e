"""Whether a result may depend on how its files are called, without holding it.

``__FILE__`` is the name of the file that it stands in, or of the one in which a macro that has it
is used: of its length, or of a digest that the compiler works out, a search of the result finds
nothing. So a user's header that asks for its name binds the result to its directory. To the name of
the source it does not, where that uses no macro which may lead to such a question. DeepGEMM's
sources are of that kind, and lie in another directory in each process.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ajit._compile.recorder.digests import CHUNK_BYTES, MAX_FILE_BYTES, FileCache
from ajit._compile.recorder.places import ANYWHERE, LABEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ajit._compile.recorder.places import Places
    from ajit._core.job import Seen

__all__ = ["OF_THE_USER", "asked_names", "asks_for_name"]

OF_THE_USER = ("i", ANYWHERE)
"""First letters of places whose files may be the user's. Those of a toolchain are not."""

_ASKS = re.compile(rb"__(?:BASE_)?FILE|__builtin_FILE|source_location")
_ASKS_FOR_ANOTHER = re.compile(rb"__BASE_FILE|__builtin_FILE|source_location")
"""What may be the name of the source, or of a caller, wherever it stands."""

_LONGEST_BYTES = 32
"""No word that asks for a name is longer."""

_SPLICE = re.compile(rb"\\\r?\n")
_BLANK = rb"(?:[ \t\f\v]|/\*[\s\S]*?\*/)"
_BODY = rb"""(?://[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|/\*[\s\S]*?\*/|[^\n])*"""
_DEFINE = re.compile(
    rb"^%b*(?:#|%%:)%b*define%b+(\w+)(%b)" % (_BLANK, _BLANK, _BLANK, _BODY), re.MULTILINE
)
"""A macro: its name and its body, which may go on behind a comment of several lines."""

_WORD = re.compile(rb"\w+")

_BINARY = (b"\x7fELF", b"!<arch>")


def asks_for_name(text: bytes) -> bool:
    """Whether a text may ask how a file is called."""
    return _ASKS.search(text) is not None


def asked_names(
    seen: Seen, places: Places, texts: Sequence[bytes], sources: Sequence[str]
) -> set[str]:
    """Return the places, `LABEL` for the source's name, whose paths a result may depend on.

    Args:
        seen: What was recorded. Call it before the states of these files are told: they make sure
            that it was the text that the compiler read.
        places: The job's places.
        texts: Source, virtual headers and options, as far as these are texts.
        sources: The paths of the sources; none where they are not known to be all there is.
    """
    named = {LABEL} if any(map(asks_for_name, texts)) else set()
    read = [(item.place, places.path(item.place, item.name)) for item in seen.reads
            if item.kind == "file" and item.place[0] in OF_THE_USER]  # fmt: skip
    # Of the user's alone: CUDA's and C++'s headers ask for it in what says where it failed.
    asking = [
        (place, path) for place, path in read if place[0] == "i" and path and _asking.get(path)
    ]
    named.update(place for place, _ in asking)
    headers = {path for _, path in asking if path}
    if headers and (not sources or _may_tell_of_source(headers, read, texts, sources)):
        named.add(LABEL)
    return named


def _may_tell_of_source(
    asking: set[str],
    read: Iterable[tuple[str, str | None]],
    texts: Iterable[bytes],
    sources: Sequence[str],
) -> bool:
    """Whether a name that a header asks for may be the source's."""
    if not asking.isdisjoint(sources) or any(map(_asks_for_another, map(_content, asking))):
        return True
    paths = {path for _, path in read if path and path not in sources}
    words = {word for text in (*texts, *map(_content, sources)) for word in _WORD.findall(text)}
    return _Macros(map(_content, paths)).may_lead(words)


class _Macros:
    """The macros of some texts: which of them ask for a name, and which use which."""

    def __init__(self, texts: Iterable[bytes]) -> None:
        self._words: dict[bytes, set[bytes]] = {}
        self._asking: set[bytes] = set()
        self._pasting: set[bytes] = set()
        for text in texts:
            self._read(_SPLICE.sub(b"", text))

    def may_lead(self, words: set[bytes]) -> bool:
        """Whether one that asks may be used by a text with these words."""
        reached, new = set(words), words
        while new:
            new = set().union(*(self._words[word] for word in new if word in self._words)) - reached
            reached |= new
        if not reached.isdisjoint(self._asking):
            return True
        # A name that is pasted together begins with one word and ends with another.
        return not reached.isdisjoint(self._pasting) and any(
            any(name.startswith(word) for word in reached)
            and any(name.endswith(word) for word in reached)
            for name in self._asking
        )

    def _read(self, text: bytes) -> None:
        for name, body in _DEFINE.findall(text):
            self._words.setdefault(name, set()).update(_WORD.findall(body))
            if b"##" in body or b"%:%:" in body:
                self._pasting.add(name)
            if b"__FILE" in body:
                self._asking.add(name)


def _asks_for_another(text: bytes) -> bool:
    return _ASKS_FOR_ANOTHER.search(text) is not None


def _content(path: str) -> bytes:
    """The content of a text; nothing if it is gone, as is seen when its state is told."""
    try:
        with open(path, "rb") as file:
            head = file.read(8)
            return b"" if head.startswith(_BINARY) else head + file.read(MAX_FILE_BYTES)
    except OSError:
        return b""


def _asks_in_file(path: str) -> bool:
    tail = b""
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            if asks_for_name(tail + chunk):
                return True
            tail = chunk[-_LONGEST_BYTES:]
    return False


_asking: FileCache[bool] = FileCache(_asks_in_file)
