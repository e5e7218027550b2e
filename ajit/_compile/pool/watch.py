"""Observes a running compile from the server: memory, progress, and problems of the machine.

A compiler that is short of memory or disk space fails like one that rejects the source: it exits
with 1 and a message. The message is not read. Instead two things are observed: whether the kernel
has killed any process for lack of memory meanwhile, and whether the job's folder was ever nearly
full. If so, a rejection does not count: trying again is safe, and a wrong source is rejected again.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from ajit._compile.pool.group import look_at_group
from ajit._compile.pool.stall import Stall
from ajit._compile.pool.worker_process import TICK_SECONDS

if TYPE_CHECKING:
    from ajit._compile.pool.task import Task

__all__ = ["MemoryExceeded", "Stalled", "Watch"]

BEAT_SECONDS = 1.0

ROOM_BYTES = 16 * 1024 * 1024
"""With less space than this in the temporary directory a rejection does not count."""


class MemoryExceeded(Exception):
    """The compiler takes more than its limit; it must be killed."""

    def __init__(self, used_bytes: int) -> None:
        super().__init__(used_bytes)
        self.used_bytes = used_bytes


class Stalled(Exception):
    """The compiler makes no progress; it must be killed."""

    def __init__(self, reason: str, cpu_seconds: float) -> None:
        super().__init__(reason, cpu_seconds)
        self.reason, self.cpu_seconds = reason, cpu_seconds


class Watch:
    """One compile, seen from the server. Belongs to the slot's thread."""

    def __init__(self, task: Task, folder: str, limit_bytes: int, patience_seconds: float) -> None:
        self._task = task
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._stall = Stall(time.monotonic(), patience_seconds, TICK_SECONDS)
        self._cpu_began: float | None = None
        self._cpu_seconds = 0.0
        self._oom_kills = oom_kills()
        self._least_room = room_bytes(folder)
        self._next_beat = 0.0
        self.beat()

    def beat(self) -> None:
        """Beat for the task, once a second."""
        if time.monotonic() >= self._next_beat:
            self._task.beat("compiling", self._cpu_seconds)
            self._next_beat = time.monotonic() + BEAT_SECONDS

    def look(self, worker: int) -> None:
        """Look at the worker's group. Called a few times a second.

        Raises:
            MemoryExceeded: It is above its limit.
            Stalled: It was stopped, or its processes wait for each other.
        """
        group = look_at_group(worker)
        if self._cpu_began is None:
            self._cpu_began = group.cpu_seconds  # a worker has compiled others before
        self._cpu_seconds = max(0.0, group.cpu_seconds - self._cpu_began)
        if self._task.claim is not None:
            self._task.claim.note(group.memory_bytes)
        if group.memory_bytes > self._limit_bytes:
            raise MemoryExceeded(group.memory_bytes)
        reason = self._stall.look(time.monotonic(), group)
        if reason:
            raise Stalled(reason, self._cpu_seconds)
        self._least_room = min(self._least_room, room_bytes(self._folder))
        self.beat()

    def trouble(self) -> str:
        """Return the machine's problem that may have failed the compile, or ""."""
        if oom_kills() != self._oom_kills:
            return "the kernel killed a process for lack of memory during this compile"
        if self._least_room < ROOM_BYTES or not _has_room(self._folder):
            return "the temporary directory was full during this compile (set TMPDIR elsewhere)"
        return ""


def oom_kills() -> int:
    """How many processes this machine's kernel has killed for lack of memory, cgroups included."""
    with contextlib.suppress(OSError), open("/proc/vmstat", "rb") as file:
        for line in file:
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
    return 0


def room_bytes(folder: str) -> int:
    """Free space where a folder is; plenty if it cannot be said, or the folder is not there."""
    try:
        status = os.statvfs(folder)
    except OSError:
        return ROOM_BYTES
    return status.f_bavail * status.f_frsize


def _has_room(folder: str) -> bool:
    """Whether a file can still grow there: quotas do not show in what the file system says."""
    path = os.path.join(folder, "ajit-room")
    try:
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, ROOM_BYTES)
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return True
