"""Reads the history of compiles of all nodes. Any process may have written to its files.

A line that is torn or foreign is passed over, as is a file that is no regular one. What is read is
bounded: of each file the last lines, and of all together what a process can have in memory.

Everything blocks.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from ajit._cache.entries.history import TOP, Compiled, is_history_name
from ajit._cache.entries.last_lines import last_lines
from ajit._cache.files import fs
from ajit._cache.files.reading import OPEN_TO_READ
from ajit._printable import printable, printable_line
from ajit._system.process import is_gone, this_process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ajit._cache.entries.history import Outcome
    from ajit._cache.files.directory import CacheDirectory
    from ajit._cache.files.folders import Folder

__all__ = ["MOST_LIMIT_BYTES", "read_history", "unusable_history"]

MOST_FILES = 256
"""Read, the newest first: nodes come and go."""

MOST_BYTES = 32 * 1024 * 1024
MOST_LINES = 50_000
"""Read of all files together, from their ends. Pretty arbitrary: a second or two, some 100 MB."""

MOST_LIMIT_BYTES = MOST_BYTES // 2
"""A node has two files: with a higher limit not all of them would be read."""

END_OF_TIME = 1e11
"""Seconds of the wall clock beyond which nothing is believed: the year 5138."""

_decoder = msgspec.json.Decoder(Compiled)


def read_history(
    directory: CacheDirectory,
    most: int | None = None,
    failed: fs.Failed = lambda _name, _error: None,
) -> list[Compiled]:
    """Return what the files of all nodes tell, the oldest first; never raises for what they have.

    Of a compile that goes on, or of which its process wrote no end, it tells what is known here. Of
    files that are large or many only the last lines are read.

    Args:
        directory: The cache.
        most: How many compiles, the last ones; None for all.
        failed: Is told of what cannot be read just now.
    """
    found: dict[str, Compiled] = {}
    for text in _texts(directory, failed):
        line = _decoded(text) if text else None
        if line is not None:
            found[line.id] = _later(found.get(line.id), line)
    last = sorted(found.values(), key=lambda line: line.unix_seconds)
    kept = last if most is None else last[max(0, len(last) - most) :]
    return [_as_it_is(line) if line.outcome == "running" else line for line in kept]


def unusable_history(directory: CacheDirectory) -> Iterator[tuple[str, str]]:
    """Yield name and reason of what is neither read nor written to: the directory, or files of it.

    Until it is removed, compiles of its node are not noted.
    """
    try:
        directory.folders.current(TOP)
    except fs.UnsafeFolder as exc:
        yield TOP, str(exc)
    except OSError:
        pass  # it cannot be opened just now, or is not there
    for name in filter(is_history_name, fs.list_names(directory, TOP)):
        try:
            fs.close_unwritten(_open(directory, name))
        except fs.UnusableFile as exc:
            yield f"{TOP}/{name}", str(exc)
        except OSError:
            continue  # the same


def _sizes(directory: CacheDirectory, failed: fs.Failed) -> list[tuple[int, str]]:
    """Size and name of the files that are read, the smallest first."""
    files = [
        (status.st_mtime, status.st_size, name)
        for name, status in fs.regular_files(directory, TOP, failed)
        if is_history_name(name)
    ]
    newest = sorted(files, reverse=True)[:MOST_FILES]
    return sorted((size, name) for _, size, name in newest)


def _texts(directory: CacheDirectory, failed: fs.Failed) -> Iterator[bytes]:
    """Yield the last lines of all files. Each has an equal share of what may be read at all.

    What a small file leaves of its share the larger ones have, so that files of one user, be they
    many or huge, hide those of no other.
    """
    sizes = _sizes(directory, failed)
    bytes_left, lines_left = MOST_BYTES, MOST_LINES
    for files_left, (size, name) in zip(range(len(sizes), 0, -1), sizes, strict=True):
        most_bytes, most_lines = bytes_left // files_left, lines_left // files_left
        bytes_left -= min(size, most_bytes)
        for text in islice(_lines(directory, name, most_bytes, failed), most_lines):
            lines_left -= 1
            yield text


def _open(directory: CacheDirectory, name: str) -> int:
    def opened(folder: Folder) -> int:
        return fs.open_checked(folder, name, OPEN_TO_READ, directory.sharing, only_name=True)

    return directory.folders.retry(TOP, opened)


def _lines(
    directory: CacheDirectory, name: str, most_bytes: int, failed: fs.Failed
) -> Iterator[bytes]:
    try:
        fd = _open(directory, name)
        try:
            yield from last_lines(fd, most_bytes)
        finally:
            fs.close_unwritten(fd)
    except (FileNotFoundError, fs.UnusableFile):  # see `unusable_history`
        return
    except OSError as exc:
        failed(f"{TOP}/{name}", exc)


def _decoded(text: bytes) -> Compiled | None:
    """The compile that a line tells of; None if it is torn, or foreign."""
    with suppress(msgspec.MsgspecError, ValueError, RecursionError):
        line = _decoder.decode(text)
        return _clean(line) if _is_sane(line) else None
    return None


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


def _later(known: Compiled | None, line: Compiled) -> Compiled:
    """Of two lines about one compile, the one that was written later, whichever was read first.

    One that goes on is noted several times, each time with more seconds.
    """
    if known is None:
        return line
    if "running" not in (known.outcome, line.outcome):
        return known
    if known.outcome == line.outcome:
        return max(known, line, key=lambda one: one.seconds)
    return line if known.outcome == "running" else known


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
