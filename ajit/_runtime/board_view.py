"""What the board of a runtime says, from its statistics and from events."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ajit
from ajit._core import events
from ajit._runtime.board_form import (
    MOST_LISTED,
    CompileView,
    DeviceView,
    ErrorView,
    RuntimeView,
    WaitView,
    cut_text,
)
from ajit._runtime.log_lines import first_error
from ajit._system.process import this_process

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ajit._gpu.health import DeviceHealth
    from ajit._gpu.statistics import ThreadStatistics
    from ajit._resolve.services import Services
    from ajit._runtime.kernels import Kernels

__all__ = ["UnderWay", "error_of", "first_view", "program_name", "trouble_of", "view_of"]


@dataclass(slots=True)
class UnderWay:
    """A compile that has begun.

    Attributes:
        event: Of its beginning.
        cpu_seconds: What its compiler has used.
    """

    event: events.CompileStarted
    cpu_seconds: float = 0.0


def program_name(argv: list[str] | None = None) -> str:
    """Return the name of the program that runs, without its arguments: they may be secrets."""
    first = (sys.argv if argv is None else argv)[:1]
    path = Path(first[0] if first else "")
    name = path.parent.name if path.name == "__main__.py" else path.name
    return cut_text(name) if name not in ("", "-", "-c", "-m") else "python"


def first_view(services: Services, number: int, opened_unix_seconds: float) -> RuntimeView:
    """Return what a board says as long as its runtime is open."""
    us = this_process()
    return RuntimeView(
        pid=us.pid,
        namespace=us.namespace,
        start_ticks=us.start_ticks,
        boot_id=us.boot_id,
        host=cut_text(us.host),
        program=program_name(),
        version=ajit.__version__,
        number=number,
        opened_unix_seconds=opened_unix_seconds,
        cache_dir=cut_text(str(services.settings.cache_dir)),
    )


def view_of(
    first: RuntimeView,
    kernels: Kernels,
    under_way: Iterable[UnderWay],
    recent: Iterable[ErrorView],
    **more: float,
) -> RuntimeView:
    """Return what a board says now.

    Args:
        first: What stays.
        kernels: The runtime's.
        under_way: Its compiles, the oldest first.
        recent: The last errors, the newest first.
        **more: Further fields.
    """
    statistics = kernels.statistics()
    under_way = list(under_way)
    left = sum(max(0, len(one) - MOST_LISTED) for one in (under_way, statistics.waiting))
    pool, device = statistics.pool, statistics.device
    values: dict[str, Any] = {name: getattr(statistics, name) for name in _TAKEN}
    values |= {name: getattr(pool, name) for name in ("slots", "running", "queued", "workers")}
    return replace(
        first,
        cache_problem=cut_text(statistics.cache_problem),
        late_compiles=statistics.late,
        rejected=statistics.disk.rejected,
        held_back=pool.held_back,
        making_keys=len(statistics.making_keys),
        compiles=tuple(_compile(one, kernels) for one in under_way[:MOST_LISTED]),
        waits=tuple(map(_wait, _longest(statistics.waiting))),
        device=None if device is None else _device(device, kernels.device.health(), kernels),
        left_out=left,
        recent_errors=tuple(recent),
        **(values | more),
    )


def error_of(event: events.Event) -> ErrorView | None:
    """Return what a board says of an event; None if nothing went wrong."""
    text = trouble_of(event)
    if text is None:
        return None
    return ErrorView(
        unix_seconds=event.unix_seconds,
        kind=type(event).__name__,
        name=cut_text(event.name),
        key=event.key,
        text=cut_text(first_error(text) or text.partition("\n")[0]),
    )


def trouble_of(event: events.Event) -> str | None:
    """Return what went wrong, with the compiler's log; None if nothing did."""
    match event:
        case events.CompileFailed():
            return event.error
        case events.EntryRejected() | events.CacheUnwritable() | events.CacheUnresponsive():
            return event.reason
        case events.BackgroundFailed():
            return f"to {event.doing}: {event.reason}"
        case events.DeviceStalled():
            return f"in {event.operation} for {event.seconds:.0f} s"
        case events.DeviceLost():
            return f"the device is lost: driver code {event.code}"
    return None


_TAKEN = (
    "from_memory", "from_disk", "compiled", "failed", "waited", "fallbacks", "handovers",
    "in_progress", "loaded_modules", "compile_seconds", "queue_seconds", "saved_seconds",
    "cache_entries", "cache_bytes", "cache_limit_bytes", "evicted_entries", "background_errors",
    "events_dropped",
)  # fmt: skip
"""Fields of the statistics that a board has under the same name."""


def _longest(waiting: tuple[events.Waiting, ...]) -> list[events.Waiting]:
    return sorted(waiting, key=lambda one: one.waited_seconds, reverse=True)[:MOST_LISTED]


def _compile(one: UnderWay, kernels: Kernels) -> CompileView:
    event = one.event
    # A build that its caller makes itself is in no queue.
    phase = kernels.services.pool.phase(event.key) or "compiling"
    return CompileView(
        name=cut_text(event.name),
        key=event.key,
        entry=cut_text(event.entry),
        compiler=cut_text(event.compiler),
        arch=event.arch,
        reason=cut_text(event.reason),
        phase=phase,
        seconds=max(0.0, time.monotonic() - event.monotonic_seconds),
        cpu_seconds=one.cpu_seconds,
    )


def _wait(waiting: events.Waiting) -> WaitView:
    holder = waiting.holder
    since = max(0.0, time.monotonic() - waiting.monotonic_seconds)  # it is told once a second
    known: dict[str, Any] = {}
    if holder is not None:
        known = {
            "host": cut_text(holder.host),
            "pid": holder.pid,
            "phase": cut_text(holder.phase),
            "compiler": cut_text(holder.compiler),
            "age_seconds": holder.age_seconds + since,
        }
    return WaitView(
        name=cut_text(waiting.name),
        key=waiting.key,
        waited_seconds=waiting.waited_seconds + since,
        **known,
    )


def _device(device: ThreadStatistics, health: DeviceHealth, kernels: Kernels) -> DeviceView:
    return DeviceView(
        name=cut_text(kernels.device.name),
        alive=health.alive,
        stuck=health.stuck,
        operation=health.operation,
        since_seconds=health.since_seconds,
        in_flight=health.in_flight,
        oldest_ticket_seconds=health.oldest_ticket_seconds,
        waiting=health.waiting,
        lost_code=health.lost_code,
        dispatched=device.dispatched,
        launches=device.launches,
        live_memory_bytes=device.live_memory_bytes,
        reserved_memory_bytes=device.reserved_memory_bytes,
    )
