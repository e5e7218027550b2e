"""What the runtimes of this machine do, as rows of the page: from their boards, and from leases.

A compile is known from the board of the runtime that is at it, and from the lease that it holds: in
the cache, so that of another machine or container is known as well. Who waits is known from the
boards of those who wait. Pure: files are read elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from ajit.dashboard.snapshot import WORST_FIRST, DeviceRow, Level, ProcessRow, Waiter, Work, short

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ajit._cache.entries.holders import HeldLease
    from ajit.instrumentation import CompileView, DeviceView, RuntimeView, WaitView

__all__ = ["SILENT_SECONDS", "process_rows", "waiting", "work_rows"]

SILENT_SECONDS = 10.0
"""A holder beats every second. One that has not done so for this long is said to be silent."""

MOST_WAITERS = 32
"""Listed of each compile; the others are counted."""

_LEVELS: dict[str, Level] = {
    "running": "quiet",
    "late": "warning",
    "unknown": "warning",
    "stopped": "bad",
    "dead": "bad",
}


def process_rows(views: Iterable[RuntimeView], now_unix_seconds: float) -> list[ProcessRow]:
    """Return a row for each runtime, those with trouble first."""
    rows = [_process(view, now_unix_seconds) for view in views]
    return sorted(rows, key=lambda row: (WORST_FIRST[row.level], row.host, row.pid, row.number))


def _process(view: RuntimeView, now: float) -> ProcessRow:
    level = _LEVELS.get(view.state, "warning")
    device = None if view.device is None else _device(view.device)
    if view.cache_problem or (device is not None and device.level == "bad"):
        level = "bad"
    if level == "quiet" and (view.compiles or view.waits):
        level = "busy"
    return ProcessRow(
        pid=view.pid,
        host=short(view.host),
        program=short(view.program),
        number=view.number,
        state=short(view.state),
        level=level,
        silent_seconds=view.silent_seconds,
        lag_seconds=view.lag_seconds,
        open_seconds=max(0.0, now - view.opened_unix_seconds),
        version=short(view.version),
        compiling=view.running,
        queued=view.queued,
        held_back=short(view.held_back),
        slots=view.slots,
        workers=view.workers,
        waiting=len(view.waits),
        memory=view.from_memory,
        disk=view.from_disk,
        compiled=view.compiled,
        failed=view.failed,
        fallbacks=view.fallbacks,
        late_compiles=view.late_compiles,
        compile_seconds=view.compile_seconds,
        saved_seconds=view.saved_seconds,
        device=device,
        problem=short(view.cache_problem),
    )


def _device(view: DeviceView) -> DeviceRow:
    well = view.alive and not view.stuck and not view.lost_code
    return DeviceRow(
        name=short(view.name),
        level="quiet" if well else "bad",
        operation=short(view.operation),
        since_seconds=view.since_seconds,
        in_flight=view.in_flight,
        oldest_ticket_seconds=view.oldest_ticket_seconds,
        waiting=view.waiting,
        lost_code=view.lost_code,
        launches=view.launches,
        used_bytes=view.live_memory_bytes,
        reserved_bytes=view.reserved_memory_bytes,
    )


@dataclass(frozen=True, slots=True)
class _Holder:
    key: str
    host: str
    pid: int


def work_rows(views: Sequence[RuntimeView], leases: Iterable[HeldLease]) -> list[Work]:
    """Return what goes on and who waits for it: the longest queue first, then the longest work."""
    found: dict[_Holder, Work] = {}
    for view in views:
        if view.state != "dead":
            for one in view.compiles:
                found[_Holder(one.key, view.host, view.pid)] = _compile(one, view)
    processes = {(view.host, view.pid): view for view in views}
    for lease in leases:
        holder = _Holder(lease.key, lease.record.host, lease.record.pid)
        its_view = processes.get((holder.host, holder.pid))
        if its_view is not None and its_view.state == "dead":
            continue  # the leases were read a moment ago; the kernel has freed this one
        found[holder] = _leased(lease, found.get(holder), its_view)
    waiters = _waiters(views, found, processes)
    rows = [_with_waiters(work, waiters[holder]) for holder, work in found.items()]
    return sorted(rows, key=lambda row: (-waiting(row), row.kind != "kernel", -row.seconds))


def waiting(row: Work) -> int:
    """How many wait: by their boards, or in the lock as the kernel counts them."""
    return max(len(row.waiters) + row.more_waiters, row.blocked)


def _compile(one: CompileView, view: RuntimeView) -> Work:
    return Work(
        name=short(one.name),
        key=short(one.key),
        phase=short(one.phase),
        compiler=short(one.compiler),
        arch=short(one.arch),
        reason=short(one.reason),
        seconds=one.seconds + view.silent_seconds,
        cpu_seconds=one.cpu_seconds,
        pid=view.pid,
        host=short(view.host),
        program=short(view.program),
        state=short(view.state),
    )


def _leased(lease: HeldLease, known: Work | None, view: RuntimeView | None) -> Work:
    """What a lease says of its holder, which may be known from its board as well."""
    silent = lease.silent_seconds > SILENT_SECONDS or not lease.authentic
    stopped = view is not None and view.state == "stopped"
    return msgspec.structs.replace(
        known or _of_record(lease, view),
        level="bad" if silent or stopped else "busy",
        phase=short(lease.record.phase),
        silent_seconds=lease.silent_seconds,
        authentic=lease.authentic,
        blocked=lease.waiters,
    )


def _of_record(lease: HeldLease, view: RuntimeView | None) -> Work:
    record = lease.record
    return Work(
        kind=lease.kind,
        name=short(record.name),
        key=short(lease.key),
        compiler=short(record.compiler),
        seconds=lease.age_seconds,
        cpu_seconds=record.cpu_seconds,
        pid=record.pid,
        host=short(record.host),
        program="" if view is None else short(view.program),
        state="" if view is None else short(view.state),
    )


def _waiters(
    views: Iterable[RuntimeView],
    found: dict[_Holder, Work],
    processes: Mapping[tuple[str, int], RuntimeView],
) -> defaultdict[_Holder, list[Waiter]]:
    """Who waits for which holder. A holder that only they know of is added to what was found."""
    by_key = {holder.key: holder for holder in found}
    waiters: defaultdict[_Holder, list[Waiter]] = defaultdict(list)
    for view in views:
        if view.state == "dead":
            continue
        for wait in view.waits:
            holder = _Holder(wait.key, wait.host, wait.pid)
            if holder not in found:
                # It has changed since the last beat of who waits; or the leases were not read yet.
                known = by_key.setdefault(wait.key, holder)
                if known == holder:
                    found[holder] = _awaited(wait, processes.get((wait.host, wait.pid)))
                holder = known
            waiters[holder].append(
                Waiter(
                    pid=view.pid,
                    host=short(view.host),
                    program=short(view.program),
                    waited_seconds=wait.waited_seconds + view.silent_seconds,
                )
            )
    return waiters


def _awaited(wait: WaitView, view: RuntimeView | None) -> Work:
    state = "" if view is None else short(view.state)
    return Work(
        level="bad" if state in ("dead", "stopped") else "busy",
        state=state,
        name=short(wait.name),
        key=short(wait.key),
        phase=short(wait.phase),
        compiler=short(wait.compiler),
        seconds=wait.age_seconds,
        pid=wait.pid,
        host=short(wait.host),
    )


def _with_waiters(work: Work, waiters: list[Waiter]) -> Work:
    waiters.sort(key=lambda waiter: -waiter.waited_seconds)
    shown = tuple(waiters[:MOST_WAITERS])
    return msgspec.structs.replace(work, waiters=shown, more_waiters=len(waiters) - len(shown))
