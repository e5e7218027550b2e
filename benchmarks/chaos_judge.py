"""Reads the journals of a chaos run and decides: what was served, what was compiled twice and why.

A second compile of a key must have a cause between the compile before it and itself: its entry was
damaged or removed, in the cache or while it was written; who compiled was killed or closed its
runtime; who compiles lost patience while another server was stopped; or the record of a rejected
source had expired or was damaged. One without a cause is a defect.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from benchmarks.chaos_journal import Record

__all__ = ["Verdict", "judge"]

UNEXPLAINED = "no cause"
PATIENCE = "patience with a silent holder ended"
SERVED = frozenset({"disk", "compiled", "rejected"})
FAILURE_DAMAGED = "the record of its rejection was damaged"
RECORD_SECONDS = 1.0
SILENT_SECONDS = 2.0
"""How long after a holder goes on its silence may still be noticed: its next beat, and a look."""
NOTICED_SECONDS = 2.0
COMPILER_CRASHED = "error: CompilerCrashed"


@dataclass(kw_only=True)
class Verdict:
    """What the journals say.

    Attributes:
        outcomes: Requests by their outcome.
        compiles: Compiles that were started.
        duplicates: Second and later compiles of a key, by cause.
        unexplained: Those without one, with what is needed to find out.
        rejected_entries: Entries met that did not verify.
        hangs: Requests that took too long on a process that lived and ran.
        wrong: Requests with another answer than the right one.
        errors: Requests that ended with an error of which no fault was the reason.
        descriptors: Processes that ended with more open than after their first runtime.
        longest_seconds: The longest request, without the time its process was stopped.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    compiles: int = 0
    duplicates: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)
    rejected_entries: int = 0
    hangs: list[str] = field(default_factory=list)
    wrong: int = 0
    errors: list[str] = field(default_factory=list)
    descriptors: list[str] = field(default_factory=list)
    longest_seconds: float = 0.0

    @property
    def served(self) -> int:
        """Requests that were answered as they should be."""
        return sum(count for outcome, count in self.outcomes.items() if outcome in SERVED)


def judge(records: list[Record], *, hang_seconds: float, failure_seconds: float) -> Verdict:
    """Decide about a run.

    Args:
        records: All facts, in order.
        hang_seconds: From when on a request counts as hanging.
        failure_seconds: Life of a failure record.
    """
    verdict = Verdict()
    _judge_requests(verdict, records, hang_seconds)
    _judge_compiles(verdict, records, failure_seconds)
    verdict.rejected_entries = sum(record.what == "EntryRejected" for record in records)
    for record in records:
        if record.what == "ended" and record["descriptors"] > record["allowed"]:
            more = record["descriptors"] - record["allowed"]
            verdict.descriptors.append(f"process {record.pid}: {more}")
    return verdict


# --- requests ---


def _judge_requests(verdict: Verdict, records: list[Record], hang_seconds: float) -> None:
    asked: dict[tuple[int, int], Record] = {}
    kills = [record for record in records if record.what == "compiler_killed"]
    stopped = _intervals(records)
    for record in records:
        if record.what == "asked":
            asked[record.pid, record["request"]] = record
        elif record.what == "answered":
            begun = asked.pop((record.pid, record["request"])).time
            _count(verdict, record, crashed=_crashed(kills, record.pid, begun, record.time))
            _judge_time(verdict, record.pid, (begun, record.time), stopped, hang_seconds)
    killed = {record["server"]: record["begun"] for record in records if record.what == "killed"}
    last = records[-1].time if records else 0.0
    for (pid, _), record in asked.items():
        verdict.outcomes["lost with its process"] += 1
        end = killed.get(pid, last)
        _judge_time(verdict, pid, (record.time, end), stopped, hang_seconds)


def _crashed(kills: list[Record], pid: int, begun: float, end: float) -> bool:
    """Whether a compiler of a process was killed in a while, or just before.

    A request may join a compile whose compiler is dead already, until that has been noticed.
    """
    begun -= NOTICED_SECONDS
    mine = (kill for kill in kills if kill["server"] == pid)
    return any(kill.time >= begun and kill["begun"] <= end for kill in mine)


def _count(verdict: Verdict, record: Record, *, crashed: bool) -> None:
    outcome = record["outcome"]
    kind = outcome.partition(":")[0]
    if crashed and outcome.startswith(COMPILER_CRASHED):
        kind = "compiler killed"
    verdict.outcomes[kind] += 1
    verdict.wrong += kind == "wrong"
    if kind == "error":
        verdict.errors.append(f"kernel {record['kernel']}, {outcome}")


def _judge_time(
    verdict: Verdict,
    pid: int,
    span: tuple[float, float],
    stopped: dict[int, list[tuple[float, float]]],
    hang_seconds: float,
) -> None:
    begun, end = span
    frozen = sum(max(0.0, min(end, b) - max(begun, a)) for a, b in stopped.get(pid, ()))
    seconds = end - begun - frozen
    verdict.longest_seconds = max(verdict.longest_seconds, seconds)
    if seconds > hang_seconds:
        verdict.hangs.append(f"process {pid}: {seconds:.1f} s, asked at {begun:.3f}")


def _intervals(records: list[Record]) -> dict[int, list[tuple[float, float]]]:
    """When each process was stopped."""
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


# --- compiles ---


