"""What boards and leases tell becomes rows: who compiles what, and who waits for whom."""

from __future__ import annotations

from ajit.dashboard.machine import MOST_WAITERS, process_rows, work_rows
from tests.dashboard.views import KEY, OTHER_KEY, a_compile, a_device, a_lease, a_view, a_wait


def test_who_waits_is_listed_below_whom_it_waits_for():
    """The longest wait first."""
    views = [
        a_view(1, compiles=(a_compile(),)),
        a_view(2, waits=(a_wait(1, waited_seconds=3.0),)),
        a_view(3, waits=(a_wait(1, waited_seconds=5.0),)),
    ]

    [work] = work_rows(views, [])

    assert (1, "compiling", "matmul") == (work.pid, work.phase, work.name)
    assert [3, 2] == [waiter.pid for waiter in work.waiters]


def test_a_compile_that_has_a_lease_is_one_row_with_both():
    """The board knows arch and reason; the lease, the beat and how many are in its lock."""
    views = [a_view(1, compiles=(a_compile(arch="sm_90a"),))]

    [work] = work_rows(views, [a_lease(1, waiters=3)])

    assert ("sm_90a", 0.4, 3) == (work.arch, work.silent_seconds, work.blocked)


def test_a_holder_of_another_machine_is_known_from_its_lease():
    """It has no board here."""
    [work] = work_rows([a_view(2, waits=(a_wait(7, host="far"),))], [a_lease(7, host="far")])

    assert (7, "far", "") == (work.pid, work.host, work.state)
    assert [2] == [waiter.pid for waiter in work.waiters]


def test_a_holder_that_only_its_waiters_know_is_shown():
    """The leases were not read yet, or cannot be."""
    [work] = work_rows([a_view(2, waits=(a_wait(7),))], [])

    assert (7, 48.0) == (work.pid, work.seconds)


def test_a_waiter_that_has_not_heard_of_the_new_holder_waits_for_it():
    """Its last beat names the one before, which was killed."""
    views = [a_view(1, state="dead", compiles=(a_compile(),)), a_view(3, waits=(a_wait(1),))]

    [work] = work_rows(views, [a_lease(2)])

    assert (2, [3]) == (work.pid, [waiter.pid for waiter in work.waiters])


def test_what_a_dead_process_was_at_is_no_compile_and_no_wait():
    """Its board says what it was last at; that is over."""
    views = [a_view(1, state="dead", compiles=(a_compile(),), waits=(a_wait(9, key=OTHER_KEY),))]

    assert [] == work_rows(views, [])


def test_the_lease_of_a_dead_process_is_none():
    """Leases are read a moment before boards. Who waited for it waits for its heir."""
    views = [
        a_view(1, state="dead"),
        a_view(2, compiles=(a_compile(),)),
        a_view(3, waits=(a_wait(1),)),
    ]

    [work] = work_rows(views, [a_lease(1)])

    assert (2, [3]) == (work.pid, [waiter.pid for waiter in work.waiters])


def test_a_dead_holder_without_an_heir_is_shown_as_dead():
    """For the moment until a waiter has the lease."""
    [work] = work_rows([a_view(1, state="dead"), a_view(3, waits=(a_wait(1),))], [])

    assert (1, "dead", "bad") == (work.pid, work.state, work.level)


def test_a_stopped_or_silent_holder_stands_out():
    """It is bad as soon as it is known, and not when patience has ended."""
    stopped = work_rows([a_view(1, state="stopped")], [a_lease(1)])
    silent = work_rows([], [a_lease(1, silent_seconds=35.0)])
    forged = work_rows([], [a_lease(1, authentic=False)])
    well = work_rows([a_view(1)], [a_lease(1)])

    assert ["bad", "bad", "bad", "busy"] == [w.level for [w] in (stopped, silent, forged, well)]


def test_the_kernel_that_most_wait_for_comes_first():
    """Then what takes longest; permits and the eviction last."""
    views = [
        a_view(1, compiles=(a_compile(),)),
        a_view(2, compiles=(a_compile(key=OTHER_KEY, name="softmax", seconds=90.0),)),
        a_view(3, waits=(a_wait(1),)),
    ]

    rows = work_rows(views, [a_lease(4, kind="permit", key="permit-0", age_seconds=1e6)])

    assert ["matmul", "softmax", "matmul"] == [row.name for row in rows]
    assert ["kernel", "kernel", "permit"] == [row.kind for row in rows]


def test_waiters_beyond_those_listed_are_counted():
    """A page of a thousand lines is of no help."""
    waiting = [a_view(pid, waits=(a_wait(1),)) for pid in range(2, MOST_WAITERS + 5)]

    [work] = work_rows(waiting, [a_lease(1)])

    assert (MOST_WAITERS, 3) == (len(work.waiters), work.more_waiters)


def test_runtimes_with_trouble_come_first():
    """A stopped one, one whose CUDA thread is stuck, one that is late, then those that work."""
    views = [
        a_view(1),
        a_view(2, compiles=(a_compile(),)),
        a_view(3, state="late"),
        a_view(4, device=a_device(stuck=True, operation="launch", since_seconds=83.0)),
        a_view(5, state="stopped"),
    ]

    rows = process_rows(views, 1000.0)

    assert [4, 5, 3, 2, 1] == [row.pid for row in rows]
    assert ["bad", "bad", "warning", "busy", "quiet"] == [row.level for row in rows]


def test_text_from_outside_is_one_short_printable_line():
    """An escape, a mark that turns text round, a name of a megabyte, a line break."""
    hostile = "\x1b[2J\u202eevil\n<script>" + "x" * 1_000_000
    views = [a_view(1, program=hostile, host=hostile, compiles=(a_compile(name=hostile),))]

    [work], [row] = work_rows(views, []), process_rows(views, 0.0)

    for text in (work.name, row.program, row.host):
        assert len(text) < 400
        assert "\u202e" not in text
        assert "\n" not in text
        assert text.startswith("\\x1b[2J\\u202eevil\\n<script>xxx")


def test_the_key_of_a_row_is_that_of_logs_and_events():
    """So it can be searched for."""
    [work] = work_rows([a_view(1, compiles=(a_compile(),))], [])

    assert KEY == work.key
