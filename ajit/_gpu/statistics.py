"""What the CUDA thread counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ajit._core.short_repr import short_repr
from ajit._gpu import wire

if TYPE_CHECKING:
    from ajit._gpu.health import DeviceHealth
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
        behind_loads: Submissions that came while a module was being loaded, and stood behind that.
        behind_loads_seconds: How long they stood there, added up.
        longest_behind_load_seconds: And the longest of them.
        live_memory_bytes: Device memory that is in use now.
        reserved_memory_bytes: Device memory that is taken now: what is in use, and what the pool
            keeps for the next allocations.
        live_resources: Allocations and modules that the driver has now.
        deferred_frees: Frees that wait for an idle moment.
        lost_callbacks: Tickets whose host function had not come although the device was done.
        expired: Tickets that ran past their deadline.
        sleeps: How often the thread went to sleep for want of work.
        stalls: How often the watchdog found the thread stuck in one operation.
        busy_seconds: How long it has been at what it is doing now; 0.0 while it waits for work.
        lost_code: The sticky driver code that made the context unusable, or 0.
        heartbeat_path: File with the heartbeat, for `read_heartbeat` in another process; "" if
            there is none.
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
    behind_loads: int
    behind_loads_seconds: float
    longest_behind_load_seconds: float
    live_memory_bytes: int
    reserved_memory_bytes: int
    live_resources: int
    deferred_frees: int
    lost_callbacks: int
    expired: int
    sleeps: int
    stalls: int
    busy_seconds: float
    lost_code: int
    heartbeat_path: str = ""

    def __repr__(self) -> str:
        return short_repr(self)


def read_statistics(
    counters: Counters, health: DeviceHealth, name: str, loops: int, heartbeat_path: str
) -> ThreadStatistics:
    """Return the counters: each is right by itself, together they are not one instant."""
    values: dict[str, Any] = {field: int(getattr(counters, field)) for field in wire.COUNTERS}
    for name_ns in ("behind_loads_ns", "longest_behind_load_ns"):
        values[name_ns.replace("_ns", "_seconds")] = values.pop(name_ns) / 1e9
    # Without a pool nothing is kept, and the executor counts no reserve.
    values["reserved_memory_bytes"] = max(
        values["reserved_memory_bytes"], values["live_memory_bytes"]
    )
    return ThreadStatistics(
        name=name,
        loops=loops,
        busy_seconds=health.since_seconds,
        lost_code=health.lost_code,
        heartbeat_path=heartbeat_path,
        **values,
    )
