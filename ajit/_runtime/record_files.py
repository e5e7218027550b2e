"""Records on disk: a folder with a file for each process that wrote into it, or one merged file.

Each process appends to a file of its own, whose name no other process has, on whatever host. So
no process waits for another, nothing is lost where a file system lets two hosts append over each
other, and a file has at most one torn line, its last. To read a record is to read all files of its
folder.

What is in a record is compiled and loaded. So one that other users own or may write to is not read.
Everything here blocks: call it from a thread.
"""

from __future__ import annotations

import os
import secrets
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ajit._cache.files.sharing import Sharing
from ajit._core.record import MAX_LINE_BYTES, Record, encode_line, read_lines
from ajit._system.process import this_process
from ajit.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

__all__ = ["SUFFIX", "RecordFile", "merge_record", "read_record", "record_files", "settled_files"]

SUFFIX = ".lines"
"""Ends the name of each file in a record's folder. Other files in it are left alone."""

MOST_FILES = 100_000
"""A folder with more is no record. Pretty arbitrary: a thousand starts of a hundred processes."""

QUIET_SECONDS = 24 * 3600.0
"""A file of another host to which nothing was written for so long is not written to any more. A
process that goes on after it loses the counts that it adds, and no kernel that it has not."""

_MERGED = "merged."

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
# O_EXCL: no other process has this name. O_APPEND: a line is never written over another.
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o600
_FOLDER_MODE = 0o700


class RecordFile:
    """The file of this process in a record's folder. One thread at a time uses it.

    The file is made with the first line, so that a server which needs nothing leaves none.

    Args:
        folder: The record.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd = -1
        self._torn = False

    def append(self, lines: Iterable[bytes]) -> None:
        """Write whole lines, each ended by a line break, in one call.

        Raises:
            OSError: Not all was written. What was, is torn at most in its last line.
        """
        data = b"".join(lines)
        if not data:
            return
        if self._fd < 0:
            self._fd = self._create()
        # One call: the kernel has all of it, or what fits the disk, when this process is killed.
        # After a short write the rest of a line would join the next one.
        data = (b"\n" if self._torn else b"") + data
        self._torn = True
        written = os.write(self._fd, data)
        if written < len(data):
            raise OSError(f"only {written} of {len(data)} bytes could be written")
        self._torn = False

    def close(self) -> None:
        """Close the file. What was written stays."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)

    def _create(self) -> int:
        name = f"{this_process().file_prefix}.{secrets.token_hex(4)}{SUFFIX}"
        self._folder.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
        return os.open(self._folder / name, _CREATE, _MODE)


class _Source(NamedTuple):
    path: Path
    file: BinaryIO


def record_files(path: Path) -> list[Path]:
    """Return the files of a record: those of its folder, or the merged file itself.

    Raises:
        FileNotFoundError: There is no record.
        OSError: It cannot be listed.
    """
    if not stat.S_ISDIR(path.stat().st_mode):
        return [path]
    return sorted(file for file in path.iterdir() if file.name.endswith(SUFFIX))[:MOST_FILES]


def read_record(path: Path, *, allow_unsafe: bool = False, record: Record | None = None) -> Record:
    """Read a record.

    Args:
        path: Its folder, or the file that one was merged into.
        allow_unsafe: Read it even if other users own it or may write to it. What is in it counts as
            doubtful then: builds of it are not run.
        record: What it is added to; None makes a new one.

    Raises:
        FileNotFoundError: There is none.
        RecordError: Other users own it or may write to it, or it is neither file nor folder.
        OSError: It cannot be read.
    """
    record = Record() if record is None else record
    doubtful = _check(path, path.stat(), allow_unsafe=allow_unsafe)
    for source in record_files(path):
        with suppress(FileNotFoundError):  # merged and removed meanwhile
            _read(source, record, allow_unsafe=allow_unsafe, doubtful=doubtful)
    return record


def settled_files(folder: Path) -> list[Path]:
    """Return the files of a folder to which no living process may still write.

    Of processes of other hosts nothing is known but the time of their last line.

    Raises:
        OSError: It cannot be listed.
    """
    now, files = time.time(), record_files(folder)
    return [file for file in files if _is_settled(file, now)]


def _is_settled(file: Path, now: float) -> bool:
    name = file.name.removesuffix(SUFFIX)
    if name.startswith(_MERGED):
        return True
    if this_process().outlived(name):
        return True
    with suppress(OSError):
        return now - file.stat().st_mtime > QUIET_SECONDS
    return False


def merge_record(path: Path, record: Record, sources: Iterable[Path]) -> Path:
    """Write a record as one file, and remove the files that it was read from.

    Args:
        path: A file, or a record's folder, in which the merged file then is the only one.
        record: All that is to be in it.
        sources: The files that it was read from, to be removed; those of other processes that
            still write must not be among them.

    Returns:
        The merged file.

    Raises:
        OSError: It could not be written. Nothing was removed.
    """
    is_folder = path.is_dir()
    target = path / f"{_MERGED}{secrets.token_hex(8)}{SUFFIX}" if is_folder else path
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    fd = os.open(temporary, _CREATE, _MODE)
    try:
        with os.fdopen(fd, "wb") as file:
            file.writelines(map(encode_line, record.lines()))
            file.flush()
            # What it was merged from is removed next.
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    for source in sources:
        source.unlink(missing_ok=True)
    return target


def _read(path: Path, record: Record, *, allow_unsafe: bool, doubtful: bool) -> None:
    fd = os.open(path, _READ)
    with os.fdopen(fd, "rb") as file:
        doubtful |= _check(path, os.fstat(fd), allow_unsafe=allow_unsafe)
        read_lines(_lines(file), record, doubtful=doubtful)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE_BYTES):
        yield line


def _check(path: Path, status: os.stat_result, *, allow_unsafe: bool) -> bool:
    """Refuse what is no record, or not safe; return whether it is not, and read all the same."""
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise RecordError(path=str(path), reason="a record is a folder or a file", hint="remove it")
    reason = Sharing().objection(status)
    if reason and not allow_unsafe:
        raise RecordError(
            path=str(path),
            reason=reason,
            hint="a record is code: remove it, or copy it to where only you may write",
        )
    return bool(reason)
