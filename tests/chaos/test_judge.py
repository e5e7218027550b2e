"""The judge of a chaos run: every cause is recognised, and what has none is found."""

from __future__ import annotations

import pytest

from benchmarks.chaos_causes import HOSTILE, HUNG
from benchmarks.chaos_journal import Record
from benchmarks.chaos_judge import PATIENCE, UNEXPLAINED, Limits, judge

KEY = "ab" * 32
LIMITS = Limits(hang_seconds=30, close_seconds=3, patience_seconds=3, failure_seconds=5)
DRIVER, ONE, OTHER = 1, 100, 200


def record(time, pid, what, **facts):
    """One line of a journal."""
    return Record(time, pid, what, facts)


def event(time, pid, what, **facts):
    """One event of ajit about the key."""
    return record(time, pid, what, name="7", key=KEY, **facts)


def compile_of(pid, begun, *, answered=True):
    """The events of a compile that succeeds."""
    end = [event(begun + 0.6, pid, "KernelReady")] if answered else []
    return [
        event(begun, pid, "CompileStarted"),
        event(begun + 0.5, pid, "CompileFinished"),
        *end,
    ]


def judged(*records):
    """The verdict on some records."""
    ordered = sorted(records, key=lambda record: record.time)
    return judge(ordered, LIMITS)


CAUSES = {
    "its entry was damaged or removed": [
        *compile_of(ONE, 1),
        record(4.1, DRIVER, "damaged", keys=[KEY], begun=4.0),
    ],
    "its file was damaged while it was written": [
        *compile_of(ONE, 1),
        record(1.55, DRIVER, "temporary_damaged", server=ONE, begun=1.54),
    ],
    "the record of its rejection was damaged": [
        event(7, ONE, "CompileStarted"),
        event(7.5, ONE, "CompileFailed"),
        record(8.1, DRIVER, "damaged", kind="failure", keys=[KEY], begun=8.0),
    ],
    PATIENCE: [
        event(1, ONE, "CompileStarted"),
        record(5, DRIVER, "stopped", server=ONE, begun=4.9),
        record(9.5, DRIVER, "continued", server=ONE),
        event(9, OTHER, "WaitEnded", outcome="patience"),
    ],
    HOSTILE: [
        *compile_of(ONE, 1),
        record(6, DRIVER, "hostile_took", name=KEY, begun=5.9),
        event(9.5, OTHER, "WaitEnded", outcome="patience"),
        record(11, DRIVER, "hostile_left", name=KEY),
    ],
    HUNG: [
        *compile_of(ONE, 1),
        record(9, DRIVER, "disk_hung", begun=8.9),
        record(14, DRIVER, "disk_back"),
    ],
    "who compiled was killed": [
        event(1, ONE, "CompileStarted"),
        record(2.1, DRIVER, "killed", server=ONE, begun=2.0),
    ],
    "who compiled closed": [event(1, ONE, "CompileStarted"), record(2, ONE, "closing")],
    "its compiler was killed": [
        event(6.5, ONE, "CompileStarted"),
        record(7.1, DRIVER, "compiler_killed", server=ONE, begun=7.0),
        event(7.2, ONE, "CompileFailed"),
    ],
    "the record of its rejection expired": [
        event(1, ONE, "CompileStarted"),
        event(2, ONE, "CompileFailed"),
    ],
}


@pytest.mark.parametrize("cause", CAUSES)
def test_second_compile_with_a_cause_is_explained(cause):
    """Each of the faults explains one compile more."""
    verdict = judged(*CAUSES[cause], *compile_of(OTHER, 10))

    assert verdict.compiles == 2
    assert verdict.duplicates == {cause: 1}
    assert verdict.unexplained == []


@pytest.mark.parametrize(
    "innocent",
    [
        [],
        [record(4, DRIVER, "damaged", keys=["cd" * 32], begun=4)],
        [record(0.2, DRIVER, "damaged", keys=[KEY], begun=0.1)],
        [record(4, DRIVER, "killed", server=ONE, begun=4)],
        [record(4, ONE, "closing")],
        [event(4, OTHER, "WaitEnded", outcome="entry")],
        [record(1.55, DRIVER, "temporary_damaged", server=OTHER, begun=1.54)],
        [record(4, DRIVER, "temporary_damaged", server=ONE, begun=4)],
        [record(4, DRIVER, "record_damaged", file=KEY, begun=4)],
        [event(9, OTHER, "WaitEnded", outcome="patience")],
        [record(0.4, DRIVER, "disk_hung", begun=0.3), record(0.9, DRIVER, "disk_back")],
        [record(4, 300, "CacheUnresponsive"), record(5, 300, "CacheResponsive")],
        [
            record(6, DRIVER, "hostile_took", name="cd" * 32, begun=5.9),
            record(9, OTHER, "WaitEnded", outcome="patience", name="7", key=KEY),
            record(11, DRIVER, "hostile_left", name="cd" * 32),
        ],
    ],
    ids=[
        "nothing",
        "another key",
        "before both",
        "killed later",
        "closed later",
        "other wait",
        "another's file",
        "file of another compile",
        "holder record",
        "patience without a holder",
        "the disk hung before both",
        "the disk hung for another process",
        "a hostile member had another lease",
    ],
)
def test_second_compile_without_a_cause_is_found(innocent):
    """Events of another key, or before, or after the compile was done, explain nothing."""
    verdict = judged(*compile_of(ONE, 1), *innocent, *compile_of(OTHER, 10))

    assert verdict.duplicates == {UNEXPLAINED: 1}
    assert len(verdict.unexplained) == 1


