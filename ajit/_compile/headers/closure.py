"""The header closure of a spec: every header that its compile may read, by content.

`HeaderIndex.closure` follows ``#include`` from the source and the spec's virtual headers through
the user's include directories. The toolchain's own headers are covered by its fingerprint and not
followed, unless a file of the user's has the path of one of them, and may be taken in its place
(`ajit._compile.headers.toolchain_headers`).

Three rules keep a key honest without a preprocessor:

- Conditionals are ignored, so the closure holds at least what the compiler reads. A header too many
  costs a miss; one too few would return a stale kernel.
- So is the search order: an include stands for every file that it may mean, in all directories.
  Compilers differ in which of them they take (``-iquote``, ``-idirafter``, options before
  ``include_dirs``), and ``#include_next`` takes the one behind the first.
- An include that is found nowhere is recorded as absent, and so is what ``__has_include`` asks for:
  the file's appearance must change the key. Only the compiler can say whether it is an error, since
  it may stand in a branch that is not taken (every portable header has some). `Closure.note` says
  what was searched, for the `CompileError` that may follow.

A label names a place, so that no two files share one: ``0/y.h`` lies in the first include
directory, ``1/y.h`` in the second; were both just ``y.h``, swapping their contents would keep the
key. What is included by an absolute path has a digest of its directory in its label. Beside a
source in memory NVRTC finds nothing, see `ajit._compile.worker.place`; the label of such a look
begins with ``worker``. No absolute path leaves this module.

Not seen: a user's header that only a header of the toolchain includes and that the toolchain does
not have, such as an optional ``user_config.h`` (looking for those would take the 0.4 s that
following CUB takes, in every process that uses CUB); what the toolchain's headers include by a
macro; and files that inline assembly reads (``.incbin``). Such a spec needs an ``extra_digest``.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit._compile.headers.digests import FileCache
from ajit._compile.headers.flags import option_paths
from ajit._compile.headers.scanner import Directive, scan
from ajit._compile.headers.toolchain_headers import OwnHeaders
from ajit.errors import IncludeError, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ajit._core.spec import Spec

__all__ = ["ABSENT", "Closure", "HeaderIndex", "MissingInclude"]

ABSENT = "absent"
"""Stands for the digest of a header that was not found."""

PRESENT = "present"
"""Stands for the digest of a header whose existence alone was asked for."""

WORKER_DIR = "/nonexistent"
"""Stands for the place where workers run, in which nothing is: NVRTC looks there for what a source
or a virtual header includes in quotes."""


@dataclass(frozen=True, slots=True)
class MissingInclude:
    """An include that was found nowhere.

    Attributes:
        include: The operand, as written.
        file: The file that it stands in, as an include would name it.
        line: Its line.
    """

    include: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Closure:
    """What a compile may read beside the source.

    Attributes:
        parts: Label and SHA-256 (or `ABSENT`) of every header, sorted: for `make_key`.
        missing: Includes that were found nowhere, system headers among them.
        searched: The include directories, in order, as given.
    """

    parts: tuple[tuple[str, str], ...]
    missing: tuple[MissingInclude, ...] = ()
    searched: tuple[str, ...] = ()

    def note(self) -> str | None:
        """Return a note for a `CompileError` that a missing include may have caused."""
        if not self.missing:
            return None
        names = ", ".join(f"{m.include} ({m.file}:{m.line})" for m in self.missing)
        searched = ", ".join(self.searched) or "no include_dirs were given"
        return f"not found by ajit: {names}; searched: {searched}, then the compiler's own headers"


@dataclass(frozen=True, slots=True)
class _Text:
    """A scanned file: its digest and its directives."""

    digest: str
    directives: tuple[Directive, ...]


@dataclass(frozen=True, slots=True)
class _IncludeSite:
    """Where a file lies, as far as a key may know.

    Attributes:
        root: What its directory is called in labels.
        folder: The path of that directory.
        name: The file's path in it.
    """

    root: str
    folder: str
    name: str

    @property
    def label(self) -> str:
        return f"{self.root}/{self.name}"

    @property
    def path(self) -> str:
        return os.path.join(self.folder, self.name)

    def beside(self, name: str) -> _IncludeSite:
        """The place that a quoted include in this file means first."""
        joined = posixpath.join(posixpath.dirname(self.name), name)
        return _IncludeSite(self.root, self.folder, joined)

    def normal(self) -> _IncludeSite:
        """The place of the same file, spelt in the shortest way: mostly one label for one file.

        ``sub/../a.h`` is another file than ``a.h`` where ``sub`` is a link to elsewhere.
        """
        short = _IncludeSite(self.root, self.folder, posixpath.normpath(self.name))
        if ".." not in self.name or _is_same_file(short.path, self.path):
            return short
        return self


@dataclass(frozen=True, slots=True)
class _Unit:
    """A text of the closure that is to be followed.

    Attributes:
        place: Where it lies; a text in memory counts as lying in `WORKER_DIR`.
        shown: What it is called in messages.
        text: Its digest and directives.
    """

    place: _IncludeSite
    shown: str
    text: _Text


class HeaderIndex:
    """Closures, with a cache of digests and directives by file. Thread-safe; everything blocks."""

    def __init__(self) -> None:
        self._files = FileCache(_read)
        self._own_headers = OwnHeaders()

    @property
    def reads(self) -> int:
        """How many files have been read so far."""
        return self._files.reads

    def closure(self, spec: Spec, toolchain_include_dirs: Sequence[str] = ()) -> Closure:
        """Find the closure of a spec. Blocks: it reads files.

        Args:
            spec: The spec; relative include directories are taken from the working directory.
            toolchain_include_dirs: The compiler's own headers, which are not followed.

        Raises:
            IncludeError: An include's operand is a macro, and the spec has no ``extra_digest`` that
                stands for it. Nothing was compiled.
            SpecError: The same of an option that names a file which is not followed.
        """
        return _Walk(self._files, self._own_headers, spec, toolchain_include_dirs).run()


class _Walk:
    """One closure in the making. Used by one thread."""

    def __init__(
        self,
        files: FileCache[_Text],
        own_headers: OwnHeaders,
        spec: Spec,
        own_dirs: Sequence[str],
    ) -> None:
        self._files = files
        self._own_headers = own_headers
        self._spec = spec
        self._options = option_paths(spec.options)
        self._searched = (*spec.include_dirs, *self._options.dirs)
        self._dirs = tuple(os.path.abspath(path) for path in self._searched)
        self._own_dirs = own_dirs
        self._shadowed = own_headers.are_shadowed(self._dirs, own_dirs)
        self._own_followed: set[str] = set()
        self._reached: set[str] = set()
        self._virtual = dict(spec.headers)
        self._parts: set[tuple[str, str]] = set()
        self._missing: dict[str, MissingInclude] = {}
        self._seen: set[tuple[str, str]] = set()
        self._looked: dict[_IncludeSite, tuple[_IncludeSite, _Text] | None] = {}
        self._queue: deque[_Unit] = deque()

    def run(self) -> Closure:
        self._refuse_unfollowed_options()
        # Without a folder, whatever its label: NVRTC is told no more of it than a file name.
        source = self._in_memory("source", self._spec.name, self._spec.source)
        self._queue.append(source)
        for name, text in self._virtual.items():
            # All of them, since compilers differ in how they look for one that another includes.
            self._queue.append(self._in_memory(name, name, text))
        for name in self._options.forced_includes:
            self._follow(Directive("include", name, True, f'"{name}"', 0), source)  # noqa: FBT003
        while self._queue:
            unit = self._queue.popleft()
            for directive in unit.text.directives:
                self._follow(directive, unit)
        return Closure(tuple(sorted(self._parts)), tuple(self._missing.values()), self._searched)

    def _refuse_unfollowed_options(self) -> None:
        if self._options.unfollowed and self._spec.extra_digest is None:
            raise SpecError(
                f"option {self._options.unfollowed[0]!r} of spec {self._spec.name!r} names a file "
                "that ajit does not follow (give the spec an extra_digest that changes whenever "
                "the file does)"
            )

    def _in_memory(self, name: str, shown: str, text: str) -> _Unit:
        return _Unit(_IncludeSite("worker", WORKER_DIR, name), shown, _scanned(text.encode()))

    def _follow(self, directive: Directive, unit: _Unit) -> None:
        name = directive.name
        if name is None:
            if self._spec.extra_digest is None:
                raise IncludeError(include=directive.text, file=unit.shown, line=directive.line)
            return
        if self._shadowed and name not in self._own_followed:
            self._own_followed.add(name)
            self._follow_own(name)
        found = False
        for candidate in self._candidates(directive, unit):
            if there := self._look(candidate):
                place, text = there
                self._found(directive, _Unit(place, place.name, text))
                found = True
        if not found and name not in self._virtual and not self._is_own(name):
            self._parts.add((posixpath.normpath(name), ABSENT))
            if directive.kind != "probe":
                missing = MissingInclude(directive.text, unit.shown, directive.line)
                self._missing.setdefault(name, missing)

    def _follow_own(self, name: str) -> None:
        """Follow what the toolchain's header of that name may take from the user's directories."""
        reached = self._own_headers.reached(name, self._own_dirs) - self._reached
        self._reached |= reached
        for taken in sorted(reached):
            directive = Directive("include", taken, False, f"<{taken}>", 0)  # noqa: FBT003
            for place in self._in_dirs(taken):
                if there := self._look(place):
                    self._found(directive, _Unit(there[0], there[0].name, there[1]))

    def _in_dirs(self, name: str) -> Iterable[_IncludeSite]:
        return (
            _IncludeSite(str(ordinal), folder, name) for ordinal, folder in enumerate(self._dirs)
        )

    def _candidates(self, directive: Directive, unit: _Unit) -> Iterable[_IncludeSite]:
        """Every place that some compiler would take the file from."""
        name = directive.name or ""
        if os.path.isabs(name):
            folder, base = os.path.split(name)
            digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
            yield _IncludeSite(f"absolute/{digest}", folder, base)
            return
        if directive.quoted:
            yield unit.place.beside(name)
        yield from self._in_dirs(name)

    def _look(self, place: _IncludeSite) -> tuple[_IncludeSite, _Text] | None:
        """The file in a place, read once for all the includes that mean it."""
        if place not in self._looked:
            text = self._files.get(place.path)
            self._looked[place] = None if text is None else (place.normal(), text)
        return self._looked[place]

    def _found(self, directive: Directive, unit: _Unit) -> None:
        digest = PRESENT if directive.kind == "probe" else unit.text.digest
        self._parts.add((unit.place.label, digest))
        identity = (unit.place.label, unit.text.digest)
        if directive.kind == "include" and identity not in self._seen:
            self._seen.add(identity)
            self._queue.append(unit)

    def _is_own(self, name: str) -> bool:
        return any(os.path.isfile(os.path.join(folder, name)) for folder in self._own_dirs)


def _is_same_file(a: str, b: str) -> bool:
    try:
        return os.path.samefile(a, b)
    except (OSError, ValueError):
        return False


def _read(path: str) -> _Text:
    with open(path, "rb") as file:
        return _scanned(file.read())


def _scanned(source: bytes) -> _Text:
    return _Text(hashlib.sha256(source).hexdigest(), tuple(scan(source)))
