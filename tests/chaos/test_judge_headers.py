"""The judge of a chaos run with edited headers: stale answers and needless compiles are found."""

from __future__ import annotations

import pytest

from benchmarks.chaos_headers import GONE, HALF, THERE
from benchmarks.chaos_journal import Record
from benchmarks.chaos_judge import UNEXPLAINED, Limits, judge
from benchmarks.chaos_kernels import headers_of

BASE = "ab" * 32
DRIVER, ONE, OTHER = 1, 100, 200
QUICK, REAL = 8, 0
"""Kernels whose headers are in the same directory; the second one looks for the optional one."""

EDITED = "its headers were edited"

LIMITS = Limits(hang_seconds=30, close_seconds=3, patience_seconds=3, failure_seconds=5)


def record(time, pid, what, **facts):
    """One line of a journal."""
    return Record(time, pid, what, facts)


def edit(begun, label, file="0/value.h"):
    """One edit of a header, which takes a tenth of a second."""
    return record(begun + 0.1, DRIVER, "edited", file=file, label=label, begun=begun)


def event(time, pid, what, **facts):
    """One event of ajit about the quick kernel."""
    return record(time, pid, what, name=str(QUICK), **({"key": BASE} | facts))


def entry_of(label):
    """The key of the quick kernel's entry for a content of its header."""
    return BASE[:16] + label * 48


def request(begun, end, outcome="disk", *, pid=ONE, kernel=QUICK, **facts):
    """A request and its answer."""
    facts |= {"request": begun, "kernel": kernel}
    return [
        record(begun, pid, "asked", request=begun, kernel=kernel),
        record(end, pid, "answered", outcome=outcome, **facts),
    ]


def answered(begun, end, *state, **facts):
    """A request that was answered with what it is for some contents of the headers."""
    return request(begun, end, state=list(state), key=entry_of(state[0]), **facts)


def compiled(begun, label, *, pid=ONE, unshared=False):
    """A request of the quick kernel that compiled it, for one content of its header."""
    told = [event(begun + 0.55, pid, "NotPublished")] if unshared else []
    return [
        *answered(begun - 0.1, begun + 0.7, label, outcome="compiled", pid=pid),
        event(begun, pid, "CompileStarted"),
        *told,
        event(begun + 0.6, pid, "KernelReady", entry_key=entry_of(label)),
    ]


def judged(*records):
    """The verdict on some records, beside the first contents of the headers."""
    first = [edit(-10, "0"), edit(-9, GONE, "0/optional.h")]
    ordered = sorted([*first, *records], key=lambda record: record.time)
    return judge(ordered, LIMITS)


def test_kernels_of_these_tests_read_what_the_tests_say():
    """One reads one header, the other one two."""
    assert headers_of(QUICK) == ("0/value.h",)
    assert headers_of(REAL) == ("0/value.h", "0/optional.h")


def test_stale_answer_is_wrong():
    """What a header held before the request was made is no answer to it."""
    verdict = judged(edit(1, "1"), *answered(2, 3, "0"))

    assert len(verdict.wrong) == 1
    assert verdict.served == 0


def test_answer_of_what_comes_later_is_wrong():
    """A content that the header gets after the answer was not read by anything."""
    assert len(judged(*answered(2, 3, "1"), edit(4, "1")).wrong) == 1


@pytest.mark.parametrize("label", ["0", "1", "2"])
def test_answer_of_any_content_during_the_request_is_right(label):
    """The header is edited twice while the request waits."""
    verdict = judged(edit(1, "1"), edit(2, "2"), *answered(0, 3, label))

    assert verdict.wrong == []
    assert verdict.served == 1


def test_content_that_was_put_back_is_right_again():
    """The same bytes as two edits before."""
    verdict = judged(edit(1, "1"), edit(2, "0"), *answered(3, 4, "0"))

    assert verdict.wrong == []


@pytest.mark.parametrize(("state", "wrong"), [(THERE, 0), (GONE, 1)])
def test_optional_header_is_judged_with_the_other(state, wrong):
    """It has come before the request."""
    verdict = judged(edit(1, THERE, "0/optional.h"), *answered(2, 3, "0", state, kernel=REAL))

    assert len(verdict.wrong) == wrong


@pytest.mark.parametrize(
    "outcome",
    ["failed: expected ')'", "error: CompilerCrashed: c++ broke off with exit code 1 for"],
)
@pytest.mark.parametrize(("begun", "right"), [(1.5, True), (3, False)])
def test_error_of_a_half_header_is_right_until_it_is_mended(outcome, begun, right):
    """After that it is believed no more."""
    verdict = judged(edit(1, HALF), edit(2, "1"), *request(begun, 4, outcome))

    assert verdict.outcomes["half a header"] == right
    assert (verdict.wrong + verdict.errors == []) == right


