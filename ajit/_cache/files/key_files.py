"""Files with keys: read once, through a descriptor that was checked.

A *private* file (a secret, a signing key) must belong to this user or root, and no other user may
do anything with it. A *public* one may be read by all, but written by none but its owner: who can
change a public key decides whom this process trusts.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal

from ajit._cache.files.fs import close_unwritten

__all__ = ["MAXIMUM_BYTES", "Privacy", "name_of", "read_key_file", "write_key_file"]

Privacy = Literal["private", "public"]

MAXIMUM_BYTES = 4096

_FORBIDDEN = {
    "private": stat.S_IRWXG | stat.S_IRWXO,
    "public": stat.S_IWGRP | stat.S_IWOTH,
}
_ADVICE = {
    "private": "use it, mode {:04o}: chmod 600 it",
    "public": "write it, mode {:04o}: chmod 644 it",
}
_MODES = {"private": 0o600, "public": 0o644}


def name_of(path: str) -> str:
    """Return what a key is called: its file's name without the ending."""
    return Path(path).stem


def read_key_file(path: str, privacy: Privacy) -> tuple[bytes, str]:
    """Return the contents of a file without white space at its end, or why it cannot be used.

    Blocks.
    """
    try:
        # A link is followed: secrets are mounted into containers in this way. The checks use the
        # descriptor that is read. O_NONBLOCK: a FIFO must not hang the start.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(Path(path).expanduser(), flags)
    except (OSError, RuntimeError) as exc:  # a home that is not there is a RuntimeError
        return b"", getattr(exc, "strerror", None) or str(exc)
    try:
        problem = _objection(os.fstat(fd), privacy)
        return (b"", problem) if problem else (os.read(fd, MAXIMUM_BYTES + 1).rstrip(), "")
    except OSError as exc:
        return b"", exc.strerror or str(exc)
    finally:
        close_unwritten(fd)


def write_key_file(path: Path, data: bytes, privacy: Privacy) -> None:
    """Make a file with a key, which has its mode from the start. Blocks.

    Raises:
        FileExistsError: There is something of that name. It was not touched.
        OSError: It could not be written. What was written is removed.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(path, flags, _MODES[privacy])
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, _MODES[privacy])  # whatever the umask is
            file.write(data)
            file.flush()
            os.fsync(fd)
    except BaseException:
        path.unlink()
        raise


def _objection(status: os.stat_result, privacy: Privacy) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"
    if status.st_uid not in (os.geteuid(), 0):
        return f"it belongs to user {status.st_uid}"
    if status.st_mode & _FORBIDDEN[privacy]:
        return f"others may {_ADVICE[privacy].format(stat.S_IMODE(status.st_mode))}"
    if status.st_size > MAXIMUM_BYTES:
        return f"it has more than {MAXIMUM_BYTES} bytes"
    return ""
