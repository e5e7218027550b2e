"""Whether a compiler makes progress: a stopped or dead-locked one would hold all who wait for it.

Its server goes on beating for it, since that is alive, and the time limit of a compile is long: the
largest kernels take many minutes. But a compiler that works uses CPU time. One that was stopped (by
SIGSTOP, a debugger, a frozen container) or whose processes wait for each other uses none.

Pure: times are given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ajit._compile.pool.group import Group

__all__ = ["STALL_SECONDS", "Stall"]

STALL_SECONDS = 60.0
"""How long a compiler may use no CPU time. Pretty arbitrary: reading headers from a network disk
takes seconds at worst, and those who wait for it would wait for `compile_timeout_seconds`."""


class Stall:
    """The time for which a compile has made no progress.

    Args:
        now: When it began, monotonic.
        stopped_limit_seconds: How long it may be stopped.
        period_seconds: The intended time between two looks. Time between two of them counts for
            twice that at most: a server that was stopped itself knows nothing of that time.
    """

    def __init__(self, now: float, stopped_limit_seconds: float, period_seconds: float) -> None:
        self._stopped_limit_seconds = stopped_limit_seconds
        self._period_seconds = period_seconds
        self._looked = now
        self._cpu_seconds = -1.0
        self._idle_seconds = 0.0
        self._stopped_seconds = 0.0

    def look(self, now: float, group: Group) -> str:
        """Note what a look has seen; return why the compiler has stalled, or "".

        Args:
            now: When, monotonic.
            group: The compiler's processes.
        """
        passed = min(now - self._looked, 2 * self._period_seconds)
        self._looked = now
        works = group.runs or group.cpu_seconds != self._cpu_seconds
        self._cpu_seconds = group.cpu_seconds
        self._idle_seconds = 0.0 if works else self._idle_seconds + passed
        # While another process of the group works, the stopped one may be waited for or not.
        is_stopped = group.stopped and not works
        self._stopped_seconds = self._stopped_seconds + passed if is_stopped else 0.0
        if self._stopped_seconds > self._stopped_limit_seconds:
            return f"was stopped for {self._stopped_seconds:.0f} s (SIGSTOP, a debugger)"
        if self._idle_seconds > STALL_SECONDS:
            return f"used no CPU time for {self._idle_seconds:.0f} s"
        return ""
