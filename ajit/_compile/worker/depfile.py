"""Dependency files: what a compiler says that it read, where its system calls cannot be watched.

A dependency file names what was read, not what was looked for in vain. It is completed from the
order in which headers are looked for:

- A header found in one directory was looked for in all that come before it, and one that a file
  includes in quotes beside that file.
- ``__has_include`` of a name that is written out looked into every directory up to where it is.

One absence too many does no harm: such a list holds less often. One too few does, so where a text
may look for what cannot be told (a macro makes the name, or the assembler is told to read a file),
there is no list.

It is not said when a file was read. It counts as read when the compile began; if it was written
since then, or a directory on the way to it, it counts as changed meanwhile.

Not seen: what the linker reads. For zig these are its own library, which its version stands for,
and the C library, whose version is part of the toolchain's fingerprint.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from ajit._compile.worker.records import ABSENT, READ

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ajit._compile.worker.records import Record

__all__ = ["DEPFILE_FLAGS", "ORDER_FLAGS", "keep_order", "records_of"]

_DEPFILE = "source.d"
_ORDER = "search-order"

DEPFILE_FLAGS = ("-MD", "-MF", _DEPFILE)
"""Let a compiler of clang's family write a dependency file into the job's folder."""

ORDER_FLAGS = ("-E", "-x", "c++", "-v", os.devnull)
"""Let it print where it looks for headers, in order, and compile nothing."""

_TICK_NS = 10_000_000
"""The longest step of the clock that file times are taken from; kernels have 1 to 10 ms."""

_ORDER_LINES = re.compile(r"starts here:\n(.*)^End of search list", re.DOTALL | re.MULTILINE)
_NOT_THERE = re.compile(r'^ignoring nonexistent directory "(.*)"$', re.MULTILINE)
_NAME = re.compile(r"(?:\\.|[^\\\s])+")

_CONTINUED = re.compile(r"\\\r?\n")
_COMPUTED = re.compile(r"^\s*#\s*(?:include|include_next|import|embed)\s+[A-Za-z_]", re.MULTILINE)
_QUOTED = re.compile(r'"([^"\n]+)"')
_ASKS = re.compile(r"__has_(?:include|include_next|embed)\b")
_ASKS_FOR = re.compile(r'\s*\(\s*(?:<([^>\n]+)>|"([^"\n]+)")')
_ASKS_NOTHING = re.compile(r"(?:defined\s*\(?|#\s*ifn?def)\s*$")


class _Incomplete(Exception):
    """What was looked for cannot be told; the argument says why."""


def keep_order(folder: str, printed: str) -> None:
    """Keep in a job's folder what a compiler printed with `ORDER_FLAGS`."""
    with open(os.path.join(folder, _ORDER), "w", encoding="utf-8") as file:
        file.write(printed)


def records_of(folder: str, source: str, own: Sequence[str]) -> list[Record] | str:
    """Return what a compile read and what it looked for in vain, or why that cannot be told.

    Args:
        folder: The job's.
        source: The file name of its source, which was written when the compile began.
        own: Directories that the toolchain's fingerprint stands for.
    """
    try:
        began_ns = os.stat(os.path.join(folder, source)).st_mtime_ns
        names = _names(_text(os.path.join(folder, _DEPFILE)))
        order = _text(os.path.join(folder, _ORDER))
    except OSError:
        return "the compiler wrote no dependency file"
    files = list(dict.fromkeys(os.path.join(folder, name) for name in names))
    try:
        looks = _Looks(files, _directories(order, folder))
        for path in files:
            if not path.startswith(tuple(own)):
                looks.add_text(path)
    except (OSError, _Incomplete) as exc:
        return f"what the compiler looked for cannot be told: {exc}"
    clock = _Clock(began_ns)
    missing = [os.path.join(folder, path) for path in _NOT_THERE.findall(order)]
    return [
        *((ABSENT, path, ()) for path in (*missing, *looks.absent())),
        *((READ, path, clock.state(path)) for path in files),
    ]


