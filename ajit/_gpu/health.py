"""Health: what the CUDA thread is at, read from its heartbeat without asking it.

The heartbeat is a few words that the native thread writes around each operation, in a file of
anonymous memory. Reading them takes no lock, no system call and no answer of the thread, so a
health check tells a thread that hangs in the driver from one that has nothing to do. Another
process reads the same words through ``/proc``, even when no thread of it can have the GIL: see
`read_heartbeat`.
"""

from __future__ import annotations

import faulthandler
import functools
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from ajit._gpu import wire

__all__ = ["DeviceHealth", "dump_signal", "health_of", "read_heartbeat"]

STDERR = 2


@dataclass(frozen=True, slots=True)
class DeviceHealth:
    """How the CUDA thread is. True in a condition if it is well: alive, not stuck, not lost.

    Attributes:
        alive: Whether the thread runs.
        stuck: Whether it has been in one operation for longer than ``stall_seconds``.
        operation: What it is at: ``launch``, ``load``, ...; "" while it waits for work.
        since_seconds: For how long; 0.0 while it waits.
        ticket: Number of the ticket that it is at, or 0.
        in_flight: Tickets that the device is at.
        oldest_ticket_seconds: Age of the oldest of them; 0.0 if there is none.
        waiting: Submissions that the thread has not taken yet; 0 where that is not known.
        lost_code: The sticky driver code that made the context unusable, or 0.
    """

    alive: bool
    stuck: bool
    operation: str
    since_seconds: float
    ticket: int
    in_flight: int
    oldest_ticket_seconds: float
    waiting: int
    lost_code: int

    def __bool__(self) -> bool:
        return self.alive and not self.stuck and not self.lost_code


def health_of(
    beat: bytes | memoryview, *, alive: bool, stall_seconds: float, waiting: int = 0
) -> DeviceHealth:
    """Return what a heartbeat's bytes mean now."""
    _, _, entered, operation, number, _, in_flight, oldest, lost = wire.HEARTBEAT.unpack_from(beat)
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    since = max(0, now - entered) / 1e9 if entered else 0.0
    return DeviceHealth(
        alive=alive,
        stuck=0 < stall_seconds < since,
        operation=wire.OPERATIONS.get(operation, str(operation)) if entered else "",
        since_seconds=since,
        ticket=number if entered else 0,
        in_flight=in_flight,
        oldest_ticket_seconds=max(0, now - oldest) / 1e9 if oldest else 0.0,
        waiting=waiting,
        lost_code=lost,
    )


def read_heartbeat(path: str | Path, *, stall_seconds: float = 0.0) -> DeviceHealth:
    """Read the heartbeat of a process of this machine and user.

    Args:
        path: `ThreadStatistics.heartbeat_path` of that process.
        stall_seconds: Time in one operation that counts as stuck; 0.0: none does.

    Raises:
        OSError: The process has ended, or its device is closed.
        ValueError: The file is no heartbeat.
    """
    with Path(path).open("rb") as file:
        beat = file.read(wire.HEARTBEAT.size)
    if len(beat) < wire.HEARTBEAT.size or wire.HEARTBEAT.unpack(beat)[0] != wire.HEARTBEAT_MAGIC:
        raise ValueError(f"{path} is no heartbeat of a CUDA thread")
    return health_of(beat, alive=True, stall_seconds=stall_seconds)


@functools.cache
def dump_signal() -> int:
    """Return a real-time signal that makes faulthandler print the stacks of all threads, or 0.

    The native watchdog sends it when the CUDA thread is stuck. faulthandler's handler needs neither
    the GIL nor a lock; ``dump_traceback_later`` would have to be called, with the GIL, for each
    operation. The highest signal without a handler is taken, once for the process.
    """
    for number in range(signal.SIGRTMAX - 1, signal.SIGRTMIN, -1):
        if signal.getsignal(number) == signal.SIG_DFL:
            try:
                faulthandler.register(number, file=STDERR, all_threads=True)
            except (OSError, RuntimeError, ValueError):
                return 0
            return number
    return 0
