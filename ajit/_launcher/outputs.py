"""What a compile made, as the bytes that an entry holds: files and both texts, each with its name.

Layout, all integers little-endian: magic, the entry's key, the number of sections; for each its
mode and the lengths of name and content; then all names, then all contents. Read without msgspec,
since the way of a hit has no time to import it. The entry's checksum covers the bytes.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import struct
from typing import NamedTuple

__all__ = ["OutputsInvalid", "Section", "pack", "replay", "unpack"]

_MAGIC = b"AJITOUT\1"
_HEAD = struct.Struct("<8s64sI")
_SECTION = struct.Struct("<IIQ")
MAX_SECTIONS = 4096
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

STDOUT, STDERR = "stdout", "stderr"


class OutputsInvalid(ValueError):
    """The bytes are not the outputs of a compile. Internal: it counts as a miss."""


class Section(NamedTuple):
    """One output.

    Attributes:
        name: ``out``, ``deps``, ... as in `Command.outputs`; or ``stdout`` or ``stderr``.
        mode: Its permissions; 0 for a text.
        data: Its bytes.
    """

    name: str
    mode: int
    data: bytes | memoryview


def pack(key: str, sections: list[Section]) -> bytes:
    """Return the bytes of outputs."""
    table = b"".join(_SECTION.pack(mode, len(name), len(data)) for name, mode, data in sections)
    names = "".join(section.name for section in sections).encode()
    head = _HEAD.pack(_MAGIC, key.encode(), len(sections))
    return b"".join((head, table, names, *(section.data for section in sections)))


def unpack(data: bytes | memoryview, key: str) -> list[Section]:
    """Return the outputs that bytes hold.

    Raises:
        OutputsInvalid: They are none, or another key's.
    """
    view = memoryview(data)
    try:
        magic, echo, count = _HEAD.unpack_from(view)
        if magic != _MAGIC or echo != key.encode() or count > MAX_SECTIONS:
            raise OutputsInvalid("not the outputs of that key")
        table = [_SECTION.unpack_from(view, _HEAD.size + i * _SECTION.size) for i in range(count)]
    except struct.error as exc:
        raise OutputsInvalid(str(exc)) from None
    at = _HEAD.size + count * _SECTION.size
    content = at + sum(length for _, length, _ in table)
    sections = []
    for mode, length, size in table:
        name = bytes(view[at : at + length]).decode("ascii", "replace")
        sections.append(Section(name, mode, view[content : content + size]))
        at, content = at + length, content + size
    if content != len(view):
        raise OutputsInvalid("sections do not add up")
    return sections


def replay(sections: list[Section], paths: dict[str, str]) -> None:
    """Write the files, each under a temporary name first, and print the texts.

    Args:
        sections: The outputs.
        paths: Where each file goes, by name.

    Raises:
        OSError: A file could not be written, or what has its name is no plain file, through which
            a compiler might write. Nothing was printed.
        KeyError: There is a file without a path.
    """
    for path in paths.values():
        _check_plain(path)
    mask = os.umask(0)
    os.umask(mask)
    for name, mode, data in sections:
        if name not in (STDOUT, STDERR):
            # As a compiler would: all that the umask allows, to execute only what it made so.
            _write(paths[name], data, (0o777 if mode & 0o100 else 0o666) & ~mask)
    for name, _, data in sections:
        if name in (STDOUT, STDERR):
            _print(1 if name == STDOUT else 2, data)


def _check_plain(path: str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no plain file", path)


def _write(path: str, data: bytes | memoryview, mode: int) -> None:
    # In the same directory: a rename does not cross file systems. By a name that cannot be known,
    # since others may write to that directory, and no longer than any other.
    name = f".ajit-{os.getpid()}-{os.urandom(6).hex()}"
    temporary = os.path.join(os.path.dirname(path), name)
    try:
        fd = os.open(temporary, _CREATE, mode)
        try:
            os.fchmod(fd, mode)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise


def _print(fd: int, data: bytes | memoryview) -> None:
    """Print all of it, if there is a reader: that there is none is no fault of a compile."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
        except OSError:
            return
