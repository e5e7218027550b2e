"""Bytecode: what Python reads of a module is mostly its bytecode, and what counts is its source.

Python looks whether a source is what its bytecode was made of by asking for size and time, and
reads the bytecode alone. A list that had the bytecode would hold after an edit of the source, until
the module is imported. So the source takes its place, if it is the one that the bytecode names; if
it is another by now, both are listed as read at that time, which settles nothing.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from ajit._compile.worker.records import READ

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ajit._compile.worker.records import Record

__all__ = ["with_sources"]

_CACHE = "__pycache__"
_HEADER = struct.Struct("<4sIII")
_BY_TIME = 0
"""Flags of bytecode that names its source by time and size; others name it by a digest."""


def with_sources(records: Iterable[Record]) -> Iterator[Record]:
    """Yield records, with the sources of modules in the place of their bytecode."""
    for kind, path, state in records:
        source = _source_of(path)
        stamp = None if source is None else _stamp(source)
        if source is None or stamp is None:
            yield kind, path, state  # no bytecode, or a module that has nothing else
        elif kind == READ:
            yield READ, source, (*stamp, state[-1])
            if not _is_of(path, stamp):
                yield kind, path, state
        # Else it was only looked for, before the source was read: there may be some tomorrow.


def _source_of(path: str) -> str | None:
    folder, name = os.path.split(path)
    above, cache = os.path.split(folder)
    if cache != _CACHE or not name.endswith(".pyc"):
        return None
    return os.path.join(above, name.partition(".")[0] + ".py")


def _stamp(path: str) -> tuple[int, ...] | None:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def _is_of(bytecode: str, stamp: tuple[int, ...]) -> bool:
    """Whether bytecode was made of the source that has this stamp."""
    try:
        with open(bytecode, "rb") as file:
            _, flags, modified, size = _HEADER.unpack(file.read(_HEADER.size))
    except (OSError, struct.error):
        return False
    now = (stamp[3] // 1_000_000_000 & 0xFFFFFFFF, stamp[2] & 0xFFFFFFFF)
    return bool(flags == _BY_TIME and (modified, size) == now)
