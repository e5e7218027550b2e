"""Batched calls: one hop to a thread for all calls of one turn, and each gets its own outcome."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial

import anyio
import anyio.to_thread
import pytest

from ajit._system.batched_calls import BATCH_CALLS, BatchedCalls
from ajit._system.breaker import Sign
from ajit._system.guarded_calls import GuardedCalls
from ajit._system.lanes import Call, Lane
from ajit._system.shared_tasks import SharedTasks

pytestmark = pytest.mark.anyio

DEADLINE_SECONDS = 20.0
PATIENCE_SECONDS = 300.0


class CountedCalls(GuardedCalls):
    """Counts the hops to threads."""

    def __init__(self):
        super().__init__("the file system", lambda: None)
        self.hops = 0

    def start(self, call, lane):
        """Give it a thread."""
        self.hops += 1
        super().start(call, lane)


@pytest.fixture
def threads():
    """The counter of hops to threads."""
    return CountedCalls()


@pytest.fixture
async def group():
    """Where batches run."""
    async with anyio.create_task_group() as tasks:
        yield tasks


@pytest.fixture
def calls(group, threads):
    """The batched calls of one event loop."""
    return BatchedCalls(SharedTasks(group, cancel_abandoned=True), threads, PATIENCE_SECONDS)


async def ask_for(calls, look):
    """Ask for a look for which there is nothing to prepare."""
    return (await calls.call(lambda: None, lambda _, moment: look(moment)))[1]


async def gathered(calls, functions):
    """Ask for all in one turn; what came of each: a value or an error."""
    outcomes = [None] * len(functions)

    async def ask(place):
        try:
            outcomes[place] = await ask_for(calls, lambda _: functions[place]())
        except Exception as exc:  # noqa: BLE001  # whatever came of it
            outcomes[place] = exc

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as group:
            for place in range(len(functions)):
                group.start_soon(ask, place)
    return outcomes


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (BATCH_CALLS, 1), (BATCH_CALLS + 1, 2)])
async def test_calls_of_one_turn_share_hops(calls, threads, count, expected):
    """A batch takes as many as there is room for."""
    outcomes = await gathered(calls, [partial(pow, 2, n) for n in range(count)])

    assert outcomes == [2**n for n in range(count)]
    assert threads.hops == expected


async def test_one_that_fails_fails_alone(calls, threads):
    """Each has its own value or its own error."""
    outcomes = await gathered(calls, [partial(int, "1"), partial(int, "one"), partial(int, "2")])

    assert (outcomes[0], outcomes[2]) == (1, 2)
    assert isinstance(outcomes[1], ValueError)
    assert threads.hops == 1


async def test_a_call_during_a_hop_begins_another_batch(calls, threads):
    """A batch under way is not joined: its calls are being made."""
    arrived, let_go = threading.Event(), threading.Event()

    def first(_moment):
        arrived.set()
        return let_go.wait(DEADLINE_SECONDS)

    async with anyio.create_task_group() as group:
        group.start_soon(ask_for, calls, first)
        await anyio.to_thread.run_sync(arrived.wait, DEADLINE_SECONDS)
        second = await ask_for(calls, lambda _: "second")
        let_go.set()

    assert second == "second"
    assert threads.hops == 2


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_a_cancelled_caller_only_leaves(calls, threads, cancelled):
    """The first caller of a batch as well as the second."""
    answers = []
    scopes = [anyio.CancelScope(), anyio.CancelScope()]
    left = threading.Event()

    def answer(place):
        assert left.wait(DEADLINE_SECONDS)
        return place

    async def ask(place):
        with scopes[place] as scope:
            # Both are asked for in this turn; the cancellation comes before the batch ends.
            if place == 1:
                scopes[cancelled].cancel()
            answers.append(await ask_for(calls, lambda _: answer(place)))
        if scope.cancelled_caught:
            left.set()

    outcome = {0: [1], 1: [0]}[cancelled]
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(ask, 0)
            group.start_soon(ask, 1)

    assert answers == outcome
    assert threads.hops == 1


async def test_a_call_of_a_cancelled_task_is_made(calls, threads):
    """Cancelling leaves the call to the batch, which makes it."""
    called = threading.Event()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await ask_for(calls, lambda _: called.set())
    await anyio.to_thread.run_sync(called.wait, DEADLINE_SECONDS)

    assert called.is_set()
    assert threads.hops == 1


async def test_a_caller_ended_by_asyncio_itself_leaves_the_others_served(
    anyio_backend, calls, threads
):
    """`Task.cancel` goes through shields, but the batch is no caller's task."""
    if anyio_backend[0] != "asyncio":
        pytest.skip("trio has no second kind of cancellation")
    first = asyncio.ensure_future(ask_for(calls, lambda _: "first"))
    other = asyncio.ensure_future(ask_for(calls, lambda _: "other"))
    asyncio.get_running_loop().call_soon(first.cancel)
    with anyio.fail_after(DEADLINE_SECONDS):
        answer = await other
    with pytest.raises(asyncio.CancelledError):
        await first

    assert answer == "other"
    assert threads.hops == 1


