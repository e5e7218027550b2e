"""Classic POSIX record locks over whole files, as system calls. `lock_file` has the rules.

Not ``flock`` and no OFD locks: see `ajit._cache.leases.table`. The locks belong to the process, and
closing any descriptor of a file drops them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

__all__ = [
    "EXCLUSIVE",
    "NO_LOCKS",
    "OPEN_TO_LOCK",
    "OPEN_TO_READ",
    "SHARED",
    "lock_holder_pid",
    "reason",
    "take",
    "take_now",
    "unlock",
]

EXCLUSIVE = fcntl.LOCK_EX
SHARED = fcntl.LOCK_SH


OPEN_TO_LOCK = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""How a lock file is opened: no link is followed, and a FIFO in its place does not block."""

OPEN_TO_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""What a file system without locks answers."""

_HELD_BY_ANOTHER = (errno.EAGAIN, errno.EACCES)  # POSIX allows either
_FLOCK = struct.Struct("@hhqqi4x")
"""``struct flock`` on 64-bit Linux: type, whence, start, length, pid."""


def take(fd: int, kind: int) -> bool:
    """Wait for a lock; false if the kernel sees a deadlock between processes in it.

    Raises:
        OSError: There are no locks to be had here.
    """
    try:
        # F_SETLKW. EINTR is retried inside (PEP 475).
        fcntl.lockf(fd, kind)
    except OSError as exc:
        if exc.errno != errno.EDEADLK:
            raise
        return False
    return True


def take_now(fd: int, kind: int) -> bool:
    """Take a lock without waiting; false if another process holds it.

    Raises:
        OSError: There are no locks to be had here.
    """
    try:
        # F_SETLK.
        fcntl.lockf(fd, kind | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno not in _HELD_BY_ANOTHER:
            raise
        return False
    return True


def unlock(fd: int) -> None:
    """Release the lock and keep the descriptor."""
    fcntl.lockf(fd, fcntl.LOCK_UN)


def lock_holder_pid(fd: int) -> int | None:
    """Return the process that holds a lock on a file, or None if no other process does.

    0 or less means that there is one, but it cannot be identified from here: it is in another pid
    namespace or on another host, or the file system does not tell.
    """
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, question)
    except OSError:
        return 0  # cannot be known
    kind, _, _, _, pid = _FLOCK.unpack(answer)
    return None if kind == fcntl.F_UNLCK else int(pid)


def reason(exc: Exception) -> str:
    """Describe an error of a file call in a few words."""
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.strerror} ({exc.filename})" if exc.filename else exc.strerror
    return str(exc)
