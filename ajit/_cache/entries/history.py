"""The history of compiles: ``history/<node>.jsonl``, one line for each, of all processes of a node.

Lines are only ever appended, some of them by one call on a descriptor that appends. Local file
systems do that in one step, and each node and user has a file of its own, so that it does not
matter what a network file system does. At its limit a file is renamed to ``<node>.1.jsonl``, in the
place of the one before.

It is for people, and no decision depends on it. A killed process may leave half a line, so each
write begins a new one. What cannot be written is lost. How it is read is in
`ajit._cache.entries.history_reader`.

Everything blocks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from ajit._cache.entries.node_digests import node_name
from ajit._cache.files import fs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ajit._cache.files.directory import CacheDirectory
    from ajit._cache.files.folders import Folder

__all__ = [
    "HISTORY_BYTES",
    "TOP",
    "Compiled",
    "Outcome",
    "append_history",
    "is_history_name",
    "remove_history",
    "short_reason",
]

TOP = "history"

HISTORY_BYTES = 1024 * 1024
"""At this size a node begins a new file; one older is kept."""

APPEND_TRIES = 100
"""How often a file is opened anew that others put aside. Pretty arbitrary: each time two have."""

is_history_name = re.compile(r"[A-Za-z0-9-]+-[0-9a-f]{16}(\.1)?\.jsonl").fullmatch
"""Matches the name of a file of history."""

Outcome: TypeAlias = Literal[
    "compiled", "failed", "timed out", "crashed", "cancelled", "running", "killed", "unknown"
]

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Compiled(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A compile, and how it ended.

    Attributes:
        id: Of this compile: process, its start, and a number.
        unix_seconds: When it ended; of one that goes on, when the line was written.
        host: Who compiled: the host,
        pid: the process there,
        namespace: in which pid namespace,
        start_ticks: its start, and
        boot_id: the boot of the host;
        program: its program's name.
        name: What: the spec's label.
        entry: The kernel's entry points, with commas; "" for a build.
        key: Hex base key.
        compiler: Compiler and version.
        arch: What it was for; "" for a build.
        reason: Why it was not found.
        outcome: ``compiled``, ``failed``, ``timed out``, ``crashed``: its compiler was;
            ``cancelled``: no request waited for it; ``running``; ``killed``: its process is
            gone; ``unknown``: nothing more is known of it.
        seconds: How long it took; or goes on until now; or, where the end is not known, how long
            it had taken at least.
        queued_seconds: How long it had waited before.
        size_bytes: Of what it made.
        error_type: The error's class, if it failed.
        error: The compiler's first error, or the first line of another.
        log: The beginning of the compiler's log, if it failed.
    """

    id: str
    unix_seconds: float
    host: str = ""
    pid: int = 0
    namespace: int = 0
    start_ticks: int = 0
    boot_id: str = ""
    program: str = ""
    name: str = ""
    entry: str = ""
    key: str = ""
    compiler: str = ""
    arch: str = ""
    reason: str = ""
    outcome: Outcome = "unknown"
    seconds: float = 0.0
    queued_seconds: float = 0.0
    size_bytes: int = 0
    error_type: str = ""
    error: str = ""
    log: str = ""


_encoder = msgspec.json.Encoder()

_NEVER_KEPT = "no such kernel was kept"
"""How the reason begins that most compiles have; the look-up has the whole of it."""


def short_reason(reason: str) -> str:
    """Why something was compiled, for a table: the usual reason in one word, others as they are."""
    return "new" if reason.startswith(_NEVER_KEPT) else reason


def append_history(
    directory: CacheDirectory, lines: Iterable[Compiled], limit_bytes: int = HISTORY_BYTES
) -> None:
    """Append lines to this node's file.

    Args:
        directory: The cache.
        lines: What is to be noted.
        limit_bytes: The size at which a new file is begun.

    Raises:
        OSError: They could not be written, or in part only.
        CacheError: The cache directory that is there now cannot be used.
    """
    name = f"{node_name(b'%d' % os.geteuid())}.jsonl"
    mode = directory.sharing.file_mode
    for data in _pieces(lines, limit_bytes):
        append = partial(_append, name=name, data=data, mode=mode, limit_bytes=limit_bytes)
        fs.in_folder(directory, TOP, append)


def remove_history(directory: CacheDirectory) -> int:
    """Remove all files; return how many could be."""
    removed = 0
    for name in filter(is_history_name, fs.list_names(directory, TOP)):
        with suppress(OSError):
            removed += fs.remove_file(directory, f"{TOP}/{name}")
    return removed


def _pieces(lines: Iterable[Compiled], limit_bytes: int) -> Iterator[bytes]:
    """Encode lines, in pieces that each fit into a file."""
    piece = b""
    for line in lines:
        # The line break goes first: a process that was killed in the middle may have left half a
        # line.
        text = b"\n" + _encoder.encode(line)
        if piece and len(piece) + len(text) >= limit_bytes:
            yield piece + b"\n"
            piece = b""
        piece += text
    if piece:
        yield piece + b"\n"


def _append(folder: Folder, name: str, data: bytes, mode: int, limit_bytes: int) -> None:
    """Append to the file that has the name, also while others put it aside."""
    for _ in range(APPEND_TRIES):
        with suppress(_Gone):
            _append_once(folder, name, data, mode, limit_bytes)
            return
    raise OSError(errno.EBUSY, f"{TOP}/{name} is put aside again and again")


def _append_once(folder: Folder, name: str, data: bytes, mode: int, limit_bytes: int) -> None:
    fd = os.open(name, _APPEND, mode, dir_fd=folder.fd)
    try:
        size = _checked_size(fd, name)
        if size and size + len(data) > limit_bytes:
            _rotate(folder, name, fd)
            os.close(fd)
            fd = -1
            fd = os.open(name, _APPEND, mode, dir_fd=folder.fd)
            if _checked_size(fd, name) > 2 * limit_bytes:
                raise OSError(errno.EFBIG, f"{TOP}/{name} cannot be renamed")
        if os.fstat(fd).st_size == 0:
            os.fchmod(fd, mode)  # the umask has reduced it
        if os.write(fd, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _checked_size(fd, name)  # it may have gone with the lines
    finally:
        if fd >= 0:
            fs.close_unwritten(fd)


class _Gone(Exception):
    """The file that was opened has lost its name: two others have put files aside meanwhile."""


def _checked_size(fd: int, name: str) -> int:
    status = os.fstat(fd)
    if status.st_nlink == 0:
        raise _Gone
    # Appending to a link of another file would spoil that.
    ours = status.st_nlink == 1 and status.st_uid == os.geteuid()
    if not (ours and stat.S_ISREG(status.st_mode)):
        raise fs.UnusableFile(errno.EINVAL, f"{TOP}/{name} is no file of this user alone")
    return status.st_size


def _rotate(folder: Folder, name: str, fd: int) -> None:
    """Put a full file aside, unless another process has done it just now."""
    older = f"{name.removesuffix('.jsonl')}.1.jsonl"
    with suppress(OSError):  # no locks here, another has it, or it is gone: the next write tries
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who looks under the lock sees whether the name still is that of the file that is full.
        now = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
        if os.path.samestat(now, os.fstat(fd)):
            os.rename(name, older, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
