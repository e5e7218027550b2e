"""Requests by tier over time, from counters that processes keep: pure, no clock.

Each look brings the counters of the runtimes that are there. What one has counted since the last
look goes into the interval in which that is. A runtime that was not there before brings nothing but
its counters to start from; after a pause that holds for all of them.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ajit.dashboard.snapshot import ProcessRow, Rates

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

__all__ = ["INTERVALS", "INTERVAL_SECONDS", "RateHistory"]

INTERVAL_SECONDS = 5.0
INTERVALS = 120
"""Ten minutes. Pretty arbitrary: what fits into a small chart."""

MOST_PAUSE_SECONDS = INTERVAL_SECONDS
"""After a longer pause, what was counted meanwhile belongs to no interval."""

COUNTERS = ("memory", "disk", "compiled", "failed")
GAUGES = ("compiling", "queued", "waiting")


class RateHistory:
    """The last intervals. Belongs to the thread that looks."""

    def __init__(self) -> None:
        self._intervals: deque[tuple[int, dict[str, float]]] = deque(maxlen=INTERVALS)
        self._last: dict[Hashable, dict[str, int]] = {}
        self._last_time: float | None = None

    def note(self, now: float, processes: Iterable[ProcessRow]) -> None:
        """Take what runtimes have counted until now, by the wall clock."""
        rows = list(processes)
        seen = {_identity(row): {name: getattr(row, name) for name in COUNTERS} for row in rows}
        interval = self._interval(int(now // INTERVAL_SECONDS))
        if self._last_time is not None and 0 < now - self._last_time <= MOST_PAUSE_SECONDS:
            interval["seconds"] += now - self._last_time
            for one, counters in seen.items():
                before = self._last.get(one, counters)
                for name in COUNTERS:
                    interval[name] += max(0, counters[name] - before[name])
        for name in GAUGES:
            interval[name] = max(interval[name], float(sum(getattr(row, name) for row in rows)))
        self._last, self._last_time = seen, now

    def rates(self, now: float) -> Rates:
        """Return the intervals until now; counts are per second."""
        known = dict(self._intervals)
        last = int(now // INTERVAL_SECONDS)
        numbers = range(last - INTERVALS + 1, last + 1)

        def per_second(name: str) -> tuple[float | None, ...]:
            seen = {n: one for n, one in known.items() if one["seconds"]}
            return tuple(
                round(seen[n][name] / seen[n]["seconds"], 3) if n in seen else None for n in numbers
            )

        def highest(name: str) -> tuple[float | None, ...]:
            return tuple(known[n][name] if n in known else None for n in numbers)

        return Rates(
            interval_seconds=INTERVAL_SECONDS,
            last=last,
            memory=per_second("memory"),
            disk=per_second("disk"),
            compiled=per_second("compiled"),
            failed=per_second("failed"),
            compiling=highest("compiling"),
            queued=highest("queued"),
            waiting=highest("waiting"),
        )

    def _interval(self, number: int) -> dict[str, float]:
        if not self._intervals or self._intervals[-1][0] != number:
            self._intervals.append((number, dict.fromkeys((*COUNTERS, *GAUGES, "seconds"), 0.0)))
        return self._intervals[-1][1]


def _identity(row: ProcessRow) -> Hashable:
    return row.host, row.pid, row.number
