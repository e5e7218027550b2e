"""Limits of this process that stop it in the middle: threads, processes, open files.

The system says them in errors of many kinds, and raises them wherever the next thread or file is
wanted. Here they are told apart from other errors, and become one of ajit's that says what to do.
"""

from __future__ import annotations

import errno
import resource

from ajit.errors import LimitReached

__all__ = ["limit_of", "named", "processes_reached"]

_NO_THREAD = "can't start new thread"
_NO_FILES = (errno.EMFILE, errno.ENFILE)


def limit_of(error: BaseException) -> LimitReached | None:
    """Return what an error says of a limit, or None if it says something else."""
    if isinstance(error, RuntimeError) and error.args[:1] == (_NO_THREAD,):
        return _reached("threads", "u", resource.RLIMIT_NPROC)
    if isinstance(error, BlockingIOError) and error.errno == errno.EAGAIN:
        return processes_reached()
    if isinstance(error, OSError) and error.errno in _NO_FILES:
        return _reached("open files", "n", resource.RLIMIT_NOFILE)
    return None


def processes_reached() -> LimitReached:
    """Return the error of a process that may start no other."""
    return _reached("processes", "u", resource.RLIMIT_NPROC)


def named(error: Exception) -> Exception:
    """Return an error as what it says of a limit, with itself as the cause; or as it is."""
    found = limit_of(error)
    if found is None:
        return error
    found.__cause__ = error
    return found


def _reached(what: str, letter: str, kind: int) -> LimitReached:
    soft, _ = resource.getrlimit(kind)
    limit = None if soft == resource.RLIM_INFINITY else soft
    return LimitReached(what=what, limit=limit, option=f"ulimit -{letter}")