def test_kill_between_compile_and_publish_is_a_cause():
    """The process that compiled had no answer yet, so its entry may not be on the disk."""
    kill = record(1.7, DRIVER, "killed", server=ONE, begun=1.55)
    verdict = judged(*compile_of(ONE, 1, answered=False), kill, *compile_of(OTHER, 10))

    assert verdict.duplicates == {"who compiled was killed": 1}


def test_time_in_which_a_process_was_stopped_is_no_hang():
    """A request of 40 seconds, 39 of them stopped, has taken one."""
    verdict = judged(
        record(1, ONE, "asked", request=0, kernel=7),
        record(1.5, DRIVER, "stopped", server=ONE, begun=1.5),
        record(40.5, DRIVER, "continued", server=ONE),
        record(41, ONE, "answered", request=0, kernel=7, outcome="disk"),
    )

    assert verdict.hangs == []
    assert verdict.longest_seconds == pytest.approx(1.0)
    assert verdict.served == 1


def test_a_close_that_takes_long_is_found():
    """Whatever the file system does; the time in which the process was stopped does not count."""
    quick = judged(record(1, ONE, "closing"), record(3, ONE, "closed"))
    slow = judged(record(1, ONE, "closing"), record(5, ONE, "closed"))
    stopped = judged(
        record(1, ONE, "closing"),
        record(1.5, DRIVER, "stopped", server=ONE, begun=1.5),
        record(9.5, DRIVER, "continued", server=ONE),
        record(10, ONE, "closed"),
    )

    assert (quick.slow_closes, stopped.slow_closes) == ([], [])
    assert len(slow.slow_closes) == 1
    assert slow.longest_close_seconds == 4


def test_request_that_is_never_answered_is_a_hang():
    """It counts up to the end of the run, or to the death of its process."""
    asked = record(1, ONE, "asked", request=0, kernel=7)
    ended = record(40, DRIVER, "continued", server=OTHER)
    killed = record(2.1, DRIVER, "killed", server=ONE, begun=2.0)

    assert len(judged(asked, ended).hangs) == 1
    assert judged(asked, killed, ended).hangs == []


@pytest.mark.parametrize(("server", "asked", "errors"), [(ONE, 1, 0), (ONE, 20, 1), (OTHER, 1, 1)])
def test_stall_of_a_compiler_is_no_error_where_it_was_stopped(server, asked, errors):
    """It is told to who asked until the patience has passed."""
    verdict = judged(
        record(2.1, DRIVER, "compiler_stopped", server=server, begun=2.0),
        record(asked, ONE, "asked", request=0, kernel=7),
        record(asked + 5, ONE, "answered", request=0, kernel=7, outcome="error: CompilerStalled: "),
    )

    assert len(verdict.errors) == errors


@pytest.mark.parametrize(("server", "errors"), [(ONE, 0), (OTHER, 1)])
def test_crash_of_a_compiler_is_no_error_where_it_was_killed(server, errors):
    """A killed compiler is told to who asked; to anybody else it would be a defect."""
    verdict = judged(
        record(1, ONE, "asked", request=0, kernel=7),
        record(2.1, DRIVER, "compiler_killed", server=server, begun=2.0),
        record(3, ONE, "answered", request=0, kernel=7, outcome="error: CompilerCrashed: SIGKILL"),
    )

    assert len(verdict.errors) == errors
    assert verdict.served == 0


def test_wrong_answers_and_errors_are_found():
    """Neither counts as served."""
    verdict = judged(
        record(1, ONE, "asked", request=0, kernel=7),
        record(2, ONE, "answered", request=0, kernel=7, outcome="wrong"),
        record(3, ONE, "asked", request=1, kernel=7),
        record(4, ONE, "answered", request=1, kernel=7, outcome="error: CacheError: gone"),
        record(5, ONE, "ended", descriptors=12, allowed=10),
    )

    assert len(verdict.wrong) == 1
    assert verdict.errors == ["kernel 7, error: CacheError: gone"]
    assert verdict.descriptors == [f"process {ONE}: 2"]
    assert verdict.served == 0


def test_holder_that_broke_off_explains_the_next_holder_and_not_the_impatient():
    """One loses patience just after the silent holder has closed: the lease goes to another."""
    verdict = judged(
        event(1, ONE, "CompileStarted"),
        record(4, DRIVER, "stopped", server=ONE, begun=4),
        record(8, DRIVER, "continued", server=ONE),
        record(8.5, ONE, "closing"),
        event(9, OTHER, "WaitEnded", outcome="patience"),
        *compile_of(OTHER, 9.1),
        *compile_of(300, 9.2),
        *compile_of(400, 20),
    )

    assert verdict.duplicates == {PATIENCE: 1, "who compiled closed": 1, UNEXPLAINED: 1}
