"""What the CUDA thread counts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ajit._gpu import wire

if TYPE_CHECKING:
    from ajit._gpu.wire import Counters

__all__ = ["ThreadStatistics", "read_statistics"]


@dataclass(frozen=True, slots=True)
class ThreadStatistics:
    """What a CUDA thread has done, and does.

    Attributes:
        name: Its native name.
        loops: Event loops that have the device open.
        dispatched: Submissions that reached the driver, or failed on the way.
        settled: Tickets whose outcome is known.
        failed: Of those, the ones that failed.
        in_flight: Tickets that the device is still at.
        launches: Kernel launches.
        copies: Copies.
        allocations: Allocations so far.
        loads: Modules loaded so far.
        live_memory_bytes: Device memory that is allocated now.
        live_resources: Allocations and modules that the driver has now.
        deferred_frees: Frees that wait for an idle moment.
        lost_callbacks: Tickets whose host function never came.
        expired: Tickets that ran past their deadline.
        sleeps: How often the thread went to sleep for want of work.
        busy_seconds: How long it has been at what it is doing now; 0.0 while it waits for work.
        lost_code: The sticky driver code that made the context unusable, or 0.
    """

    name: str
    loops: int
    dispatched: int
    settled: int
    failed: int
    in_flight: int
    launches: int
    copies: int
    allocations: int
    loads: int
    live_memory_bytes: int
    live_resources: int
    deferred_frees: int
    lost_callbacks: int
    expired: int
    sleeps: int
    busy_seconds: float
    lost_code: int


def read_statistics(counters: Counters, name: str, loops: int, lost_code: int) -> ThreadStatistics:
    """Return the counters: each is right by itself, together they are not one instant."""
    values = {field: int(getattr(counters, field)) for field in wire.COUNTERS}
    entered_ns = values.pop("entered_ns")
    busy_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - entered_ns if entered_ns else 0
    return ThreadStatistics(
        name=name, loops=loops, busy_seconds=max(0, busy_ns) / 1e9, lost_code=lost_code, **values
    )
