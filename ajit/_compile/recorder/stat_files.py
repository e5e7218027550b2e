"""One ``stat`` for each of many paths, in C and with the GIL released.

A look-up asks what some hundred files are today. From Python each ``os.stat`` costs about twice its
system call; here all of them cost little more than their system calls, and other threads, an event
loop's above all, run meanwhile.
"""

from __future__ import annotations

import ctypes
import os
import struct
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ajit.errors import AjitError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["ABSENT", "DIRECTORY", "FILE_STATE", "REGULAR", "joined_paths", "stat_files"]

LIBRARY = Path(__file__).parents[2] / "_gpu" / "native" / "libajit_files.so"

FILE_STATE = struct.Struct("=qQQqqq")
"""What a path is; then device, inode, size, mtime and ctime, the times in ns: a `Stamp`."""

# What a path is, as in stat_files.c. Anything else: it cannot be told, or is no file to read.
ABSENT, REGULAR, DIRECTORY = range(3)


def joined_paths(paths: Sequence[str]) -> bytes | None:
    """Return paths as `stat_files` takes them; None if one cannot be the path of a file."""
    text = "\0".join((*paths, ""))
    if text.count("\0") != len(paths):
        return None
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return None


def stat_files(joined: bytes, count: int) -> bytes:
    """Return one `FILE_STATE` for each path. Links are followed. Blocks, without the GIL.

    Args:
        joined: The paths, from `joined_paths`.
        count: How many there are.

    Raises:
        AjitError: The C library is not there.
    """
    states = ctypes.create_string_buffer(FILE_STATE.size * count)
    _function()(joined, count, states)
    return states.raw


@cache
def _function() -> Callable[[bytes, int, ctypes.Array[ctypes.c_char]], None]:
    try:
        function = ctypes.CDLL(str(LIBRARY)).ajit_stat_files
    except OSError as exc:
        raise AjitError(f"{LIBRARY} cannot be loaded: install ajit anew ({exc})") from exc
    function.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p)
    function.restype = None
    return function
