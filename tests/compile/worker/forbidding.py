"""Threads in which some system calls are forbidden, as a container's profile does."""

from __future__ import annotations

import ctypes
import platform
import struct
from concurrent.futures import ThreadPoolExecutor

__all__ = ["PROCESS_VM_READV", "SECCOMP", "forbidding"]

SECCOMP, PROCESS_VM_READV = (317, 310) if platform.machine() == "x86_64" else (277, 270)
"""Numbers of the system calls by which programs are watched."""

_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _EPERM = 0x7FFF0000, 0x00050001
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_void_p))


def forbidding(*numbers: int) -> ThreadPoolExecutor:
    """Return an executor of one thread; what it starts may not make these calls (EPERM)."""
    return ThreadPoolExecutor(1, initializer=_forbid, initargs=numbers)


def _forbid(*numbers: int) -> None:
    # A filter belongs to the thread that installs it, and to the processes that it starts.
    lines = [(_LOAD, 0, 0, 0)]
    for number in numbers:
        lines += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _EPERM)]
    lines.append((_RETURN, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in lines))
    program = _Program(len(lines), ctypes.addressof(code))
    libc = ctypes.CDLL(None)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError("PR_SET_NO_NEW_PRIVS")
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError("PR_SET_SECCOMP")
