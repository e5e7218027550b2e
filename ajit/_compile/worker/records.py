"""Records: what a look at a file leaves; written in C, see ``records.h`` of the recorder."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "ABSENT",
    "FILE_VARIABLE",
    "LIBRARIES_VARIABLE",
    "LIBRARY_VARIABLE",
    "PRESENT",
    "PROGRAM",
    "READ",
    "REFUSED",
    "STARTED",
    "STREAM",
    "WRITTEN",
    "Record",
    "unpack_records",
]

LIBRARY_VARIABLE = "LD_PRELOAD"
FILE_VARIABLE = "AJIT_READS"
LIBRARIES_VARIABLE = "AJIT_READS_LIBRARIES"
"""By these the recorder gets into a program, knows where its records go, and whether
shared libraries count."""

READ, WRITTEN, ABSENT, PRESENT = (ord(letter) for letter in "rwap")
REFUSED, STREAM, PROGRAM, STARTED = (ord(letter) for letter in "fsxe")

Record = tuple[int, str, tuple[int, ...]]
"""Kind, path, and of a file that was read: device, inode, size, mtime, ctime, and when (all ns)."""

_HEAD = struct.Struct("<II6Q")


def unpack_records(data: bytes) -> Iterator[Record]:
    """Return the records that a file of them holds."""
    offset, end = 0, len(data) - _HEAD.size
    while offset <= end:
        length, kind, *state = _HEAD.unpack_from(data, offset)
        offset += _HEAD.size
        yield kind, os.fsdecode(data[offset : offset + length]), tuple(state)
        offset += length
