"""The marker of a cache directory: ``CACHEDIR.TAG``, as https://bford.info/cachedir/ specifies it.

A cache sweeps files, so it must not be at home in a directory of something else: in a home
directory, say, that a variable names by mistake. A directory that ajit makes, or finds empty, gets
the marker. One that is not empty is a cache if it has the marker, or nothing but what a cache has:
those of earlier versions have no marker. Any other is refused.

Programs that make backups know the marker, too, and leave such a directory out if told to.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from ajit._cache.files.folders import close_unwritten
from ajit.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MARKER", "SUBDIRECTORIES", "mark", "objection"]

SUBDIRECTORIES = ("entries", "reads", "digests", "locks", "failures", "tmp")
"""What each cache has. A cache in which one cannot be made is not written."""

OPTIONAL = ("history",)
"""What is made when it is first needed, and done without if it cannot be."""

MARKER = "CACHEDIR.TAG"

_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55\n"
_OURS = b"# This directory is a kernel cache of ajit.\n"
_TEXT = (
    _SIGNATURE
    + _OURS
    + b"# It may be removed at any time. About the marker: https://bford.info/cachedir/\n"
)

_OF_THE_FILE_SYSTEM = frozenset({"lost+found", ".snapshot", ".snapshots", ".zfs"})
"""What the root of a volume has that was never used."""

_SHOWN = 3

MODE = 0o644
"""It is for all who can see the directory."""

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def mark(path: str, fd: int) -> None:
    """Put the marker into a cache directory that has none, unless it is something else.

    Args:
        path: The directory, for messages.
        fd: A descriptor of it.

    Raises:
        CacheError: The directory is no cache, and not empty. Nothing was written.
        OSError: It cannot be listed.
    """
    text = _read(fd)
    if _is_ours(text):
        return
    if reason := _of_something_else(os.listdir(fd), text):
        raise CacheError(
            path=path,
            reason=reason,
            hint=f"set AJIT_CACHE_DIR to a directory of its own, such as {path}/ajit; if it is a "
            f"cache, move what is not of it away",
        )
    if text is not None:
        # A cache that cannot be written is used without the marker.
        with suppress(OSError):
            _write(fd)


def objection(fd: int) -> str:
    """Say why a directory is no cache, or "". Writes nothing.

    An empty directory is none: it may be the place of a volume that is not mounted yet.

    Raises:
        OSError: It cannot be listed.
    """
    text = _read(fd)
    if _is_ours(text):
        return ""
    names = os.listdir(fd)
    if reason := _of_something_else(names, text):
        return reason
    return "" if {MARKER, *SUBDIRECTORIES}.intersection(names) else "it is empty, and no cache yet"


def _is_ours(text: bytes | None) -> bool:
    return text is not None and text.startswith(_SIGNATURE + _OURS)


def _of_something_else(names: Iterable[str], text: bytes | None) -> str:
    """Say what a directory without our marker has that a cache does not have, or ""."""
    # Without a text the marker may be ours: another process is just writing it, or was killed
    # there, or it cannot be read.
    ours = {*SUBDIRECTORIES, *OPTIONAL, *_OF_THE_FILE_SYSTEM, *(() if text else (MARKER,))}
    strange = sorted(set(names) - ours)
    if len(strange) > _SHOWN:
        strange[_SHOWN:] = [f"{len(strange) - _SHOWN} more"]
    named = ", ".join(strange)
    return f"it is not empty and no cache of ajit: it has {named}" if named else ""


def _read(fd: int) -> bytes | None:
    """Return the marker's text, b"" if there is no marker, None if it cannot be read."""
    try:
        marker = os.open(MARKER, _OPEN, dir_fd=fd)
    except FileNotFoundError:
        return b""
    except OSError:
        return None
    try:
        return os.read(marker, len(_TEXT))
    except OSError:
        return None
    finally:
        close_unwritten(marker)


def _write(fd: int) -> None:
    # Not exclusively: two processes that make the cache at the same time write the same bytes.
    marker = os.open(MARKER, _MAKE, MODE, dir_fd=fd)
    try:
        if os.fstat(marker).st_nlink > 1:
            raise OSError(errno.EMLINK, "the marker is a hard link to another file")
        os.pwrite(marker, _TEXT, 0)
        os.fchmod(marker, MODE)
    finally:
        os.close(marker)
