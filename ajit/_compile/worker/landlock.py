"""Confining this process by the kernel: Landlock for files, a seccomp filter for sockets.

What is confined stays so, and so does all that it starts. It needs no privilege, no namespace and
no program of its own: the reasons for it and against bubblewrap, which is not installed everywhere
and needs user namespaces, which many containers forbid.

Files are confined by Landlock: it knows hierarchies, and checks what is opened, whatever name or
link leads there. Looking whether a file exists is not confined, nor is passing through directories.
Landlock knows TCP only, and newer kernels abstract Unix sockets and signals; so no socket can be
made at all, which is one rule of seccomp.

The numbers are those of ``linux/landlock.h``, ``linux/seccomp.h`` and ``linux/filter.h``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import struct
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["confine", "missing"]

LEAST_ABI = 3
"""Of Landlock: the first that knows truncation, in Linux 6.2. Before it files could be emptied."""

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_ALL_BY_ABI = {3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Accesses to files that a version knows; later ones know those of the last here."""
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""The other accesses are those of directories, and no rule for a file may have one."""
_TCP = 0b11
_NET_ABI, _SCOPE_ABI = 4, 6
_SCOPES = 0b11

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_MODE_FILTER = 2

_ARCHES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""By machine: how seccomp calls it, and its number of socket()."""
_IO_URING_SETUP = 425
_X32 = 0x40000000

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000

_libc = ctypes.CDLL(None, use_errno=True)


def missing() -> str:
    """Say why this process cannot be confined, or return ""."""
    if platform.machine() not in _ARCHES or struct.calcsize("P") != 8:
        return f"there is no sandbox for {platform.machine()}"
    try:
        abi = _abi()
    except OSError as exc:
        return f"this kernel has no Landlock, or it is switched off or forbidden here ({exc})"
    if abi < LEAST_ABI:
        return f"this kernel's Landlock is version {abi}, {LEAST_ABI} is needed: Linux 6.2"
    return ""


def confine(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Confine this process, for good: no other file, and no socket.

    Args:
        readable: Files and directories that may be read, listed and executed, with all below them.
            Those that are not there are passed over.
        writable: The same for any access.

    Raises:
        OSError: It could not be done; nothing may be compiled then.
    """
    if why := missing():
        raise OSError(errno.ENOSYS, why)
    if len(os.listdir("/proc/self/task")) > 1:
        raise OSError(errno.EBUSY, "only a process with one thread can be confined")
    abi = _abi()
    every = _ALL_BY_ABI[min(abi, max(_ALL_BY_ABI))]
    ruleset = _ruleset(abi, every)
    try:
        for path in readable:
            _allow(ruleset, path, _READ)
        for path in writable:
            _allow(ruleset, path, every)
        _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        _checked(_libc.syscall(_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    finally:
        os.close(ruleset)
    _forbid_sockets()


def _abi() -> int:
    found = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)
    return _checked(found, "landlock_create_ruleset")


def _ruleset(abi: int, every: int) -> int:
    fields = [every]
    fields += [_TCP] if abi >= _NET_ABI else []
    fields += [_SCOPES] if abi >= _SCOPE_ABI else []
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    made = _libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    return _checked(made, "landlock_create_ruleset")


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _OF_FILES
        rule = struct.pack("=Qi", access, descriptor)
        added = _libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
        _checked(added, f"landlock_add_rule for {path}")
    finally:
        os.close(descriptor)


def _forbid_sockets() -> None:
    """Let no socket be made, by no other way of calling the kernel and not by io_uring either."""
    arch, socket = _ARCHES[platform.machine()]
    refuse, allow = _FAIL | errno.EACCES, _ALLOW
    program = [
        (_LOAD, 0, 0, 4),  # of struct seccomp_data: the arch
        (_JUMP_EQUAL, 0, 4, arch),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_JUMP_AT_LEAST, 2, 0, _X32),
        (_JUMP_EQUAL, 1, 0, socket),
        (_JUMP_EQUAL, 0, 1, _IO_URING_SETUP),
        (_RETURN, 0, 0, refuse),
        (_RETURN, 0, 0, allow),
    ]
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    text = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: a length, and after its alignment the address.
    filter_ = struct.pack("@HP", len(program), ctypes.addressof(text))
    _checked(_libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, filter_, 0, 0), "seccomp")


def _checked(result: int, what: str) -> int:
    return result if result >= 0 else _fail(what)


def _fail(what: str) -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")
