"""What the journals of a chaos run tell about time: headers, answers, and stopped processes.

Nothing is decided here. What headers held, and when the work for an answer was begun, are bounds to
the safe side: a header may have held its former content until an edit was over, and its new content
since the edit was begun.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import product

from benchmarks.chaos_headers import HALF
from benchmarks.chaos_journal import Record

__all__ = ["Flights", "Headers", "Outages", "State", "kernel_of", "stopped_times"]

State = tuple[str, ...]
"""What the headers of one kernel held, in their order."""

CLOCK_SECONDS = 0.05
"""A file that was written so short before it was read is not relied on: two ticks of the file
system's clock, and the time that a process takes to say that it begins."""


class Headers:
    """What each header held, and when."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._spans: dict[str, list[tuple[float, float, str]]] = {}
        self._edits: dict[str, list[Record]] = {}
        for record in records:
            if record.what == "edited":
                self._edits.setdefault(record["file"], []).append(record)
        for file, edits in self._edits.items():
            ends = [edit.time for edit in edits[1:]] + [float("inf")]
            self._spans[file] = [
                (edit["begun"], end, edit["label"]) for edit, end in zip(edits, ends, strict=True)
            ]

    def held(self, file: str, begun: float, end: float) -> set[str]:
        """Return what a header may have held at some moment of a time."""
        return {label for a, b, label in self._spans.get(file, ()) if a <= end and b >= begun}

    def states(self, files: Iterable[str], begun: float, end: float) -> set[State]:
        """Return what headers may have held together.

        A process looks at two files one after the other. So any contents of one go with any
        of the other.
        """
        return set(product(*(self.held(file, begun, end) for file in files)))

    def may_fail(self, files: Iterable[str], begun: float, end: float) -> bool:
        """Whether a compile may have met a half header, or one that went while it was looked at."""
        held = [self.held(file, begun, end) for file in files]
        return any(HALF in labels for labels in held) or any(len(other) > 1 for other in held[1:])

    def edited(self, files: Iterable[str], begun: float, end: float) -> bool:
        """Whether one was edited, or touched, in a time or just before."""
        return any(
            edit["begun"] <= end and edit.time >= begun - CLOCK_SECONDS
            for file in files
            for edit in self._edits.get(file, ())
        )


class Flights:
    """Since when the work may have gone on that a request was answered from.

    A request joins the work that another request for the kernel has begun in its process. That one
    may have been given up meanwhile, its work goes on. It has ended when a request is answered.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self._asked: dict[tuple[int, int], list[float]] = {}
        self._ended: dict[tuple[int, int], list[float]] = {}
        self._closed: dict[int, list[float]] = {}
        for record in records:
            if record.what == "asked":
                place = record.pid, record["kernel"]
                self._asked.setdefault(place, []).append(record.time)
            elif record.what == "closed":
                self._closed.setdefault(record.pid, []).append(record.time)
            elif _ends_work(record):
                place = record.pid, kernel_of(record)
                self._ended.setdefault(place, []).append(record.time)

    def begun(self, pid: int, kernel: int, time: float) -> float:
        """Return the earliest begin of the work that goes on at a time, or begins then."""
        ends = self._ended.get((pid, kernel), []), self._closed.get(pid, [])
        last = max(
            (times[i - 1] for times in ends if (i := bisect_left(times, time))),
            default=float("-inf"),
        )
        asked = self._asked.get((pid, kernel), [])
        first = bisect_right(asked, last)
        return min(asked[first], time) if first < len(asked) else time


class Outages:
    """When the cache's file system hung, and when a hostile member held leases.

    For a process it hangs until it has found out that it does not any more.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self._hung: list[tuple[float, float]] = []
        self._silent: dict[int, list[tuple[float, float]]] = {}
        self._hostile: dict[str, list[tuple[float, float]]] = {}
        began, silent, took = float("-inf"), dict[int, float](), dict[str, float]()
        for record in records:
            if record.what == "disk_hung":
                began = record["begun"]
            elif record.what == "disk_back":
                self._hung.append((began, record.time))
            elif record.what == "CacheUnresponsive":
                silent.setdefault(record.pid, record.time)
            elif record.what in {"CacheResponsive", "closed"} and record.pid in silent:
                span = silent.pop(record.pid), record.time
                self._silent.setdefault(record.pid, []).append(span)
            elif record.what == "hostile_took":
                took[record["name"]] = record["begun"]
            elif record.what == "hostile_left":
                span = took.pop(record["name"]), record.time
                self._hostile.setdefault(record["name"], []).append(span)
        for pid, since in silent.items():
            self._silent.setdefault(pid, []).append((since, float("inf")))

    def hung(self, pid: int, begun: float, end: float) -> bool:
        """Whether it hung for a process at some moment of a time."""
        return any(a <= end and b >= begun for a, b in (*self._hung, *self._silent.get(pid, ())))

    def hostile(self, base: str, begun: float, end: float) -> bool:
        """Whether a hostile member held the lease of a base key at some moment of a time."""
        return any(
            name.startswith(base) and a <= end and b >= begun
            for name, spans in self._hostile.items()
            for a, b in spans
        )


def stopped_times(records: Iterable[Record]) -> dict[int, list[tuple[float, float]]]:
    """Return when each process was stopped."""
    found: dict[int, list[tuple[float, float]]] = {}
    since: dict[int, float] = {}
    for record in records:
        if record.what == "stopped":
            since[record["server"]] = record["begun"]
        elif record.what in {"continued", "killed"} and record["server"] in since:
            found.setdefault(record["server"], []).append(
                (since.pop(record["server"]), record.time)
            )
    return found


def _ends_work(record: Record) -> bool:
    if record.what == "answered":
        return bool(record["outcome"] != "cancelled")
    return record.what == "KernelReady"


def kernel_of(record: Record) -> int:
    """Return the number of the kernel that a record is about."""
    return int(record.facts["kernel"] if "kernel" in record.facts else record["name"])
