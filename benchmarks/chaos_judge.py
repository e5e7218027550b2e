"""Reads the journals of a chaos run and decides: what was served, what was compiled twice and why.

A second compile of a key must have a cause between the compile before it and itself: its headers
were edited; its entry was damaged or removed, in the cache or while it was written; who compiled
was killed or closed its runtime; who compiles lost patience while another server was stopped; or
the record of a rejected source had expired or was damaged. One without a cause is a defect
(`benchmarks.chaos_causes` finds them).

An answer is right if it is that of contents that the kernel's headers had at some moment between
the begin and the end of the request. A request may join work that another one has begun in its
process (a flight), whose compile may have read a header before the request was made. So where the
begin of that work is known to be earlier, the answer may be as old; such answers are counted. A
compile error is right if a header was half saved in that time, or if the optional one came or went.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.chaos_causes import PATIENCE, UNEXPLAINED, Causes
from benchmarks.chaos_history import Flights, Headers, kernel_of, stopped_times
from benchmarks.chaos_journal import Record
from benchmarks.chaos_kernels import headers_of

__all__ = ["PATIENCE", "UNEXPLAINED", "Limits", "Verdict", "judge"]


class Limits(NamedTuple):
    """What a run may take.

    Attributes:
        hang_seconds: From when on a request counts as hanging.
        close_seconds: The longest close of a runtime.
        patience_seconds: Of the servers, with a silent holder, a disk, or a stopped compiler.
        failure_seconds: Life of a failure record.
    """

    hang_seconds: float
    close_seconds: float
    patience_seconds: float
    failure_seconds: float


SERVED = frozenset({"disk", "compiled", "rejected"})
NOTICED_SECONDS = 2.0
COMPILER_CRASHED = "error: CompilerCrashed"
COMPILER_BROKEN = (COMPILER_CRASHED, "error: CompilerStalled")
FAILED = "failed"
BROKE_OFF = " broke off with exit code "
"""In the message of a `CompilerCrashed`: the error did not come back when ajit asked again."""


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
        wrong: Requests with another answer than a right one.
        joined: Requests answered with what the headers held before them, from work joined.
        errors: Requests that ended with an error of which no fault was the reason.
        descriptors: Processes that ended with more open than after their first runtime.
        longest_seconds: The longest request, without the time its process was stopped.
        longest_close_seconds: The longest close of a runtime, in the same way.
        slow_closes: Those that took too long.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    compiles: int = 0
    duplicates: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)
    rejected_entries: int = 0
    hangs: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    joined: int = 0
    errors: list[str] = field(default_factory=list)
    descriptors: list[str] = field(default_factory=list)
    longest_seconds: float = 0.0
    longest_close_seconds: float = 0.0
    slow_closes: list[str] = field(default_factory=list)

    @property
    def served(self) -> int:
        """Requests that were answered as they should be."""
        return sum(count for outcome, count in self.outcomes.items() if outcome in SERVED)


def judge(records: list[Record], limits: Limits) -> Verdict:
    """Decide about a run.

    Args:
        records: All facts, in order.
        limits: What it may take.
    """
    verdict = Verdict()
    _judge_requests(verdict, records, limits)
    _judge_closes(verdict, records, limits.close_seconds)
    _judge_compiles(verdict, records, limits.failure_seconds)
    verdict.rejected_entries = sum(record.what == "EntryRejected" for record in records)
    for record in records:
        if record.what == "ended" and record["descriptors"] > record["allowed"]:
            more = record["descriptors"] - record["allowed"]
            verdict.descriptors.append(f"process {record.pid}: {more}")
    return verdict


# --- requests ---


def _judge_requests(verdict: Verdict, records: list[Record], limits: Limits) -> None:
    asked: dict[tuple[int, int], Record] = {}
    broken = _Broken(records, limits.patience_seconds)
    hang_seconds = limits.hang_seconds
    stopped = stopped_times(records)
    answers = _Answers(verdict, records)
    for record in records:
        if record.what == "asked":
            asked[record.pid, record["request"]] = record
        elif record.what == "answered":
            begun = asked.pop((record.pid, record["request"])).time
            crashed = broken.within(record.pid, begun, record.time)
            answers.count(record, begun, crashed=crashed)
            _judge_time(verdict, record.pid, (begun, record.time), stopped, hang_seconds)
    killed = {record["server"]: record["begun"] for record in records if record.what == "killed"}
    last = records[-1].time if records else 0.0
    for (pid, _), record in asked.items():
        verdict.outcomes["lost with its process"] += 1
        end = killed.get(pid, last)
        _judge_time(verdict, pid, (record.time, end), stopped, hang_seconds)


class _Broken:
    """When compilers were killed, or stopped for good, and for how long that may be unnoticed.

    A request may join a compile whose compiler is dead already, until that has been noticed. A
    stopped one is noticed when the patience has passed, in which its server was not stopped itself.
    """

    def __init__(self, records: list[Record], patience_seconds: float) -> None:
        self._noticed = {
            "compiler_killed": NOTICED_SECONDS,
            "compiler_stopped": NOTICED_SECONDS + patience_seconds,
        }
        self._all = [record for record in records if record.what in self._noticed]
        self._stopped = stopped_times(records)

    def within(self, pid: int, begun: float, end: float) -> bool:
        """Whether one of a process was, in a while or just before."""
        mine = (record for record in self._all if record["server"] == pid)
        return any(
            record["begun"] <= end
            and record.time + self._noticed[record.what] + self._frozen(pid, record.time, begun)
            >= begun
            for record in mine
        )

    def _frozen(self, pid: int, begun: float, end: float) -> float:
        times = self._stopped.get(pid, ())
        return sum(max(0.0, min(end, b) - max(begun, a)) for a, b in times)


class _Answers:
    """Decides whether answers are right, and counts them."""

    def __init__(self, verdict: Verdict, records: list[Record]) -> None:
        self._verdict = verdict
        self._headers, self._flights = Headers(records), Flights(records)

    def count(self, record: Record, begun: float, *, crashed: bool) -> None:
        """Count the answer of a request that was made at a time."""
        outcome = record["outcome"]
        kind = outcome.partition(":")[0]
        if crashed and outcome.startswith(COMPILER_BROKEN):
            kind = "compiler killed or stopped"
        elif kind == FAILED or (outcome.startswith(COMPILER_CRASHED) and BROKE_OFF in outcome):
            kind = self._of_failure(record, begun, "wrong" if kind == FAILED else kind)
        elif kind in SERVED and not self._is_right(record, begun):
            kind = "wrong"
        self._verdict.outcomes[kind] += 1
        if kind == "wrong":
            self._verdict.wrong.append(self._described(record, begun))
        if kind == "error":
            self._verdict.errors.append(f"kernel {record['kernel']}, {outcome}")

    def _is_right(self, record: Record, begun: float) -> bool:
        files = headers_of(kernel_of(record))
        state = tuple(record.facts.get("state", ()))
        if state in self._headers.states(files, begun, record.time):
            return True
        joined = self._flights.begun(record.pid, kernel_of(record), begun)
        right = state in self._headers.states(files, joined, record.time)
        self._verdict.joined += right
        return right

    def _of_failure(self, record: Record, begun: float, otherwise: str) -> str:
        files = headers_of(kernel_of(record))
        joined = self._flights.begun(record.pid, kernel_of(record), begun)
        if self._headers.may_fail(files, begun, record.time):
            return "half a header"
        if self._headers.may_fail(files, joined, record.time):
            self._verdict.joined += 1
            return "half a header"
        return otherwise

    def _described(self, record: Record, begun: float) -> str:
        held = self._headers.states(headers_of(kernel_of(record)), begun, record.time)
        return (
            f"kernel {record['kernel']}, {record['outcome']}: process {record.pid} asked at "
            f"{begun:.3f} and got {record.facts.get('state', 'none')} at {record.time:.3f}, when "
            f"the headers held {sorted(held)}"
        )


def _judge_time(
    verdict: Verdict,
    pid: int,
    span: tuple[float, float],
    stopped: dict[int, list[tuple[float, float]]],
    hang_seconds: float,
) -> None:
    seconds = _lived_seconds(pid, span, stopped)
    verdict.longest_seconds = max(verdict.longest_seconds, seconds)
    if seconds > hang_seconds:
        verdict.hangs.append(f"process {pid}: {seconds:.1f} s, asked at {span[0]:.3f}")


def _lived_seconds(
    pid: int, span: tuple[float, float], stopped: dict[int, list[tuple[float, float]]]
) -> float:
    """The length of a while, without the time in which the process was stopped."""
    begun, end = span
    frozen = sum(max(0.0, min(end, b) - max(begun, a)) for a, b in stopped.get(pid, ()))
    return end - begun - frozen


# --- closes ---


def _judge_closes(verdict: Verdict, records: list[Record], close_seconds: float) -> None:
    begun: dict[int, float] = {}
    stopped = stopped_times(records)
    for record in records:
        if record.what == "closing":
            begun[record.pid] = record.time
        elif record.what == "closed" and record.pid in begun:
            seconds = _lived_seconds(record.pid, (begun[record.pid], record.time), stopped)
            verdict.longest_close_seconds = max(verdict.longest_close_seconds, seconds)
            if seconds > close_seconds:
                verdict.slow_closes.append(
                    f"process {record.pid}: {seconds:.1f} s, begun at {begun[record.pid]:.3f}"
                )


# --- compiles ---


def _judge_compiles(verdict: Verdict, records: list[Record], failure_seconds: float) -> None:
    causes = Causes(records, failure_seconds)
    for base, compiles in causes.compiles.items():
        verdict.compiles += len(compiles)
        # Who lost patience compiles beside the lease; the others are a chain of its holders.
        impatient = [each for each in compiles if causes.lost_patience(base, each)]
        for each in impatient:
            cause = causes.of_lost_patience(base, each)
            verdict.duplicates[cause] += 1
            if cause == UNEXPLAINED:
                verdict.unexplained.append(
                    f"kernel {each['name']}, key {base}: compiled by {each.pid} at "
                    f"{each.time:.3f}, out of patience although no process was stopped"
                )
        chain = [each for each in compiles if each not in impatient]
        for place, each in enumerate(chain[1:], 1):
            cause, before = causes.of(base, chain[:place], each)
            verdict.duplicates[cause] += 1
            if cause == UNEXPLAINED:
                verdict.unexplained.append(
                    f"kernel {each['name']}, key {base}: compiled by {before.pid} at "
                    f"{before.time:.3f} and again by {each.pid} at {each.time:.3f}, of headers "
                    f"that held {sorted(each.wanted)}"
                )
    verdict.duplicates = +verdict.duplicates  # without those that are 0