class _Looks:
    """What a compile looked for in vain, as far as its texts tell.

    Args:
        files: What it read.
        directories: Where it looks for headers, in order.
    """

    def __init__(self, files: Sequence[str], directories: Sequence[str]) -> None:
        self._directories = directories
        self._paths: dict[str, None] = {}
        self._headers: set[str] = set()
        """Under what names the files that were read may have been included."""
        for path in files:
            for count, directory in enumerate(directories):
                if path.startswith(directory):
                    header = path[len(directory) :]
                    self._headers.add(header)
                    self._add(header, directories[:count])

    def add_text(self, path: str) -> None:
        """Add what one of the files looks for beside itself, and asks for.

        Raises:
            OSError: It cannot be read.
            _Incomplete: It may look for more than can be told.
        """
        text = _CONTINUED.sub("", _text(path))
        if "incbin" in text:
            raise _Incomplete(f"{path} tells the assembler to read a file")
        beside = os.path.dirname(path) + os.sep
        quoted = set(_QUOTED.findall(text))
        for header in sorted(self._headers if _COMPUTED.search(text) else self._headers & quoted):
            self._add(header, [beside])
        for found in _ASKS.finditer(text):
            if _ASKS_NOTHING.search(text, max(0, found.start() - 40), found.start()):
                continue
            asked = _ASKS_FOR.match(text, found.end())
            if asked is None:
                raise _Incomplete(f"a macro makes the name that {path} asks for by {found.group()}")
            angled, in_quotes = asked.groups()
            if angled:
                self._add_until_found(angled, self._directories)
            else:
                self._add_until_found(in_quotes, [beside, *self._directories])

    def absent(self) -> Iterator[str]:
        """Return the paths where nothing is."""
        return (path for path in self._paths if not os.path.lexists(path))

    def _add(self, header: str, directories: Sequence[str]) -> None:
        self._paths.update(dict.fromkeys(directory + header for directory in directories))

    def _add_until_found(self, header: str, directories: Sequence[str]) -> None:
        for directory in directories:
            if os.path.exists(directory + header):
                return
            self._paths[directory + header] = None


class _Clock:
    """Tells whether a file is what it was when a compile began."""

    def __init__(self, began_ns: int) -> None:
        self._began_ns = began_ns
        self._changed: dict[str, bool] = {"": False, os.sep: False}

    def state(self, path: str) -> tuple[int, ...]:
        """Return the state of a file for a record."""
        try:
            info = os.stat(path)
        except OSError:
            return (0,) * 6  # no file has it
        # Read in the very moment of its last change: no one relies on such a record.
        changed = self._is_new(info.st_ctime_ns) or self._has_moved(os.path.dirname(path))
        read_ns = info.st_ctime_ns if changed else self._began_ns
        mtime_ns, ctime_ns = info.st_mtime_ns, info.st_ctime_ns
        return (info.st_dev, info.st_ino, info.st_size, mtime_ns, ctime_ns, read_ns)

    def _has_moved(self, directory: str) -> bool:
        """Whether a directory may have been put there, or something in it, since the compile began.

        One in which everyone may write always changes, and no one moves it.
        """
        if directory not in self._changed:
            info = os.stat(directory)
            busy = info.st_mode & stat.S_IWOTH
            new = not busy and self._is_new(info.st_ctime_ns)
            self._changed[directory] = new or self._has_moved(os.path.dirname(directory))
        return self._changed[directory]

    def _is_new(self, ctime_ns: int) -> bool:
        return ctime_ns > self._began_ns - _TICK_NS


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _names(rule: str) -> list[str]:
    """The files of a dependency file, which is one rule of a makefile."""
    _, _, listed = _CONTINUED.sub(" ", rule).partition(": ")
    return [re.sub(r"\\(.)", r"\1", name).replace("$$", "$") for name in _NAME.findall(listed)]


def _directories(printed: str, folder: str) -> list[str]:
    """Where headers are looked for, each with a slash at its end."""
    found = _ORDER_LINES.search(printed)
    lines = found.group(1).splitlines() if found else []
    if not lines:
        raise _Incomplete("the compiler does not say where it looks for headers")
    dirs = [line.strip() for line in lines if line.startswith(" ")]
    return [os.path.join(folder, directory, "") for directory in dirs]