async def test_without_a_thread_every_call_fails(group):
    """A batch that cannot run fails all its calls, each with its own copy of the error."""

    class NoThreads(CountedCalls):
        def start(self, call, lane):
            call.fail(RuntimeError("can't start new thread"))

    calls = BatchedCalls(SharedTasks(group), NoThreads(), PATIENCE_SECONDS)
    outcomes = await gathered(calls, [lambda: 1, lambda: 2])

    assert [str(outcome) for outcome in outcomes] == ["can't start new thread"] * 2
    assert outcomes[0] is not outcomes[1]


async def test_calls_of_a_batch_share_what_they_find_out(calls):
    """A later batch begins anew: what was so then may not be so now."""
    seen = []

    def look(moment):
        seen.append(dict(moment))
        moment["found"] = len(seen)

    async with anyio.create_task_group() as group:
        group.start_soon(ask_for, calls, look)
        group.start_soon(ask_for, calls, look)
    await ask_for(calls, look)

    assert seen == [{}, {"found": 1}, {}]


async def test_a_look_that_hangs_takes_no_time_of_those_behind_it(group):
    """They move to another thread; the one that hangs is left after its patience."""
    calls = BatchedCalls(SharedTasks(group), CountedCalls(), 1.5)
    answers = threading.Event()
    found = {}

    def look(place):
        return answers.wait(DEADLINE_SECONDS) if place in (3, 5) else place

    async def ask(place):
        begun = time.monotonic()
        value = await ask_for(calls, lambda _: look(place))
        found[place] = (value, time.monotonic() - begun)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as asking:
            for place in range(BATCH_CALLS):
                asking.start_soon(ask, place)
    answers.set()

    hung = [found.pop(3), found.pop(5)]
    assert [value for value, _ in hung] == [None, None]
    assert {place: value for place, (value, _) in found.items()} == {n: n for n in found}
    assert max(seconds for _, seconds in found.values()) < 1.5
    assert max(seconds for _, seconds in hung) < 5.0


async def test_what_is_prepared_may_take_its_time(group):
    """Only the look has a deadline: finding a compiler takes as long as it takes."""
    calls = BatchedCalls(SharedTasks(group), CountedCalls(), 0.3)
    let_go = threading.Event()
    threading.Timer(1.0, let_go.set).start()

    with anyio.fail_after(DEADLINE_SECONDS):
        answer = await calls.call(
            lambda: let_go.wait(DEADLINE_SECONDS), lambda prepared, _: ("found", prepared)
        )

    assert answer == (True, ("found", True))


