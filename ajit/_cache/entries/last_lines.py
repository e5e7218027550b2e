"""The last lines of a file that is appended to, read from its end: its size costs nothing.

Blocks.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MOST_LINE_BYTES", "last_lines"]

MOST_LINE_BYTES = 256 * 1024
"""A longer line is told in pieces, and so is none. Also how much is read at a time."""


def last_lines(fd: int, most_bytes: int) -> Iterator[bytes]:
    """Yield the lines of a file, the last one first, without their breaks.

    Args:
        fd: The file, open to read.
        most_bytes: How much of its end is read. A line that began before is left out.

    Raises:
        OSError: It cannot be read.
    """
    end = os.fstat(fd).st_size
    floor = max(0, end - most_bytes)
    half = b""
    while end > floor:
        begin = max(floor, end - MOST_LINE_BYTES)
        half, *lines = (os.pread(fd, end - begin, begin) + half).split(b"\n")
        yield from reversed(lines)
        # A file that is one line would be copied again and again.
        half = half if len(half) <= MOST_LINE_BYTES else b""
        end = begin
    if floor == 0:
        yield half
