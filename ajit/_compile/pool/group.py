"""A worker and what it has started: how much memory they take, and whether any of them lives."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["group_lives", "group_memory_bytes"]

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_STATE_FIELD, _GROUP_FIELD, _SESSION_FIELD = 3 - 3, 5 - 3, 6 - 3
"""Fields 3, 5, 6 of /proc/<pid>/stat; those after the command's closing parenthesis begin at 3."""

_ENDED = (b"Z", b"X")


def group_memory_bytes(leader: int) -> int:
    """Resident memory of the processes of a group, from 0.1 ms for a handful.

    From ``statm``, which costs the kernel nothing; the exact sum of ``smaps_rollup`` walks every
    page and would stop the compiler meanwhile. Pages that two of the processes share count twice.

    Args:
        leader: The group's leader, of which the others descend.
    """
    return sum(map(_resident_bytes, _members(leader)))


def group_lives(group: int) -> bool:
    """Whether any process of a group has not ended. Looks at every process of the machine.

    Only the session of this process counts, which workers share: a group whose number was given
    again is likely to be another session's.

    A process that has ended but was not reaped (the fault of a container's first process) is not
    alive, although a signal can be sent to its group.
    """
    session = os.getsid(0)
    for name in filter(str.isdigit, os.listdir("/proc")):
        fields = _fields(int(name))
        is_member = len(fields) > _SESSION_FIELD and (
            (int(fields[_GROUP_FIELD]), int(fields[_SESSION_FIELD])) == (group, session)
        )
        if is_member and fields[_STATE_FIELD] not in _ENDED:
            return True
    return False


def _members(leader: int) -> Iterator[int]:
    if os.path.exists(f"/proc/{leader}/task/{leader}/children"):
        yield from _family(leader)
    else:
        # Kernels without CONFIG_PROC_CHILDREN: look at every process of the machine.
        pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
        yield from (pid for pid in pids if _group_of(pid) == leader)


def _family(pid: int) -> Iterator[int]:
    """A process and its descendants, without those that end meanwhile."""
    yield pid
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            for child in _read(f"/proc/{pid}/task/{thread}/children").split():
                yield from _family(int(child))


def _resident_bytes(pid: int) -> int:
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * PAGE_BYTES if len(fields) > 1 else 0


def _group_of(pid: int) -> int:
    fields = _fields(pid)
    return int(fields[_GROUP_FIELD]) if len(fields) > _GROUP_FIELD else 0


def _fields(pid: int) -> list[bytes]:
    # The command's name may hold spaces and parentheses, so count from the last one.
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # it has ended
        return b""
