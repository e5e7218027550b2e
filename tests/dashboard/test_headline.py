"""The headline says in plain words what goes on, and what is wrong, the worst first."""

from __future__ import annotations

from ajit.dashboard.headline import RECENT_SECONDS, headline_of
from ajit.dashboard.machine import process_rows, work_rows
from ajit.dashboard.snapshot import CacheState, KvRow, Problem
from tests.dashboard.views import OTHER_KEY, a_compile, a_device, a_lease, a_view, a_wait

NOW = 5000.0


def headline(views=(), leases=(), cache_problem="", problems=(), kv=()):
    """The headline of a machine."""
    cache = CacheState(path="/cache", problem=cache_problem)
    return headline_of(
        process_rows(views, NOW), work_rows(list(views), leases), cache, problems, kv, NOW
    )


def texts(headline):
    """Its statements."""
    return [statement.text for statement in headline.problems]


def test_nothing_runs():
    """It says so, and is quiet."""
    said = headline()

    assert ("quiet", "No runtime uses this cache now.") == (said.level, said.text)


def test_boards_that_are_switched_off_are_told():
    """Else it would look as if nothing ran."""
    cache = CacheState(path="/cache")
    said = headline_of([], [], cache, (), (), NOW, boards=False)

    assert "Runtimes are not shown" in texts(said)[0]
    assert "warning" == said.level


def test_all_is_well():
    """Also in words."""
    said = headline([a_view(1), a_view(2)])

    assert ("quiet", ()) == (said.level, said.problems)
    assert "2 runtimes run; nothing compiles, nothing waits." == said.text


def test_compiles_and_who_is_waited_for():
    """How many, for whom, at what, for how long."""
    views = [
        a_view(1, compiles=(a_compile(), a_compile(key=OTHER_KEY, phase="queued"))),
        a_view(2, waits=(a_wait(1),)),
        a_view(3, waits=(a_wait(1),)),
    ]

    said = headline(views)

    expected = (
        "1 kernel compiles, 1 is queued, 2 processes wait for pid 1 on node3 "
        "(compiling matmul, 48 s)."
    )
    assert ("busy", expected) == (said.level, said.text)


def test_several_kernels_are_waited_for():
    """The one that most wait for is named, the others are counted."""
    views = [
        a_view(1, compiles=(a_compile(), a_compile(key=OTHER_KEY))),
        a_view(2, waits=(a_wait(1), a_wait(1, key=OTHER_KEY))),
        a_view(3, waits=(a_wait(1),)),
    ]

    said = headline(views)

    assert said.text.startswith("2 kernels compile, 2 processes wait for pid 1 on node3")
    assert said.text.endswith("and 1 other kernel is waited for.")


def test_a_stopped_holder_that_is_waited_for_comes_first():
    """This is why the server hangs."""
    views = [a_view(1, state="stopped", silent_seconds=35.0), a_view(2, waits=(a_wait(1),))]

    said = headline(views, [a_lease(1)])

    assert "bad" == said.level
    assert [
        "pid 1 on node3 is stopped (SIGSTOP, or a debugger) while 1 waits for matmul."
    ] == texts(said)


def test_a_silent_holder_without_a_board_is_told():
    """Of another machine, say."""
    said = headline([a_view(2, waits=(a_wait(9),))], [a_lease(9, silent_seconds=35.0)])

    assert ["pid 9 on node3 is silent for 35 s while 1 waits for matmul."] == texts(said)


def test_waiters_without_a_board_are_counted_in_the_lock():
    """As the kernel lists them."""
    said = headline([a_view(1, compiles=(a_compile(),))], [a_lease(1, waiters=2)])

    assert "1 kernel compiles, 2 processes wait for pid 1 on node3" in said.text


def test_a_process_that_was_killed_is_told():
    """Its runtime was not closed."""
    said = headline([a_view(1, state="dead", silent_seconds=12.0), a_view(2)])

    assert ["pid 1 on node3 died 12 s ago without closing its runtime."] == texts(said)
    assert "bad" == said.level


def test_a_device_that_is_stuck_or_lost_is_told():
    """With the operation, or the driver's code."""
    stuck = a_device(stuck=True, operation="launch", since_seconds=83.0)
    said = headline([a_view(1, device=stuck), a_view(2, device=a_device(lost_code=700))])

    assert [
        "The CUDA thread of pid 1 on node3 has been in launch for 83 s.",
        "The device of pid 2 on node3 is lost (driver code 700): end it.",
    ] == texts(said)


def test_a_cache_that_does_not_answer_is_told():
    """By this page's own look, and by the runtimes that go on without it."""
    said = headline([a_view(1, cache_problem="it is read-only")], cache_problem="no answer")

    assert [
        "The cache: no answer.",
        "pid 1 on node3 does not use the cache: it is read-only.",
    ] == texts(said)


def test_failures_are_told_for_some_minutes():
    """Those that are older are only listed below."""
    facts = {"kind": "CompileFailed", "key": "", "text": "", "host": ""}
    recent = Problem(unix_seconds=NOW - 9, name="gelu", **facts)
    old = Problem(unix_seconds=NOW - RECENT_SECONDS - 1, name="x", **facts)

    said = headline([a_view(1)], problems=[recent, old])

    assert ["1 compile has failed in the last five minutes: gelu."] == texts(said)
    assert "warning" == said.level


def test_a_kv_service_that_is_not_well_is_told():
    """One that is, is not."""
    rows = [KvRow(name="a", level="quiet", text="answers"), KvRow(name="b", level="bad", text="no")]

    assert ["b: no"] == texts(headline([a_view(1)], kv=rows))


def test_many_statements_are_cut():
    """The others are counted."""
    said = headline([a_view(pid, state="late", silent_seconds=3.0) for pid in range(1, 20)])

    assert 7 == len(said.problems)
    assert "and 13 more" == texts(said)[-1]
