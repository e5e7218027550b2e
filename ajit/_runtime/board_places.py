"""Where boards are: folders of this user on this node, in memory where there is a place for that.

::

    <base>/ajit-boards-<uid>/<boot>.<namespace>.<pid>.<start>.<number>.<cache>.board

The name says whose board it is: the boot and the process, which of its runtimes, and a digest of
the cache directory's path, without links: several paths may lead to one cache. So who finds one
whose process is gone can remove it without reading it. The folder is of mode 0700, its owner is
checked, and files in it are opened below its descriptor: another user can neither write a board nor
put a link in its place.

Never on a network file system: it may hang, and other nodes mean other processes. All calls here
block, for as long as a directory of this node takes.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from contextlib import suppress
from typing import NamedTuple

from ajit._cache.files.file_system import is_shared_between_nodes, mount_of
from ajit._system.process import this_process

__all__ = ["BoardName", "board_name", "cache_digest", "folders_of", "open_folder", "parse_name"]

AUTO = "auto"
OFF = "off"

MEMORY = "/dev/shm"  # noqa: S108  # what is made there is private, and that is checked
_PRIVATE = 0o700
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NAME = re.compile(
    r"\.?([0-9a-f]{8})\.([0-9]{1,10})\.([0-9]{1,10})\.([0-9]{1,18})\.([0-9]{1,9})\.([0-9a-f]{16})"
    r"\.board"
)


class BoardName(NamedTuple):
    """Whose board a file is.

    Attributes:
        boot: The first digits of a digest of the boot's id.
        namespace: Inode of the pid namespace.
        pid: The process in it.
        start_ticks: When it started.
        number: Which of its runtimes.
        cache: Digest of the cache directory's path.
    """

    boot: str
    namespace: int
    pid: int
    start_ticks: int
    number: int
    cache: str


def folders_of(setting: str) -> list[str]:
    """Return the folders in which boards may be, the best first.

    Args:
        setting: The setting ``board``: ``auto``, ``off``, or a directory.
    """
    if setting == OFF:
        return []
    bases = [setting] if setting != AUTO else _bases()
    return [os.path.join(base, f"ajit-boards-{os.geteuid()}") for base in bases]


def open_folder(path: str, *, make: bool) -> int:
    """Open a folder of boards and return its descriptor.

    Args:
        path: One of `folders_of`.
        make: Whether a board is to be put there: it is made if need be.

    Raises:
        OSError: There is none, or it cannot be made.
        ValueError: It is not a private directory of this user, or, to make a board in, not of this
            node alone.
    """
    if make:
        with suppress(FileExistsError):
            os.mkdir(path, _PRIVATE)
    fd = os.open(path, _DIRECTORY)
    try:
        _check(path, fd, make=make)
    except BaseException:
        os.close(fd)
        raise
    return fd


def board_name(number: int, cache_dir: str) -> str:
    """Return the name of a board of this process. It looks at the cache's path for links."""
    us = this_process()
    cache = cache_digest(os.path.realpath(cache_dir))
    parts = (boot_digest(), us.namespace, us.pid, us.start_ticks, number, cache)
    return f"{'.'.join(map(str, parts))}.board"


def parse_name(name: str) -> BoardName | None:
    """Return whose board a file is; None if it is none. A half-made one begins with a dot."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    boot, namespace, pid, start, number, cache = found.groups()
    return BoardName(boot, int(namespace), int(pid), int(start), int(number), cache)


def boot_digest() -> str:
    """Return the first digits of a digest of this boot's id."""
    return hashlib.sha256(this_process().boot_id.encode()).hexdigest()[:8]


def cache_digest(cache_dir: str) -> str:
    """Return the digest of a cache directory's path."""
    return hashlib.sha256(os.fsencode(cache_dir)).hexdigest()[:16]


def _check(path: str, fd: int, *, make: bool) -> None:
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ValueError(f"it is not private to this user: owner {status.st_uid}, mode {mode:04o}")
    if make and is_shared_between_nodes(kind := mount_of(path, fd).kind):
        raise ValueError(f"it is on a network file system ({kind})")


def _bases() -> list[str]:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    # A service has no such variable, and a session's processes have one: both look at all places.
    bases = [runtime if os.path.isabs(runtime) else f"/run/user/{os.geteuid()}", MEMORY]
    return [*filter(os.path.isdir, bases), tempfile.gettempdir()]
