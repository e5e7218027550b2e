"""Visits to a thread: one for all that ask in one turn of the loop, and each gets what it asked."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import anyio
import anyio.to_thread
import pytest

from ajit._system.batched_calls import VISIT_CALLS, Visits

pytestmark = pytest.mark.anyio

DEADLINE_SECONDS = 20.0


class Threads:
    """Makes visits, and counts them."""

    def __init__(self):
        self.visits = 0

    async def __call__(self, function, *args):
        """Run it in a thread."""
        self.visits += 1
        return await anyio.to_thread.run_sync(partial(function, *args))


@pytest.fixture
def threads():
    """What visits are made with."""
    return Threads()


@pytest.fixture
def visits(threads):
    """Visits of one event loop."""
    return Visits(threads)


async def gathered(visits, functions):
    """Ask for all in one turn; what came of each: a value or an error."""
    outcomes = [None] * len(functions)

    async def ask(place):
        try:
            outcomes[place] = await visits.call(functions[place])
        except Exception as exc:  # noqa: BLE001  # whatever came of it
            outcomes[place] = exc

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as group:
            for place in range(len(functions)):
                group.start_soon(ask, place)
    return outcomes


@pytest.mark.parametrize(("calls", "expected"), [(1, 1), (VISIT_CALLS, 1), (VISIT_CALLS + 1, 2)])
async def test_what_is_asked_in_one_turn_shares_visits(visits, threads, calls, expected):
    """A visit takes as many as there is room for."""
    outcomes = await gathered(visits, [partial(pow, 2, n) for n in range(calls)])

    assert outcomes == [2**n for n in range(calls)]
    assert threads.visits == expected


async def test_one_that_fails_fails_alone(visits, threads):
    """Each has its own value or its own error."""
    outcomes = await gathered(visits, [partial(int, "1"), partial(int, "one"), partial(int, "2")])

    assert (outcomes[0], outcomes[2]) == (1, 2)
    assert isinstance(outcomes[1], ValueError)
    assert threads.visits == 1


async def test_who_comes_when_the_visit_has_left_begins_another(visits, threads):
    """A visit under way is not joined: its calls are being made."""
    arrived, let_go = threading.Event(), threading.Event()

    def first():
        arrived.set()
        return let_go.wait(DEADLINE_SECONDS)

    async with anyio.create_task_group() as group:
        group.start_soon(visits.call, first)
        await anyio.to_thread.run_sync(arrived.wait, DEADLINE_SECONDS)
        second = await visits.call(lambda: "second")
        let_go.set()

    assert second == "second"
    assert threads.visits == 2


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_one_that_is_cancelled_only_leaves(visits, threads, cancelled):
    """Whoever it is, the one who leads or one who came along."""
    answers = []
    scopes = [anyio.CancelScope(), anyio.CancelScope()]

    async def ask(place):
        with scopes[place]:
            # Both are asked for in this turn; the cancellation comes before the visit leaves.
            if place == 1:
                scopes[cancelled].cancel()
            answers.append(await visits.call(lambda: place))

    outcome = {0: [1], 1: [0]}[cancelled]
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(ask, 0)
            group.start_soon(ask, 1)

    # Who leads has its answer in hand when the thread comes back.
    assert [answer for answer in answers if answer != cancelled] == outcome
    assert threads.visits == 1


async def test_what_one_who_is_cancelled_already_asks_for_is_done(visits, threads):
    """It is a call to a thread like any other: once begun, it is made."""
    called = threading.Event()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await visits.call(called.set)

    assert called.is_set()
    assert threads.visits == 1


async def test_a_leader_ended_by_asyncio_itself_leaves_nobody_behind(
    anyio_backend, visits, threads
):
    """`Task.cancel` goes through shields; the others ask again."""
    if anyio_backend[0] != "asyncio":
        pytest.skip("trio has no second kind of cancellation")
    leader = asyncio.ensure_future(visits.call(lambda: "leader"))
    other = asyncio.ensure_future(visits.call(lambda: "other"))
    asyncio.get_running_loop().call_soon(leader.cancel)
    with anyio.fail_after(DEADLINE_SECONDS):
        answer = await other
    with pytest.raises(asyncio.CancelledError):
        await leader

    assert answer == "other"


async def test_no_thread_is_everybodys_error(threads):
    """A visit that cannot be made fails all who asked, each with a copy of its own."""

    async def no_thread(function, *args):
        raise RuntimeError("can't start new thread")

    outcomes = await gathered(Visits(no_thread), [lambda: 1, lambda: 2])

    assert [str(outcome) for outcome in outcomes] == ["can't start new thread"] * 2
    assert outcomes[0] is not outcomes[1]