def test_answer_of_joined_work_may_be_as_old_as_that():
    """The request that began the work was given up; the work went on, and read the old header."""
    verdict = judged(
        *request(0, 0.5, "cancelled"), edit(1, "1"), *answered(2, 3, "0", outcome="compiled")
    )

    assert verdict.wrong == []
    assert verdict.joined == 1


@pytest.mark.parametrize(
    "end",
    [
        event(1.5, ONE, "KernelReady"),
        record(1.5, ONE, "closed"),
        answered(1.2, 1.5, "0")[1],
    ],
    ids=["ready", "closed", "answered"],
)
def test_work_that_has_ended_excuses_no_stale_answer(end):
    """A request that is made after that looks for itself."""
    asked = record(end.time - 1, ONE, "asked", request=end.facts.get("request", 0.3), kernel=QUICK)
    verdict = judged(asked, end, edit(1, "1"), *answered(2, 3, "0", outcome="compiled"))

    assert len(verdict.wrong) == 1


def test_compile_of_a_new_content_is_explained():
    """The header was edited in between."""
    verdict = judged(*compiled(1, "0"), edit(3, "1"), *compiled(4, "1", pid=OTHER))

    assert verdict.duplicates == {EDITED: 1}
    assert verdict.unexplained == []


def test_compile_of_a_content_that_was_compiled_before_is_found():
    """The header was edited and put back: its entry is there, and was to be found."""
    edits = [edit(3, "1"), edit(5, "0")]
    verdict = judged(*compiled(1, "0"), *compiled(4, "1"), *edits, *compiled(6, "0", pid=OTHER))

    assert verdict.duplicates == {EDITED: 1, UNEXPLAINED: 1}
    assert len(verdict.unexplained) == 1


def test_edit_of_another_header_explains_no_compile():
    """Neither one of another directory, nor one that the kernel does not look for."""
    edits = [edit(3, "1", "1/value.h"), edit(3.5, THERE, "0/optional.h")]
    verdict = judged(*compiled(1, "0"), *edits, *compiled(4, "0", pid=OTHER))

    assert verdict.duplicates == {UNEXPLAINED: 1}


def test_touching_a_header_explains_no_compile():
    """It holds what it held."""
    verdict = judged(*compiled(1, "0"), edit(3, "0"), *compiled(4, "0", pid=OTHER))

    assert verdict.duplicates == {UNEXPLAINED: 1}


@pytest.mark.parametrize("label", ["0", "1"])
def test_damage_explains_a_compile_of_that_entry_only(label):
    """The entry for another content of the header is another file."""
    verdict = judged(
        *compiled(1, "0"),
        edit(3, "1"),
        *compiled(4, "1"),
        record(5.1, DRIVER, "damaged", kind="damage", keys=[entry_of(label)], begun=5),
        *compiled(6, "1"),
    )

    cause = "its entry was damaged or removed" if label == "1" else UNEXPLAINED
    assert verdict.duplicates == {EDITED: 1, cause: 1}


def test_compile_of_a_header_that_changed_meanwhile_is_no_cause_twice():
    """It was not published, so the next one compiles. What the next one publishes is enough."""
    first = [edit(0.4, "0"), *compiled(0.5, "0", unshared=True)]
    verdict = judged(*first, *compiled(3, "0", pid=OTHER), *compiled(5, "0"))

    assert verdict.duplicates == {
        "its headers were edited while it was compiled": 1,
        UNEXPLAINED: 1,
    }


def test_damaged_list_explains_a_compile():
    """Without it nothing leads to the entry."""
    damage = record(3, DRIVER, "damaged", kind="list", keys=[BASE], begun=2.9)
    verdict = judged(*compiled(1, "0"), damage, *compiled(4, "0", pid=OTHER))

    assert verdict.duplicates == {"a reading list was damaged or removed": 1}


@pytest.mark.parametrize("met", [False, True], ids=["not met", "met"])
def test_bad_entry_that_stays_explains_no_compile(met):
    """Its list was damaged, too. A compile looks at what is there before it is published."""
    happened = [event(3.95, OTHER, "EntryRejected")] if met else []
    verdict = judged(
        *compiled(1, "0"),
        record(3, DRIVER, "damaged", kind="damage", keys=[entry_of("0")], begun=2.9),
        record(3.2, DRIVER, "damaged", kind="list", keys=[BASE], begun=3.1),
        *happened,
        event(5.95, ONE, "EntryRejected"),
        *compiled(4, "0", pid=OTHER),
        *compiled(6, "0", pid=ONE),
    )

    assert len(verdict.unexplained) == 1


def test_compile_that_was_not_published_excuses_none_of_what_was_published_before():
    """The header was mended while its half was to be compiled; the whole one's entry was there."""
    unshared = compiled(3.2, "0", unshared=True)
    verdict = judged(
        *compiled(1, "0"), edit(2, HALF), *unshared, edit(3.5, "0"), *compiled(6, "0", pid=OTHER)
    )

    assert verdict.duplicates == {EDITED: 1, UNEXPLAINED: 1}
