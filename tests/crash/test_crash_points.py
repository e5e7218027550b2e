"""A process is killed, or met by an error, at each of its system calls on the cache in turn.

The calls come from a trace of a run in which nothing fails (`Trials.points`). Then, for one call
and one fault at a time, ``strace`` lets the fault happen to a process that resolves a kernel, and:

- a process that was not killed has the kernel all the same, whatever the file system said;
- a second process has it too, verified, and at once: no lease is left held, neither by the dead
  nor by one that lives on after an error;
- a third one finds the kernel on the disk: whatever the first has left, the second mends it;
- ``ajit cache verify`` finds one entry, and it is whole; no temporary file is left;
- the trace shows that the fault happened at the call that was meant: a point that was not reached
  is a failure of the test.

Every call is a point to be killed at. Of the seven errors each call meets one at least, each system
call all seven, and the calls by which a file is published or a lock is taken all seven each time;
``make crash`` tries all errors at all calls.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain

import pytest

from tests.crash.scenarios import SCENARIOS
from tests.crash.strace import KILL, Call
from tests.crash.trials import ERRORS, NOT_REACHED, Trials

AT_ONCE = 3
"""Trials at a time: on two cores, one of three processes is waiting for another."""

DECISIVE = {"write", "fsync", "linkat", "renameat", "unlinkat"}
"""The calls of publishing; those that take a lock or give it back come to them."""

# Hundreds of processes, which take two minutes on a machine that has other work as well.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def faults_for(points: list[Call], *, everything: bool) -> list[tuple[Call, str]]:
    """Pair points with faults."""
    pairs = [(point, KILL) for point in points]
    by_name: dict[str, list[Call]] = {}
    for point in points:
        by_name.setdefault(point.name, []).append(point)
    for same in by_name.values():
        for index, point in enumerate(same):
            mine = [
                error
                for number, error in enumerate(ERRORS)
                if everything or is_decisive(point) or meet(index, number, len(same))
            ]
            pairs += [(point, error) for error in mine]
    return pairs


def is_decisive(point: Call) -> bool:
    """Whether a file is published, or a lock taken or released, by this call."""
    gives_back = point.name == "close" and point.target.endswith(".lock")
    return point.name in DECISIVE or "F_SETLK" in point.target or gives_back


def meet(index: int, number: int, count: int) -> bool:
    """Share out the errors over calls of one name: each call gets one, each error is used."""
    return index % len(ERRORS) == number % min(count, len(ERRORS))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_call_may_be_the_last_or_fail(scenario, trials: Trials, all_faults, capsys):
    """Whatever happens to a process at a call on the cache, it and the next one have the kernel."""
    points = trials.points(scenario)
    pairs = faults_for(points, everything=all_faults)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        wrong = threads.map(lambda pair: trials.run(scenario, *pair), pairs)
        found = [*chain.from_iterable(wrong)]
    missed = [complaint for complaint in found if complaint.endswith(NOT_REACHED)]
    complaints = [complaint for complaint in found if complaint not in missed]
    with capsys.disabled():
        sys.stdout.write(
            f"\n  crash points: {scenario.name}: {len(points)} calls, {len(pairs)} faults, "
            f"{len(missed)} of them elsewhere\n"
        )

    assert not complaints, "\n".join(complaints)
    assert len(missed) <= scenario.most_missed * len(pairs), "\n".join(missed)


def test_every_call_of_publishing_and_locking_is_a_point(trials: Trials):
    """The points are not fewer than the protocol has calls."""
    points = {(point.name, *point.target.split()) for s in SCENARIOS for point in trials.points(s)}
    lock, temporary, reading_list = "locks/KE/KEY.lock", "tmp/TEMPORARY", "reads/KE/KEY/LIST"

    expected = {
        ("linkat", "CACHE/tmp", "CACHE/entries/KE", "TEMPORARY", "KEY.ajit"),
        ("renameat", "CACHE/tmp", "CACHE/entries/KE", "TEMPORARY", "KEY.ajit"),
        ("renameat", "CACHE/tmp", "CACHE/failures/KE", "TEMPORARY", "KEY.json"),
        ("unlinkat", "CACHE/tmp", "TEMPORARY"),
        ("write", f"CACHE/{temporary}"),
        ("fsync", f"CACHE/{temporary}"),
        ("close", f"CACHE/{temporary}"),
        ("fsync", "CACHE/entries/KE"),
        ("renameat", "CACHE/tmp", "CACHE/reads/KE/KEY", "TEMPORARY", "LIST"),
        ("fsync", "CACHE/reads/KE/KEY"),
        ("read", f"CACHE/{reading_list}"),
        ("getdents64", "CACHE/reads/KE/KEY"),
        ("fcntl", f"CACHE/{lock}", "F_SETLK"),
        ("fcntl", f"CACHE/{lock}", "F_SETLKW"),
        ("pwrite64", f"CACHE/{lock}"),
        ("close", f"CACHE/{lock}"),
    }
    assert expected <= points


def test_point_that_is_not_reached_is_a_failure(trials: Trials):
    """A fault that never happened, or happened elsewhere, is told: or nothing would be shown."""
    (scenario,) = (scenario for scenario in SCENARIOS if scenario.name == "good entry")
    points = trials.points(scenario)
    never = replace(points[-1], ordinal=1000)
    elsewhere = replace(points[-1], target="CACHE/elsewhere")

    complaints = trials.run(scenario, never, "EIO") + trials.run(scenario, elsewhere, "EIO")

    assert [complaint.endswith(NOT_REACHED) for complaint in complaints] == [True, True]