def _judge_compiles(verdict: Verdict, records: list[Record], failure_seconds: float) -> None:
    causes = _Causes(records, failure_seconds)
    for key, starts in causes.starts.items():
        verdict.compiles += len(starts)
        # Who lost patience compiles beside the lease; the others are a chain of its holders.
        impatient = [start for start in starts if causes.lost_patience(key, start)]
        for start in impatient:
            silent = causes.a_process_was_silent(start)
            verdict.duplicates[PATIENCE if silent else UNEXPLAINED] += 1
            if not silent:
                verdict.unexplained.append(
                    f"kernel {start['name']}, key {key[:16]}: compiled by {start.pid} at "
                    f"{start.time:.3f}, out of patience although no process was stopped"
                )
        for before, start in pairwise(start for start in starts if start not in impatient):
            cause = causes.of(key, before, start)
            verdict.duplicates[cause] += 1
            if cause == UNEXPLAINED:
                verdict.unexplained.append(
                    f"kernel {start['name']}, key {key[:16]}: compiled by {before.pid} at "
                    f"{before.time:.3f} and again by {start.pid} at {start.time:.3f}"
                )
    verdict.duplicates = +verdict.duplicates  # without those that are 0


class _Causes:
    """What can explain that a key was compiled again."""

    def __init__(self, records: list[Record], failure_seconds: float) -> None:
        self.starts: dict[str, list[Record]] = {}
        self._failure_seconds = failure_seconds
        self._about: dict[str, list[Record]] = {}  # a key's events, of all processes
        self._breaks: list[Record] = []  # ends of compiles by kill or close
        self._kills: list[Record] = []  # of compilers
        self._damage: dict[str, list[Record]] = {}
        self._torn: list[Record] = []  # temporary files, by their owner
        self._stopped = _intervals(records)
        for record in records:
            self._sort(record)

    def _sort(self, record: Record) -> None:
        if record.what in {"killed", "closing"}:
            self._breaks.append(record)
        elif record.what == "compiler_killed":
            self._kills.append(record)
        elif record.what == "temporary_damaged":
            self._torn.append(record)
        elif record.what == "damaged":
            for key in record["keys"]:
                self._damage.setdefault(key, []).append(record)
        elif "key" in record.facts:
            self._about.setdefault(record["key"], []).append(record)
            if record.what == "CompileStarted":
                self.starts.setdefault(record["key"], []).append(record)

    def lost_patience(self, key: str, start: Record) -> bool:
        """Whether a compile was started at the end of a wait for a silent holder."""
        mine = [r for r in self._about[key] if r.pid == start.pid and r.time < start.time]
        last = mine[-1] if mine else None
        return last is not None and last.what == "WaitEnded" and last["outcome"] == "patience"

    def a_process_was_silent(self, start: Record) -> bool:
        """Whether another server was stopped, or still had been a while before."""
        return any(
            begun <= start.time and end >= start.time - SILENT_SECONDS
            for server, intervals in self._stopped.items()
            for begun, end in intervals
            if server != start.pid
        )

    def of(self, key: str, before: Record, start: Record) -> str:
        """Name why a holder of the lease compiled, although a holder before it had begun to."""
        for damage in self._damage.get(key, ()):
            if damage["begun"] <= start.time and damage.time >= before.time:
                of_failure = damage.facts.get("kind") == "failure"
                return FAILURE_DAMAGED if of_failure else "its entry was damaged or removed"
        if self._was_torn(key, before):
            return "its file was damaged while it was written"
        failed = [r for r in self._about[key] if r.what == "CompileFailed" and r.time < start.time]
        # The record is as old as the file system's clock says, which ticks every few milliseconds.
        if failed and start.time - failed[-1].time > self._failure_seconds - 0.1:
            return "the record of its rejection expired"
        if failed and failed[-1].time >= before.time and self._was_killed(failed[-1], before):
            return "its compiler was killed"
        for end in self._breaks:
            if self._broke_off(key, end) and _begun(end) <= start.time and end.time >= before.time:
                return "who compiled was killed" if end.what == "killed" else "who compiled closed"
        return UNEXPLAINED

    def _was_torn(self, key: str, before: Record) -> bool:
        """Whether a file was damaged that who compiled was writing: an entry, or a rejection."""
        mine = [r for r in self._about[key] if r.pid == before.pid and r.time > before.time]
        told = [r.time for r in mine if r.what in {"KernelReady", "CompileFailed"}]
        end = told[0] + RECORD_SECONDS if told else float("inf")
        files = [torn for torn in self._torn if torn["server"] == before.pid]
        return any(torn["begun"] <= end and torn.time >= before.time for torn in files)

    def _was_killed(self, failed: Record, before: Record) -> bool:
        """Whether a compile failed because its compiler was killed."""
        mine = [kill for kill in self._kills if kill["server"] == failed.pid]
        return any(k.time >= before.time and k["begun"] <= failed.time for k in mine)

    def _broke_off(self, key: str, end: Record) -> bool:
        """Whether a kill or a close ended a compile of the key before its result was shared."""
        pid = end["server"] if end.what == "killed" else end.pid
        mine = [r for r in self._about[key] if r.pid == pid and r.time <= end.time]
        while mine and not mine[-1].what.startswith("Compile"):
            if mine.pop().what == "KernelReady":
                return False  # it was answered, so its compile, if there was one, was published
        if not mine:
            return False
        # No event says that the record of a rejected source was written: it takes moments.
        shared = mine[-1].what == "CompileFailed" and end.time - mine[-1].time > RECORD_SECONDS
        return not shared


def _begun(end: Record) -> float:
    return float(end.facts.get("begun", end.time))
