"""A worker and what it has started: their memory, their CPU time, and whether any of them lives."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Group", "group_lives", "look_at_group"]

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

_STATE_FIELD, _GROUP_FIELD, _SESSION_FIELD = 3 - 3, 5 - 3, 6 - 3
"""Fields 3, 5, 6 of /proc/<pid>/stat; those after the command's closing parenthesis begin at 3."""

_TIME_FIELDS = slice(14 - 3, 17 - 3 + 1)
"""Its CPU time in user and system mode, and the same of the children that it has reaped."""

_PAGES_FIELD = 24 - 3

_ENDED = (b"Z", b"X")
_STOPPED = (b"T", b"t")


@dataclass(frozen=True, slots=True)
class Group:
    """What the processes of a group are at one moment.

    Attributes:
        memory_bytes: Their resident memory. Pages that two of them share count twice.
        cpu_seconds: The CPU time of all of them so far, those that have ended included.
        runs: Whether any of them runs, or would if it were its turn; also where none can be seen.
        stopped: Whether any of them is stopped, by a signal or a debugger.
    """

    memory_bytes: int
    cpu_seconds: float
    runs: bool
    stopped: bool


def look_at_group(leader: int) -> Group:
    """Look at the processes of a group, which takes from 0.1 ms for a handful.

    Memory is that of ``stat``, which costs the kernel nothing; the exact sum of ``smaps_rollup``
    walks every page and would stop the compiler meanwhile.

    Args:
        leader: The group's leader, of which the others descend.
    """
    members = [fields for pid in _members(leader) if len(fields := _fields(pid)) > _PAGES_FIELD]
    states = [fields[_STATE_FIELD] for fields in members]
    ticks = sum(int(field) for fields in members for field in fields[_TIME_FIELDS])
    return Group(
        memory_bytes=sum(int(fields[_PAGES_FIELD]) for fields in members) * PAGE_BYTES,
        cpu_seconds=ticks / TICKS_PER_SECOND,
        runs=b"R" in states or not states,  # nothing is known: there is no /proc, or it has ended
        stopped=any(state in _STOPPED for state in states),
    )


def group_lives(group: int) -> bool:
    """Whether any process of a group has not ended. Looks at every process of the machine.

    Only the session of this process counts, which workers share: a group whose number was given
    again is likely to be another session's.

    A process that has ended but was not reaped (the fault of a container's first process) is not
    alive, although a signal can be sent to its group.
    """
    session = os.getsid(0)
    for pid in _all_processes():
        fields = _fields(pid)
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
        yield from (pid for pid in _all_processes() if _group_of(pid) == leader)


def _all_processes() -> list[int]:
    """Those that this process may see; none where there is no ``/proc``."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _family(pid: int) -> Iterator[int]:
    """A process and its descendants, without those that end meanwhile."""
    yield pid
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            for child in _read(f"/proc/{pid}/task/{thread}/children").split():
                yield from _family(int(child))


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
