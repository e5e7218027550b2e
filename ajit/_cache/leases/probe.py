"""Whether the locks of a cache directory work, tried with a second process; for ``ajit doctor``.

It cannot tell whether they reach other *nodes*: that takes a process there, see
`ajit._cache.leases.peer_probe`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit._cache.files.fs import TEMPORARY, in_folder, new_temporary, remove_file
from ajit.errors import CacheError

if TYPE_CHECKING:
    from ajit._cache.files.directory import CacheDirectory

__all__ = ["LockProbe", "locks_work"]

TIMEOUT_SECONDS = 30.0
"""For a Python that does nothing but try one lock. Far above what a loaded machine needs."""

_TRY = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except (BlockingIOError, PermissionError):
    print("held")
else:
    print("free")
"""


@dataclass(frozen=True, slots=True)
class LockProbe:
    """The result of the probe.

    Attributes:
        works: Whether a lock excludes another process of this host, and is free again afterwards.
        reason: What went wrong, or "".
    """

    works: bool
    reason: str


def locks_work(directory: CacheDirectory) -> LockProbe:
    """Take a lock on a file of the cache and let a child process try to take it, too.

    Blocks for as long as it takes to start Python twice. Leaves nothing behind.
    """
    if directory.access != "writable":
        return LockProbe(works=False, reason=f"the cache cannot be written: {directory.problem}")
    # A separate file: nothing else in this process opens it, so closing it does no harm.
    name = f"{TEMPORARY}/{(last := new_temporary())}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = in_folder(
            directory, TEMPORARY, lambda folder: os.open(last, flags, 0o600, dir_fd=folder.fd)
        )
    except (OSError, CacheError) as exc:
        return LockProbe(works=False, reason=f"cannot make a file to lock: {exc}")
    try:
        return _probe(fd, f"{directory.path}/{name}")
    except (OSError, subprocess.SubprocessError) as exc:
        return LockProbe(works=False, reason=_explain(exc))
    finally:
        os.close(fd)
        with suppress(OSError):
            remove_file(directory, name)


def _probe(fd: int, path: str) -> LockProbe:
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    while_held = _try_in_a_child(path)
    fcntl.lockf(fd, fcntl.LOCK_UN)
    afterwards = _try_in_a_child(path)
    if while_held == "free":
        return LockProbe(works=False, reason="a lock does not keep another process out")
    if afterwards == "held":
        return LockProbe(works=False, reason="a released lock is still held")
    return LockProbe(works=True, reason="")


def _try_in_a_child(path: str) -> str:
    command = [sys.executable, "-I", "-S", "-c", _TRY, path]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    return done.stdout.strip()


def _explain(exc: Exception) -> str:
    if isinstance(exc, subprocess.CalledProcessError):
        return f"another process cannot lock: {exc.stderr.strip().splitlines()[-1:]}"
    if isinstance(exc, OSError) and exc.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        return f"the file system has no locks ({exc.strerror})"
    return str(exc)
