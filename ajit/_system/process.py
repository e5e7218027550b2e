"""The identity of a process, in a form that other processes and other hosts can check.

A process id alone does not identify a process: ids are used again, collide between hosts that share
a cache, and mean something else in each container. Host, boot, pid namespace, pid and start time
together identify it.
"""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ProcessId", "is_gone", "is_stopped", "start_ticks_of", "this_process"]

_NOT_IN_A_FILE_NAME = re.compile(r"[^A-Za-z0-9-]+")
_HOST_CHARACTERS = 64
_START_TIME_FIELD = 22 - 3
_THREADS_FIELD = 20 - 3
"""Field 22 of /proc/<pid>/stat; the fields after the command's closing parenthesis begin at 3."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process.

    Attributes:
        host: Host name.
        boot_id: The kernel's random id of this boot, or "".
        namespace: Inode of the pid namespace, 0 if unknown.
        pid: Process id in that namespace.
        start_ticks: Start time in clock ticks after boot, 0 if unknown.
        file_prefix: The same as the beginning of a temporary file's name.
    """

    host: str
    boot_id: str
    namespace: int
    pid: int
    start_ticks: int
    file_prefix: str

    def outlived(self, file: str) -> bool:
        """Whether a temporary file was made by a process whose death can be seen from here."""
        head, _, rest = file.partition(".")
        parts = rest.split(".")
        if len(parts) != 4 or head != self.file_prefix.partition(".")[0]:
            return False
        try:
            namespace, pid, start = (int(part) for part in parts[:3])
        except ValueError:
            return False
        if namespace == 0 or namespace != self.namespace:
            return False
        return is_gone(pid, start)


def is_gone(pid: int, start_ticks: int) -> bool:
    """Whether a process of this pid namespace is certainly gone.

    Args:
        pid: Its id.
        start_ticks: When it started; 0 if unknown: then any process of that id may be it.
    """
    now = start_ticks_of(pid)
    return now is None or (now != start_ticks and 0 not in (now, start_ticks))


def is_stopped(pid: int) -> bool:
    """Whether a process of this pid namespace is stopped, by a signal or by a debugger."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return text[text.rindex(b")") + 2 :][:1] in (b"T", b"t")


def start_ticks_of(pid: int) -> int | None:
    """Return when a process of this pid namespace started, or None if there is none that runs.

    0 means that it exists, but its start time cannot be read: ``/proc`` is not mounted, or hides
    the processes of other users (``hidepid``).
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return 0 if _exists(pid) else None
    except OSError:
        return 0
    # The command's name may hold spaces and parentheses, so count from the last one.
    fields = text[text.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X") and int(fields[_THREADS_FIELD]) <= 1:
        return None  # it has ended, and was not waited for: it holds nothing any more
    return int(fields[_START_TIME_FIELD])


def this_process() -> ProcessId:
    """Return the identity of the calling process; made once, and again after a fork."""
    if _known is None or _known.pid != os.getpid():
        _remember(_identify())
    assert _known is not None  # for the type checker: `_remember` has set it
    return _known


def _exists(pid: int) -> bool:
    """Whether there is such a process, by the kernel's word and not by ``/proc``."""
    if pid <= 0:
        return False  # for kill() it would be a group
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # EPERM: another user's
    return True


_known: ProcessId | None = None


def _remember(process: ProcessId) -> None:
    global _known  # noqa: PLW0603  # a memo of a constant; two threads that race write the same
    _known = process


def _identify() -> ProcessId:
    host = platform.node() or "unknown"
    pid = os.getpid()
    namespace = 0
    with suppress(OSError):
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    boot_id = ""
    with suppress(OSError):
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    start = start_ticks_of(pid) or 0
    label = _NOT_IN_A_FILE_NAME.sub("-", host)[:_HOST_CHARACTERS]
    prefix = f"{label}.{namespace}.{pid}.{start}"
    return ProcessId(host, boot_id, namespace, pid, start, prefix)
