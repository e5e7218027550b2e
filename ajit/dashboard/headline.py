"""The headline: what a tired person reads first. Pure.

It says what goes on in one sentence, and below that what is wrong, the worst first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ajit.dashboard.machine import SILENT_SECONDS, waiting
from ajit.dashboard.snapshot import WORST_FIRST, Headline, Level, Statement
from ajit.dashboard.words import counted, duration, process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ajit.dashboard.snapshot import CacheState, KvRow, Problem, ProcessRow, Work

__all__ = ["RECENT_SECONDS", "headline_of"]

RECENT_SECONDS = 300.0
"""Failures are told in the headline for so long. Pretty arbitrary."""

MOST_STATEMENTS = 6

_STOPPED = "is stopped (SIGSTOP, or a debugger)"

_NO_BOARDS = "Runtimes are not shown: they keep no boards (AJIT_BOARD=off)."

_NOT_WELL = {
    "stopped": _STOPPED + ", and has been silent for {}",
    "dead": "died {} ago without closing its runtime",
    "late": "has not given a sign for {}: its event loop is blocked, or has no CPU",
    "unknown": "has not given a sign for {}, and is in another container",
}


def headline_of(
    processes: Sequence[ProcessRow],
    work: Sequence[Work],
    cache: CacheState,
    problems: Sequence[Problem],
    kv: Sequence[KvRow],
    now_unix_seconds: float,
    *,
    boards: bool = True,
) -> Headline:
    """Put into words what the matter is.

    Args:
        processes: The runtimes.
        work: Compiles and leases, with those who wait.
        cache: The cache.
        problems: What went wrong lately.
        kv: KV stores.
        now_unix_seconds: When that was known.
        boards: Whether runtimes have boards at all.
    """
    statements = [
        *([] if boards else [Statement("warning", _NO_BOARDS)]),
        *_of_holders(work),
        *_of_devices(processes),
        *_of_cache(processes, cache),
        *_of_processes(processes, work),
        *(Statement(row.level, f"{row.name}: {row.text}") for row in kv if row.level != "quiet"),
        *_of_failures(problems, now_unix_seconds),
    ]
    statements.sort(key=lambda statement: WORST_FIRST[statement.level])
    text, level = _what_goes_on(processes, work)
    worst = min([level, *(s.level for s in statements)], key=WORST_FIRST.__getitem__)
    more = len(statements) - MOST_STATEMENTS
    if more > 0:
        statements = [*statements[:MOST_STATEMENTS], Statement("warning", f"and {more} more")]
    return Headline(level=worst, text=text, problems=tuple(statements))


def _what_goes_on(processes: Sequence[ProcessRow], work: Sequence[Work]) -> tuple[str, Level]:
    kernels = [row for row in work if row.kind == "kernel"]
    under_way = [row for row in kernels if row.state != "dead"]
    compiling = sum(row.phase != "queued" for row in under_way)
    queued = len(under_way) - compiling
    parts = []
    if compiling:
        verb = "compiles" if compiling == 1 else "compile"
        parts.append(f"{counted(compiling, 'kernel', 'kernels')} {verb}")
    if queued:
        parts.append(f"{queued} {'is' if queued == 1 else 'are'} queued")
    awaited = [row for row in kernels if waiting(row)]
    parts += [_waits(row) for row in awaited[:1]]
    if len(awaited) > 1:
        others = counted(len(awaited) - 1, "other kernel is", "other kernels are")
        parts.append(f"and {others} waited for")
    if parts:
        return f"{', '.join(parts)}.", "busy"
    alive = [row for row in processes if row.state != "dead"]
    if not alive:
        return "No runtime uses this cache now.", "quiet"
    has = "runs" if len(alive) == 1 else "run"
    return (
        f"{counted(len(alive), 'runtime', 'runtimes')} {has}; nothing compiles, nothing waits.",
        "quiet",
    )


def _waits(row: Work) -> str:
    number = waiting(row)
    verb = "waits" if number == 1 else "wait"
    doing = ", ".join(filter(None, [f"{row.phase} {row.name}".strip(), duration(row.seconds)]))
    return f"{counted(number, 'process', 'processes')} {verb} for {_who(row)} ({doing})"


def _who(row: Work) -> str:
    return process(row.pid, row.host)


def _of_holders(work: Sequence[Work]) -> Iterator[Statement]:
    for row in work:
        number = waiting(row)
        silent = row.silent_seconds or 0.0
        if row.kind != "kernel":
            continue
        what = row.name or row.key[:12]
        if not row.authentic:
            text = f"The record of {_who(row)}, which holds {what}, is not authentic."
            yield Statement("bad", text)
        elif number and (row.state == "stopped" or silent > SILENT_SECONDS):
            stands = _STOPPED if row.state == "stopped" else f"is silent for {duration(silent)}"
            wait = "waits" if number == 1 else "wait"
            yield Statement("bad", f"{_who(row)} {stands} while {number} {wait} for {what}.")


def _of_devices(processes: Sequence[ProcessRow]) -> Iterator[Statement]:
    for row in processes:
        device = row.device
        if device is None or device.level == "quiet" or row.state == "dead":
            continue
        who = process(row.pid, row.host)
        if device.lost_code:
            text = f"The device of {who} is lost (driver code {device.lost_code}): end it."
        elif device.operation:
            since = duration(device.since_seconds)
            text = f"The CUDA thread of {who} has been in {device.operation} for {since}."
        else:
            text = f"The CUDA thread of {who} does not run."
        yield Statement("bad", text)


def _of_cache(processes: Sequence[ProcessRow], cache: CacheState) -> Iterator[Statement]:
    if cache.problem:
        yield Statement("bad", f"The cache: {cache.problem}.")
    told: dict[str, str] = {}
    for row in processes:
        if row.problem and row.state != "dead":
            told.setdefault(row.problem, process(row.pid, row.host))
    for problem, who in told.items():
        yield Statement("bad", f"{who} does not use the cache: {problem}.")


def _of_processes(processes: Sequence[ProcessRow], work: Sequence[Work]) -> Iterator[Statement]:
    told = {(one.pid, one.host) for one in work if one.state == "stopped" and waiting(one)}
    for row in processes:
        if (row.pid, row.host) in told:
            continue
        words = _NOT_WELL.get(row.state)
        if words is not None:
            level: Level = "bad" if row.state in ("stopped", "dead") else "warning"
            who = process(row.pid, row.host)
            yield Statement(level, f"{who} {words.format(duration(row.silent_seconds))}.")
        elif row.queued and row.held_back:
            waits = counted(row.queued, "compile", "compiles")
            yield Statement(
                "busy", f"{waits} of {process(row.pid, row.host)} wait for: {row.held_back}."
            )


def _of_failures(problems: Sequence[Problem], now: float) -> Iterator[Statement]:
    recent = [one for one in problems if now - one.unix_seconds <= RECENT_SECONDS]
    failed = [one for one in recent if one.kind == "CompileFailed"]
    if failed:
        names = ", ".join(dict.fromkeys(one.name for one in failed if one.name))
        what = counted(len(failed), "compile has", "compiles have")
        of_what = f": {names}" if names else ""
        yield Statement("warning", f"{what} failed in the last five minutes{of_what}.")
    others = len(recent) - len(failed)
    if others:
        what = counted(others, "other thing", "other things")
        yield Statement("warning", f"{what} went wrong in the last five minutes; see below.")
