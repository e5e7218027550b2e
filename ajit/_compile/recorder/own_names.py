"""Whether a result may depend on how its files are called, without holding it.

``__FILE__`` is the name of the file that it stands in, or of the one in which a macro that has it
is used: of its length, or of a digest that the compiler works out, a search of the result finds
nothing. So a user's header that asks for its name, or may use a macro that does, binds the result
to its directory. To the name of the source it does not, where that uses no such macro. DeepGEMM's
sources are of that kind, and lie in another directory in each process.

``__builtin_FILE`` and `source_location` tell a function where it was called. Who calls it cannot be
said from words, so there all of the user's directories count.

The headers of a toolchain and of the system ask as well, as that of ``assert`` does. They hand the
name on as a whole, to say where something failed, and a search of the result finds it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ajit._compile.recorder.digests import CHUNK_BYTES, MAX_FILE_BYTES, FileCache
from ajit._compile.recorder.macros import (
    Macro,
    Macros,
    asks_for_name,
    macros_in,
    plain,
    words_in,
)
from ajit._compile.recorder.places import ANYWHERE, LABEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ajit._compile.recorder.places import Places
    from ajit._core.job import Seen

__all__ = ["OF_THE_USER", "asked_names", "asks_for_name"]

OF_THE_USER = ("i", ANYWHERE)
"""First letters of places whose files may be the user's. Those of a toolchain are not."""

_SYSTEM = ("/usr/include/", "/usr/lib/", "/usr/lib64/")
"""What lies here is not the user's, unless an include directory is in it."""

_OF_SOURCE = b"__BASE_FILE__"

_OF_CALLER = frozenset({b"source_location", b"__builtin_FILE", b"__builtin_source_location"})
_ITS_CLASS = re.compile(rb"\b(?:class|struct)\s+source_location\b")
_ITS_CALL = re.compile(rb"\bcurrent\s*\(\s*\)")
"""The header that defines the class says its name, and does not ask where it is called."""

_LONGEST_BYTES = 32
"""No word that asks for a name is longer."""

_BINARY = (b"\x7fELF", b"!<arch>")


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
    files = [(place, path) for place, path in read if path and not _is_systems(place, path)]
    asking = {path for _, path in files if _asking.get(path)}
    if not asking and not named:
        return named
    named.update(place for place, path in files if place != ANYWHERE and path in asking)
    names = _Names([path for _, path in files], texts)
    for place, path in files:
        # One of a place will do.
        if place not in named and place != ANYWHERE and path not in sources and names.in_file(path):
            named.add(place)
    if not sources or not asking.isdisjoint(sources) or names.of_source(sources):
        named.add(LABEL)
    return named


def _is_systems(place: str, path: str) -> bool:
    return place == ANYWHERE and path.startswith(_SYSTEM)


class _Told(NamedTuple):
    """What a text says, whatever else is read with it.

    Attributes:
        macros: That it defines.
        asks_for_source: Whether it may ask for the name of the source, wherever it stands.
    """

    macros: tuple[Macro, ...]
    asks_for_source: bool


class _Names:
    """Which texts of one compile may ask for names."""

    def __init__(self, paths: Sequence[str], texts: Sequence[bytes]) -> None:
        self._texts = texts
        told = [*filter(None, map(_told.get, paths)), *map(_told_by, texts)]
        self._macros = Macros(macro for each in told for macro in each.macros)
        self._any_asks_for_source = any(each.asks_for_source for each in told)
        self._any_asks_for_caller = self._has_caller((*map(_content, paths), *texts))

    def in_file(self, path: str) -> bool:
        """Whether the name of a header may be asked for."""
        return self._any_asks_for_caller or self._may_lead(_content(path))

    def of_source(self, sources: Iterable[str]) -> bool:
        """Whether that of the source may be, by what others define."""
        return (
            self._any_asks_for_source
            or self._any_asks_for_caller
            or any(map(self._may_lead, (*self._texts, *map(_content, sources))))
        )

    def _may_lead(self, text: bytes) -> bool:
        return self._macros.may_lead(words_in(plain(text)))

    def _has_caller(self, texts: Iterable[bytes]) -> bool:
        """Whether a function asks where it was called: not those that only define how to."""
        names = self._macros.leading_to(_OF_CALLER)
        return any(
            any(name in text for name in names) and _asks_for_caller(text, names) for text in texts
        )


def _asks_for_caller(text: bytes, names: frozenset[bytes]) -> bool:
    _, rest = macros_in(plain(text))
    if words_in(rest).isdisjoint(names):
        return False
    return _ITS_CLASS.search(rest) is None or _ITS_CALL.search(rest) is not None


def _content(path: str) -> bytes:
    """The content of a text; nothing if it is gone, as is seen when its state is told."""
    try:
        with open(path, "rb") as file:
            head = file.read(8)
            return b"" if head.startswith(_BINARY) else head + file.read(MAX_FILE_BYTES)
    except OSError:
        return b""


def _told_by(text: bytes) -> _Told:
    text = plain(text)
    return _Told(macros_in(text)[0], _OF_SOURCE in text)


def _asks_in_file(path: str) -> bool:
    tail = b""
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            if asks_for_name(plain(tail + chunk)):
                return True
            tail = chunk[-_LONGEST_BYTES:]
    return False


_asking: FileCache[bool] = FileCache(_asks_in_file)
_told: FileCache[_Told] = FileCache(lambda path: _told_by(_content(path)))