async def test_without_answers_things_are_prepared_and_no_look_is_made(group):
    """The file system does not answer: what is asked for is known all the same."""
    guard = CountedCalls()
    guard.note(Sign.MISSED_TWICE)
    calls = BatchedCalls(SharedTasks(group), guard, 300.0)
    looks: list = []

    with anyio.fail_after(DEADLINE_SECONDS):
        answer = await calls.call(lambda: "prepared", lambda prepared, _: looks.append(prepared))

    assert answer == ("prepared", None)
    assert looks == []


@pytest.fixture
def full_lane():
    """A guard whose only thread is in a call that hangs, and what lets that go on."""
    guard, answers = CountedCalls(), threading.Event()
    guard.lanes["io"] = Lane(1, 0)
    hung = Call(partial(answers.wait, DEADLINE_SECONDS), lambda: None)
    guard.lanes["io"].start(hung)
    yield guard, answers
    answers.set()


async def test_a_trial_that_gets_no_thread_is_missed_and_its_caller_goes_on(group, full_lane):
    """The probe answers, and every thread hangs: the breaker opens again, and is tried later."""
    guard, answers = full_lane
    guard.note(Sign.MISSED_TWICE)
    guard.note(Sign.CAME_BACK)
    calls = BatchedCalls(SharedTasks(group), guard, 0.6)

    with anyio.fail_after(DEADLINE_SECONDS):
        trial = await calls.call(lambda: "prepared", lambda *_: "found")
        state = repr(guard)
        answers.set()
        guard.note(Sign.CAME_BACK)
        after = await calls.call(lambda: "prepared", lambda *_: "found")

    assert trial == ("prepared", None)
    assert "open" in state.split()
    assert after == ("prepared", "found")
    assert not guard.is_open


async def test_looks_queued_behind_hung_ones_cost_their_patience(group, full_lane):
    """Nothing moves in the queue: that is silence like that of a look, for each that queues."""
    guard, _ = full_lane
    calls = BatchedCalls(SharedTasks(group), guard, 0.6)
    missed = []

    async def ask():
        answer = await calls.call(lambda: "prepared", lambda *_: "found", missed=missed.append)
        assert answer == ("prepared", None)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as asking:
            for _ in range(3):
                asking.start_soon(ask)

    guard.lanes["io"].pump()

    assert len(missed) == 3
    assert min(missed) >= 0.6
    assert repr(guard.lanes["io"]) == "<Lane 1 busy, 0 queued>"


async def test_a_queue_that_moves_is_waited_for(group, full_lane):
    """Calls ahead of it end one after the other: no silence, however long it takes in all."""
    guard, answers = full_lane
    lane = guard.lanes["io"]
    for _ in range(10):
        lane.start(Call(partial(time.sleep, 0.12), lambda: None))
    answers.set()
    calls = BatchedCalls(SharedTasks(group), guard, 0.6)

    with anyio.fail_after(DEADLINE_SECONDS):
        answer = await calls.call(lambda: "prepared", lambda *_: "found")

    assert answer == ("prepared", "found")


async def test_a_trial_whose_preparation_takes_long_lets_another_try(group):
    """A compiler that hangs while it is looked for does not keep the cache out of use."""
    guard = CountedCalls()
    guard.note(Sign.MISSED_TWICE)
    guard.note(Sign.CAME_BACK)
    calls = BatchedCalls(SharedTasks(group), guard, 0.6)
    let_go = threading.Event()
    answers = []

    async def hang():
        prepared = partial(let_go.wait, DEADLINE_SECONDS)
        answers.append(await calls.call(prepared, lambda *_: "found"))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as asking:
            asking.start_soon(hang)
            while "trying" not in repr(guard).split():  # noqa: ASYNC110  # nothing tells it
                await anyio.sleep(0.01)
            while "trying" in repr(guard).split():  # noqa: ASYNC110  # nothing tells it
                await anyio.sleep(0.01)
            another = await calls.call(lambda: "prepared", lambda *_: "found")
            let_go.set()

    assert another == ("prepared", "found")
    assert answers == [(True, None)]
    assert not guard.is_open
