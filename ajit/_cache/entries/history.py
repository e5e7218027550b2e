"""The history of compiles: ``history/<node>.jsonl``, one line for each, of all processes of a node.

Lines are only ever appended, some of them by one call on a descriptor that appends. Local file
systems do that in one step, and each node and user has a file of its own, so that it does not
matter what a network file system does. At its limit a file is renamed to ``<node>.1.jsonl``, in the
place of the one before.

It is for people, and no decision depends on it. A line that is torn or foreign is passed over, as
is a file that is no regular one. A killed process may leave half a line, so each write begins a new
one. What cannot be written is lost.

Everything blocks.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import re
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from ajit._cache.entries.node_digests import node_name
from ajit._cache.files import fs
from ajit._printable import printable, printable_line
from ajit._system.process import is_gone, this_process

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
    "read_history",
    "remove_history",
]

TOP = "history"

HISTORY_BYTES = 1024 * 1024
"""At this size a node begins a new file; one older is kept."""

MOST_FILES = 256
"""Read, the newest first: nodes come and go."""

MOST_BYTES = 4 * HISTORY_BYTES
"""A larger file is none of ours."""

END_OF_TIME = 1e11
"""Seconds of the wall clock beyond which nothing is believed: the year 5138."""

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
            ``cancelled``: nobody waited for it any more; ``running``; ``killed``: its process is
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


_decoder = msgspec.json.Decoder(Compiled)
_encoder = msgspec.json.Encoder()


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
    # The line break goes first: a process that was killed in the middle may have left half a line.
    data = b"".join(b"\n" + _encoder.encode(line) for line in lines) + b"\n"
    name = f"{node_name(b'%d' % os.geteuid())}.jsonl"
    mode = directory.sharing.file_mode
    fs.in_folder(directory, TOP, lambda folder: _append(folder, name, data, mode, limit_bytes))


def read_history(directory: CacheDirectory) -> list[Compiled]:
    """Return what the files of all nodes tell, the oldest first; never raises for what they have.

    Of a compile that goes on, or of which its process wrote no end, it tells what is known here.
    """
    found: dict[str, Compiled] = {}
    for name in _names(directory):
        for line in _lines(directory, f"{TOP}/{name}"):
            known = found.get(line.id)
            if known is None or known.outcome == "running":
                found[line.id] = line
    told = (_as_it_is(line) if line.outcome == "running" else line for line in found.values())
    return sorted(told, key=lambda line: line.unix_seconds)


def remove_history(directory: CacheDirectory) -> int:
    """Remove all files; return how many could be."""
    removed = 0
    for name in filter(is_history_name, fs.list_names(directory, TOP)):
        with suppress(OSError):
            removed += fs.remove_file(directory, f"{TOP}/{name}")
    return removed


def _append(folder: Folder, name: str, data: bytes, mode: int, limit_bytes: int) -> None:
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
    finally:
        if fd >= 0:
            fs.close_unwritten(fd)


def _checked_size(fd: int, name: str) -> int:
    status = os.fstat(fd)
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


def _names(directory: CacheDirectory) -> list[str]:
    files = [
        (status.st_mtime, name)
        for name, status in fs.regular_files(directory, TOP)
        if is_history_name(name)
    ]
    return [name for _, name in sorted(files, reverse=True)[:MOST_FILES]]


def _lines(directory: CacheDirectory, name: str) -> Iterator[Compiled]:
    try:
        data = fs.read_file(directory, name, MOST_BYTES)
    except OSError:
        return
    for text in filter(None, data.split(b"\n")):
        with suppress(msgspec.MsgspecError, ValueError, RecursionError):  # torn, or foreign
            line = _decoder.decode(text)
            if _is_sane(line):
                yield _clean(line)


def _is_sane(line: Compiled) -> bool:
    """Whether its numbers can be shown."""
    return 0 <= line.unix_seconds < END_OF_TIME and all(
        math.isfinite(value) for value in (line.seconds, line.queued_seconds)
    )


def _clean(line: Compiled) -> Compiled:
    """The same with printable texts; only the log has several lines."""
    texts = {
        name: printable(value) if name == "log" else printable_line(value)
        for name in line.__struct_fields__
        if isinstance(value := getattr(line, name), str)
    }
    return msgspec.structs.replace(line, **texts)


def _as_it_is(line: Compiled) -> Compiled:
    """What has become of a compile whose end was not written."""
    us = this_process()
    outcome: Outcome = "unknown"
    seconds = line.seconds
    if line.host == us.host and line.boot_id != us.boot_id:
        outcome = "killed"
    elif (line.host, line.namespace) == (us.host, us.namespace):
        outcome = "killed" if is_gone(line.pid, line.start_ticks) else "running"
        if outcome == "running":  # the line was written some time ago, by the same clock
            seconds += max(0.0, time.time() - line.unix_seconds)
    return msgspec.structs.replace(line, outcome=outcome, seconds=seconds)
