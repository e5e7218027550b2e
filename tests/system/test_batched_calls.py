"""Batched calls: one hop to a thread for all calls of one turn, and each gets its own outcome."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import anyio
import anyio.to_thread
import pytest

from ajit._system.batched_calls import BATCH_CALLS, BatchedCalls
from ajit._system.shared_tasks import SharedTasks

pytestmark = pytest.mark.anyio

DEADLINE_SECONDS = 20.0


class Threads:
    """Makes hops, and counts them."""

    def __init__(self):
        self.hops = 0

    async def __call__(self, function, *args):
        """Run it in a thread."""
        self.hops += 1
        return await anyio.to_thread.run_sync(partial(function, *args))


@pytest.fixture
def threads():
    """The counter of hops to threads."""
    return Threads()


@pytest.fixture
async def group():
    """Where batches run."""
    async with anyio.create_task_group() as tasks:
        yield tasks


@pytest.fixture
def calls(group, threads):
    """The batched calls of one event loop."""
    return BatchedCalls(SharedTasks(group, cancel_abandoned=True), threads)


async def gathered(calls, functions):
    """Ask for all in one turn; what came of each: a value or an error."""
    outcomes = [None] * len(functions)

    async def ask(place):
        try:
            outcomes[place] = await calls.call(lambda _: functions[place]())
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
        group.start_soon(calls.call, first)
        await anyio.to_thread.run_sync(arrived.wait, DEADLINE_SECONDS)
        second = await calls.call(lambda _: "second")
        let_go.set()

    assert second == "second"
    assert threads.hops == 2


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_a_cancelled_caller_only_leaves(calls, threads, cancelled):
    """The first caller of a batch as well as the second."""
    answers = []
    scopes = [anyio.CancelScope(), anyio.CancelScope()]

    async def ask(place):
        with scopes[place]:
            # Both are asked for in this turn; the cancellation comes before the batch runs.
            if place == 1:
                scopes[cancelled].cancel()
            answers.append(await calls.call(lambda _: place))

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
        await calls.call(lambda _: called.set())
    await anyio.to_thread.run_sync(called.wait, DEADLINE_SECONDS)

    assert called.is_set()
    assert threads.hops == 1


async def test_a_caller_ended_by_asyncio_itself_leaves_the_others_served(
    anyio_backend, calls, threads
):
    """`Task.cancel` goes through shields, but the batch is no caller's task."""
    if anyio_backend[0] != "asyncio":
        pytest.skip("trio has no second kind of cancellation")
    first = asyncio.ensure_future(calls.call(lambda _: "first"))
    other = asyncio.ensure_future(calls.call(lambda _: "other"))
    asyncio.get_running_loop().call_soon(first.cancel)
    with anyio.fail_after(DEADLINE_SECONDS):
        answer = await other
    with pytest.raises(asyncio.CancelledError):
        await first

    assert answer == "other"
    assert threads.hops == 1


async def test_without_a_thread_every_call_fails(group):
    """A batch that cannot run fails all its calls, each with its own copy of the error."""

    async def no_thread(function, *args):
        raise RuntimeError("can't start new thread")

    outcomes = await gathered(BatchedCalls(SharedTasks(group), no_thread), [lambda: 1, lambda: 2])

    assert [str(outcome) for outcome in outcomes] == ["can't start new thread"] * 2
    assert outcomes[0] is not outcomes[1]


async def test_calls_of_a_batch_share_what_they_find_out(calls):
    """A later batch begins anew: what was so then may not be so now."""
    seen = []

    def look(moment):
        seen.append(dict(moment))
        moment["found"] = len(seen)

    async with anyio.create_task_group() as group:
        group.start_soon(calls.call, look)
        group.start_soon(calls.call, look)
    await calls.call(look)

    assert seen == [{}, {"found": 1}, {}]
