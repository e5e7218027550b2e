"""The header closure of a spec: every header that its compile may read, by content.

`HeaderIndex.closure` follows ``#include`` from the source and the spec's virtual headers through
the user's include directories. The toolchain's own headers are covered by its fingerprint and not
followed.
Two rules keep a key honest without a preprocessor:

- Conditionals are ignored, so the closure holds at least what the compiler reads. A header too many
  costs a miss; one too few would return a stale kernel.
- An include that is found nowhere is recorded as absent, and so is what ``__has_include`` asks for:
  the file's appearance must change the key. Only the compiler can say whether it is an error, since
  it may stand in a branch that is not taken (every portable header has some). `Closure.note` says
  what was searched, for the `CompileError` that may follow.

Labels are names as the compiler sees them, relative to the include directory or to the source. No
absolute path leaves this module.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit._compile.digests import FileCache
from ajit._compile.flags import option_paths
from ajit._compile.scanner import Directive, scan
from ajit.errors import IncludeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ajit._core.spec import Spec

__all__ = ["ABSENT", "Closure", "HeaderIndex", "MissingInclude"]

ABSENT = "absent"
"""Stands for the digest of a header that was not found."""

PRESENT = "present"
"""Stands for the digest of a header whose existence alone was asked for."""


@dataclass(frozen=True, slots=True)
class MissingInclude:
    """An include that was found nowhere.

    Attributes:
        include: The operand, as written.
        file: Label of the file that it stands in.
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
class _Unit:
    """A text of the closure that is to be followed.

    Attributes:
        label: What it is called in the key and in messages.
        folder: Its directory, for quoted includes; None for a text that is in memory.
    """

    label: str
    folder: str | None
    text: _Text


class HeaderIndex:
    """Closures, with a cache of digests and directives by file. Thread-safe; everything blocks."""

    def __init__(self) -> None:
        self._files = FileCache(_read)

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
        """
        return _Walk(self._files, spec, toolchain_include_dirs).run()


class _Walk:
    """One closure in the making. Used by one thread."""

    def __init__(self, files: FileCache[_Text], spec: Spec, own_dirs: Sequence[str]) -> None:
        options = option_paths(spec.options)
        self._files = files
        self._spec = spec
        self._dirs = tuple(os.path.abspath(path) for path in (*spec.include_dirs, *options.dirs))
        self._own_dirs = own_dirs
        self._forced = options.forced_includes
        self._virtual = dict(spec.headers)
        self._parts: set[tuple[str, str]] = set()
        self._missing: dict[str, MissingInclude] = {}
        self._seen: set[tuple[str, str]] = set()
        self._queue: deque[_Unit] = deque()

    def run(self) -> Closure:
        source = _Unit(self._spec.name, None, _scanned(self._spec.source.encode()))
        self._queue.append(source)
        for name, text in self._virtual.items():
            # All of them, since compilers differ in how they look for one that another includes.
            self._queue.append(_Unit(name, None, _scanned(text.encode())))
        for name in self._forced:
            self._follow(Directive("include", name, True, f'"{name}"', 0), source)  # noqa: FBT003
        while self._queue:
            unit = self._queue.popleft()
            for directive in unit.text.directives:
                self._follow(directive, unit)
        searched = (*self._spec.include_dirs, *option_paths(self._spec.options).dirs)
        return Closure(tuple(sorted(self._parts)), tuple(self._missing.values()), searched)

    def _follow(self, directive: Directive, unit: _Unit) -> None:
        name = directive.name
        if name is None:
            if self._spec.extra_digest is None:
                raise IncludeError(include=directive.text, file=unit.label, line=directive.line)
            return
        for label, path in self._candidates(directive, unit):
            text = self._files.get(path)
            if text is not None:
                self._found(directive, _Unit(label, os.path.dirname(path), text))
                return
        if name not in self._virtual and not self._is_own(name):
            self._parts.add((posixpath.normpath(name), ABSENT))
            if directive.kind != "probe":
                missing = MissingInclude(directive.text, unit.label, directive.line)
                self._missing.setdefault(name, missing)

    def _candidates(self, directive: Directive, unit: _Unit) -> Iterable[tuple[str, str]]:
        name = directive.name or ""
        if os.path.isabs(name):
            yield f"absolute/{posixpath.basename(name)}", name
            return
        if directive.quoted and unit.folder is not None:
            label = posixpath.normpath(posixpath.join(posixpath.dirname(unit.label), name))
            yield label, os.path.join(unit.folder, name)
        for folder in self._dirs:
            yield posixpath.normpath(name), os.path.join(folder, name)

    def _found(self, directive: Directive, unit: _Unit) -> None:
        digest = PRESENT if directive.kind == "probe" else unit.text.digest
        self._parts.add((unit.label, digest))
        self._enqueue(directive, unit)

    def _enqueue(self, directive: Directive, unit: _Unit) -> None:
        identity = (unit.label, unit.text.digest)
        if directive.kind == "include" and identity not in self._seen:
            self._seen.add(identity)
            self._queue.append(unit)

    def _is_own(self, name: str) -> bool:
        return any(os.path.isfile(os.path.join(folder, name)) for folder in self._own_dirs)


def _read(path: str) -> _Text:
    with open(path, "rb") as file:
        return _scanned(file.read())


def _scanned(source: bytes) -> _Text:
    return _Text(hashlib.sha256(source).hexdigest(), tuple(scan(source)))
