"""The base key of a compile, and the places where what it reads may lie.

The base key holds the compiler, the options as they stand, the content of the sources, and the
variables that matter. Absolute include directories, and that of a source, are places: they are
called by number, so that two checkouts or two installations share a result. How one of them lies
in another is part of the key: a file in both is listed under one of them only.

Where the result may hold a path that cannot be searched for (debug information may be compressed),
nothing is a place but the working directory, and its name is part of the key.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit._compile.recorder.digests import digests
from ajit._compile.recorder.places import Places, root_of
from ajit._compile.toolchains.machine import this_machine
from ajit._core.entry import FORMAT_VERSION
from ajit._core.key import Key, key_of_parts
from ajit._launcher.command import Command, PassThrough
from ajit._launcher.environment import logical_directory, mattering

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._launcher.arguments import Token

__all__ = ["Wanted", "wanted"]

SCHEMA = 1
"""Raised when the meaning of a part changes."""

_DIRECTORY_FLAGS = frozenset(
    {
        *("-I", "--include-path", "-isystem", "--system-include", "-iquote", "-idirafter"),
        *("-L", "--library-path"),
    }
)
_DEPS_TARGETS = frozenset({"-MT", "-MQ", "--dependency-target-name"})
_OUTPUT_FLAGS = frozenset({"-o", "--output-file"})
_DEPS_FLAGS = frozenset({"-MF", "--dependency-output"})

_MAY_NAME = re.compile(r"/|-I|-L|-B|-i(?:nclude|macros|system|quote|dirafter|prefix)|@|specs")
"""Options, those passed on to other programs too, that may name a file or a directory."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for.

    Attributes:
        command: The command line.
        compiler: Path of the compiler.
        base: The base key.
        places: Where the files of a reading list lie.
        spelt: All of options and variables that is in the key as it stands.
    """

    command: Command
    compiler: str
    base: Key
    places: Places
    spelt: str


def wanted(command: Command, compiler: str) -> Wanted:
    """Make the base key of a command line. Blocks: reads the sources, and the compiler once.

    Raises:
        PassThrough: A source or the compiler cannot be read, as the compiler will say.
    """
    anchors = _Anchors(command, compiler)
    base = key_of_parts(_parts(command, compiler, anchors))
    options = (part for token in command.tokens for part in anchors.parts(token))
    spelt = "\0".join((*options, *mattering(compiler)))
    _check_text(spelt, compiler, *command.sources, *(path for _, path in anchors.places.dirs))
    return Wanted(command, compiler, base, anchors.places, spelt)


def _check_text(*names: str) -> None:
    """Make sure that an entry and a list can hold names, which Linux lets be any bytes."""
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        raise PassThrough("a name is no text") from None


def _parts(command: Command, compiler: str, anchors: _Anchors) -> Iterator[tuple[str, str]]:
    yield "schema", f"launcher {SCHEMA}.{FORMAT_VERSION}"
    yield "compiler", os.path.basename(compiler)
    yield "compiler's digest", _digest(compiler, "unreadable compiler")
    yield "C library", os.confstr("CS_GNU_LIBC_VERSION") or ""
    if command.is_native:
        yield "machine", this_machine()
    if command.names_paths:
        yield "working directory", os.getcwd()
        yield "its name", logical_directory()
    for number, variable in enumerate(mattering(compiler)):
        yield f"variable {number}", variable
    for number, token in enumerate(command.tokens):
        for part in anchors.parts(token):
            yield f"argument {number}", part
    for number, relation in enumerate(anchors.relations()):
        yield f"place {number}", relation
    for number, source in enumerate(command.sources):
        # Of libraries and objects the place in the command is enough: what is read is recorded.
        if os.path.isfile(source):
            yield f"source {number}", _digest(source, "unreadable source")


def _digest(path: str, problem: str) -> str:
    digest = digests.get(path)
    if digest is None:
        raise PassThrough(problem)
    return digest


class _Anchors:
    """The directories that are called by number."""

    def __init__(self, command: Command, compiler: str) -> None:
        self._command = command
        self._dirs = [os.getcwd()]
        roots = map(root_of, (compiler, os.path.realpath(compiler)))
        self._roots = tuple(dict.fromkeys(roots))
        if not command.names_paths:
            for token in command.tokens:
                self._dirs.extend(self._directories(token))
        self._numbers = {
            directory: number for number, directory in reversed(list(enumerate(self._dirs)))
        }

    @property
    def places(self) -> Places:
        """The places."""
        # Places that begin with i are the user's: their texts may ask how their file is called.
        # All files lie in the root, which is the same everywhere.
        dirs = [(f"i{n}", path) for n, path in enumerate(self._dirs) if path != os.sep]
        dirs += [("tool", root) for root in self._roots]
        return Places(dirs, self._command.sources[0])

    def parts(self, token: Token) -> tuple[str, ...]:
        """Return an option as it is in the key."""
        if self._command.names_paths:
            return token.text()
        if token.flag in _OUTPUT_FLAGS and token.value is not None:
            # Its suffix may say what it is. Dependencies name it, unless told another name.
            targets = {other.flag for other in self._command.tokens} & _DEPS_TARGETS
            if self._command.tells_deps and not targets:
                return token.text()
            return (token.flag, os.path.splitext(token.value)[1])
        if token.flag in _DEPS_FLAGS:
            return (token.flag,)
        if token.value is not None and (token.flag in _DIRECTORY_FLAGS or not token.flag):
            return token.with_value(self._anchored(token.flag, token.value)).text()
        return token.text()

    def relations(self) -> Iterator[str]:
        """Yield how the directories lie in each other, and those of the toolchain."""
        named = [*enumerate(self._dirs), *(("tool", root) for root in self._roots)]
        for name, directory in named:
            for other, above in named:
                inside = f"{directory}/".startswith(f"{above.rstrip('/')}/")
                # By an absolute path nothing is found from the working directory, which a server
                # may have anywhere above all that it compiles.
                if above == os.sep or (other == 0 and directory != above and self._is_absolute()):
                    continue
                if name != other and inside:
                    yield f"{name} in {other}: {os.path.relpath(directory, above)}"

    def _is_absolute(self) -> bool:
        """Whether nothing in command or variables can mean a path below the working directory."""
        variables = (variable.partition("=")[2] for variable in mattering() if "PATH" in variable)
        paths = (path for value in variables for path in value.split(os.pathsep))
        return all(map(_names_no_relative, self._command.tokens)) and all(map(os.path.isabs, paths))

    def _directories(self, token: Token) -> Iterator[str]:
        value = token.value or ""
        if not _is_one_path(value):
            return
        if token.flag in _DIRECTORY_FLAGS:
            yield value
        elif not token.flag:
            yield os.path.dirname(value)

    def _anchored(self, flag: str, value: str) -> str:
        if not _is_one_path(value):
            return value
        directory = value if flag else os.path.dirname(value)
        name = "" if flag else f"/{os.path.basename(value)}"
        return f"@{self._numbers[directory]}{name}"


def _is_one_path(value: str) -> bool:
    """Whether an absolute path is one for every compiler: ``/a,/b`` are two for nvcc."""
    return os.path.isabs(value) and "," not in value


def _names_no_relative(token: Token) -> bool:
    if token.flag in _OUTPUT_FLAGS | _DEPS_FLAGS | _DEPS_TARGETS:
        return True
    if token.flag in _DIRECTORY_FLAGS or not token.flag:
        return _is_one_path(token.value or "")
    return not any(map(_MAY_NAME.search, token.text()))
