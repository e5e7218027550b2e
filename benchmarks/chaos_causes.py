"""Why a chaos run compiled a kernel again: finds the cause of each compile, or that it has none.

A compile needs a cause if another one, before it, was of the same source and of the same contents
of its headers. Which contents a compile had to do with is known by its answer where it has one;
otherwise all that the headers held meanwhile are possible. A compile is explained as one of edited
headers if they may have held something, when it was decided, that no compile before it had.

Events of compiles carry base keys, entries their own. Both share their first digits, by which they
are put together here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ajit._cache.leases.claims import LEAST_SILENCE_SECONDS
from benchmarks.chaos_history import Flights, Headers, Outages, State, kernel_of, stopped_times
from benchmarks.chaos_journal import Record
from benchmarks.chaos_kernels import headers_of

__all__ = ["PATIENCE", "UNEXPLAINED", "Causes", "Compile"]

UNEXPLAINED = "no cause"
PATIENCE = "patience with a silent holder ended"
EDITED = "its headers were edited"
HOSTILE = "patience with a hostile member that held its lease ended"
HUNG = "the file system of the cache hung"
NO_LEASE = "there was no lease to be had, as the file system hung"
TORN = "its file was damaged while it was written"
RECORD_SECONDS = 1.0
ANSWER_SECONDS = 10.0
"""How long after a hang a process may still act on what was not answered meanwhile: its patience,
and the time that 18 processes take on 2 CPUs."""
SILENT_SECONDS = 2.0
"""How long after a holder goes on its silence may still be noticed: its next beat, and a look."""
UNSEALED_SECONDS = SILENT_SECONDS + LEAST_SILENCE_SECONDS
"""The same of a hostile member: its claim is of no one who can be believed, left or not."""
_DAMAGED = {
    "failure": "the record of its rejection was damaged",
    "list": "a reading list was damaged or removed",
}
_BASE_DIGITS = 16
_ENDS = ("KernelReady", "CompileFailed", "CompileStarted")


@dataclass(frozen=True, kw_only=True)
class Compile:
    """One compile.

    Attributes:
        start: The event of its start.
        decided: The earliest time of the look that decided it.
        wanted: What the headers may have held when it was decided.
        made: What they may have held in what it compiled.
        end: When its result was told, or its process ended; infinite if neither.
        failed: The event of its rejection, if there is one.
        shared: Whether it certainly was of one content, and its entry was published.
        unshared: Whether it was said that its result was not published.
        edited: Whether its headers were edited meanwhile.
    """

    start: Record
    decided: float
    wanted: set[State]
    made: set[State]
    end: float
    failed: Record | None
    shared: bool
    unshared: bool
    edited: bool

    def __getitem__(self, name: str) -> object:
        return self.start[name]

    @property
    def pid(self) -> int:
        """Who compiled."""
        return self.start.pid

    @property
    def time(self) -> float:
        """When it began."""
        return self.start.time


class Causes:
    """What can explain that a key was compiled again.

    Attributes:
        compiles: Those of each base key, in the order in which they began.
    """

    def __init__(self, records: list[Record], failure_seconds: float) -> None:
        self._failure_seconds = failure_seconds
        self._about: dict[str, list[Record]] = {}  # a base's events, of all processes
        self._breaks: list[Record] = []  # ends of compiles by kill or close
        self._kills: list[Record] = []  # of compilers
        self._damage: dict[str, list[tuple[str, Record]]] = {}  # with the whole key
        self._torn: list[Record] = []  # temporary files, by their owner
        self._states: dict[str, State] = {}  # of entries, by whole key
        self._stopped = stopped_times(records)
        self._headers, self._flights = Headers(records), Flights(records)
        self._outages = Outages(records)
        for record in records:
            self._sort(record)
        self.compiles = {base: list(self._compiles(base)) for base in self._about}

    def _sort(self, record: Record) -> None:
        if record.what in {"killed", "closing"}:
            self._breaks.append(record)
        elif record.what in {"compiler_killed", "compiler_stopped"}:
            self._kills.append(record)
        elif record.what == "temporary_damaged":
            self._torn.append(record)
        elif record.what == "damaged":
            for key in record["keys"]:
                self._damage.setdefault(_base(key), []).append((key, record))
        elif record.what == "answered":
            if "state" in record.facts:
                self._states[record["key"]] = tuple(record["state"])
        elif "key" in record.facts:
            self._about.setdefault(_base(record["key"]), []).append(record)

    def _compiles(self, base: str) -> Iterator[Compile]:
        about = self._about[base]
        for place, start in enumerate(about):
            if start.what == "CompileStarted":
                mine = [r for r in about[place + 1 :] if r.pid == start.pid]
                yield self._compile(start, mine)

    def _compile(self, start: Record, after: list[Record]) -> Compile:
        """Join a start with what its process said of the base afterwards."""
        told = next((r for r in after if r.what in _ENDS), None)
        last = None if told is None or told.what == "CompileStarted" else told
        end = min(self._ends_of(start.pid, start.time, last), default=float("inf"))
        files = headers_of(kernel_of(start))
        made = self._headers.states(files, start.time, end)
        if last is not None and last.facts.get("entry_key") in self._states:
            made = {self._states[last["entry_key"]]}
        decided = self._flights.begun(start.pid, kernel_of(start), start.time)
        unshared = any(r.what == "NotPublished" and r.time <= end for r in after)
        ready = last is not None and last.what == "KernelReady"
        return Compile(
            start=start,
            decided=decided,
            wanted=self._headers.states(files, decided, start.time),
            made=made,
            end=end,
            failed=last if last is not None and last.what == "CompileFailed" else None,
            shared=ready and not unshared and len(made) == 1,
            unshared=unshared,
            edited=self._headers.edited(files, start.time, end),
        )

    def _ends_of(self, pid: int, begun: float, told: Record | None) -> Iterator[float]:
        if told is not None:
            yield told.time
        for record in self._breaks:
            if _broken_pid(record) == pid and record.time >= begun:
                yield record.time

    def lost_patience(self, base: str, start: Compile) -> bool:
        """Whether a compile was started at the end of a wait for a silent holder."""
        mine = [r for r in self._about[base] if r.pid == start.pid and r.time < start.time]
        last = mine[-1] if mine else None
        return last is not None and last.what == "WaitEnded" and last["outcome"] == "patience"

    def of_lost_patience(self, base: str, start: Compile) -> str:
        """Name why a compile was started at the end of a wait."""
        if self._outages.hostile(base, start.time - UNSEALED_SECONDS, start.time):
            return HOSTILE
        if self._a_process_was_silent(start):
            return PATIENCE
        # Who held the lease then may not have been able to say that it left.
        if self._outages.hung(start.pid, start.time - ANSWER_SECONDS, start.time):
            return HUNG
        return UNEXPLAINED

    def _a_process_was_silent(self, start: Compile) -> bool:
        """Whether another server was stopped, or still had been a while before."""
        return any(
            begun <= start.time and end >= start.time - SILENT_SECONDS
            for server, intervals in self._stopped.items()
            for begun, end in intervals
            if server != start.pid
        )

    def of(self, base: str, before: list[Compile], start: Compile) -> tuple[str, Compile]:
        """Name why a holder of the lease compiled, although holders before it had begun to.

        Returns:
            The cause, and the compile that should have been enough.
        """
        causes = []
        for state in sorted(start.wanted):
            same = [compile_ for compile_ in before if state in compile_.made]
            if not same:
                return EDITED, before[-1]
            # If its entry was published once, only what befell that explains anything.
            enough = [compile_ for compile_ in same if compile_.shared] or same
            causes.append((self._why(base, enough[-1], start, state), enough[-1]))
        explained = (found for found in causes if found[0] != UNEXPLAINED)
        return next(explained, causes[0] if causes else (UNEXPLAINED, before[-1]))

    def _why(self, base: str, before: Compile, start: Compile, state: State) -> str:
        """Why the same was compiled again after it."""
        if cause := self._damaged(base, before, start, state):
            return cause
        if self._was_torn(base, before):
            return TORN
        if before.unshared or (before.failed and before.edited):
            return "its headers were edited while it was compiled"
        if before.failed and (cause := self._why_forgotten(base, before, before.failed, start)):
            return cause
        return self._why_hung(base, before, start) or self._why_broken_off(base, before, start)

    def _why_hung(self, base: str, before: Compile, start: Compile) -> str:
        """What a file system that hung has to do with it, or ""."""
        if any(self._outages.hung(pid, before.time, start.time) for pid in (start.pid, before.pid)):
            return HUNG
        if self._had_no_lease(base, before) or self._had_no_lease(base, start):
            return NO_LEASE
        return ""

    def _had_no_lease(self, base: str, compiling: Compile) -> bool:
        """Whether a compile was begun without a lease because the file system had not answered."""
        mine = [r for r in self._about[base] if r.pid == compiling.pid and r.time <= compiling.time]
        told = [r for r in mine if r.what == "LocksUnavailable"]
        last = told[-1].time if told else float("-inf")
        return last >= compiling.time - ANSWER_SECONDS and self._outages.hung(
            compiling.pid, last - ANSWER_SECONDS, last
        )

    def _why_broken_off(self, base: str, before: Compile, start: Compile) -> str:
        """Why a compile was never shared, by what ended its process or its runtime."""
        for end in self._breaks:
            if self._broke_off(base, end) and _begun(end) <= start.time and end.time >= before.time:
                return "who compiled was killed" if end.what == "killed" else "who compiled closed"
        return UNEXPLAINED

    def _why_forgotten(self, base: str, before: Compile, failed: Record, start: Compile) -> str:
        """Why there was no record of a rejection, or ""."""
        # The record is as old as the file system's clock says, which ticks every few milliseconds.
        if start.time - failed.time > self._failure_seconds - 0.1:
            return "the record of its rejection expired"
        if self._was_killed(failed, before):
            return "its compiler was killed"
        others = [c.failed for c in self.compiles[base] if c.failed and c.made != before.made]
        if any(failed.time <= other.time <= start.time for other in others):
            return "another rejection was recorded in the place of its own"  # a base has one record
        return ""

    def _damaged(self, base: str, before: Compile, start: Compile, state: State) -> str:
        """What was damaged or removed that told of the compile before, or ""."""
        for key, damage in self._damage.get(base, ()):
            if damage["begun"] > start.time or damage.time < before.time:
                continue
            kind = damage.facts.get("kind")
            if kind in _DAMAGED:
                return _DAMAGED[kind]
            if self._states.get(key, state) == state:
                return "its entry was damaged or removed"
        return ""

    def _was_torn(self, base: str, before: Compile) -> bool:
        """Whether a file was damaged that who compiled was writing: an entry, or a rejection."""
        mine = [r for r in self._about[base] if r.pid == before.pid and r.time > before.time]
        told = [r.time for r in mine if r.what in {"KernelReady", "CompileFailed"}]
        end = told[0] + RECORD_SECONDS if told else float("inf")
        files = [torn for torn in self._torn if torn["server"] == before.pid]
        return any(torn["begun"] <= end and torn.time >= before.time for torn in files)

    def _was_killed(self, failed: Record, before: Compile) -> bool:
        """Whether a compile failed because its compiler was killed."""
        mine = [kill for kill in self._kills if kill["server"] == failed.pid]
        return any(k.time >= before.time and k["begun"] <= failed.time for k in mine)

    def _broke_off(self, base: str, end: Record) -> bool:
        """Whether a kill or a close ended a compile of the key before its result was shared."""
        mine = [r for r in self._about[base] if r.pid == _broken_pid(end) and r.time <= end.time]
        while mine and not mine[-1].what.startswith("Compile"):
            if mine.pop().what == "KernelReady":
                return False  # it was answered, so its compile, if there was one, was published
        if not mine:
            return False
        # No event says that the record of a rejected source was written: it takes moments.
        shared = mine[-1].what == "CompileFailed" and end.time - mine[-1].time > RECORD_SECONDS
        return not shared


def _base(key: str) -> str:
    return key[:_BASE_DIGITS]


def _broken_pid(end: Record) -> int:
    return int(end["server"]) if end.what == "killed" else end.pid


def _begun(end: Record) -> float:
    return float(end.facts.get("begun", end.time))
