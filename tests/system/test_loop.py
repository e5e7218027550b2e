"""The way from any thread into an event loop: once, in order, and never blocking anybody."""

from __future__ import annotations

import asyncio
import gc
import threading
import traceback
import weakref
from contextlib import contextmanager

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from ajit._system.loop import LoopHandle, Promise

DEADLINE_SECONDS = 60


@contextmanager
def in_threads(*functions):
    """Run each function in a new thread meanwhile; join them at the end."""
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
            assert not thread.is_alive()


def run_loop(anyio_backend, function, *args):
    """Run an async function in a new event loop, in this thread."""
    name, options = anyio_backend
    return anyio.run(function, *args, backend=name, backend_options=options)


# --- the handle of a loop ---


@pytest.mark.anyio
async def test_callback_of_another_thread_runs_in_the_loop():
    """In the loop's thread, where tasks run."""
    handle, done, seen = LoopHandle.current(), anyio.Event(), []

    def note(*args):
        seen.append((threading.get_ident(), args))
        done.set()

    with in_threads(lambda: handle.call_soon(note, 1, "two")):
        with anyio.fail_after(DEADLINE_SECONDS):
            await done.wait()

    assert seen == [(handle.thread_id, (1, "two"))]
    assert handle.thread_id == threading.get_ident()


@pytest.mark.anyio
async def test_callbacks_of_one_thread_keep_their_order():
    """First called, first run."""
    handle, done, seen = LoopHandle.current(), anyio.Event(), []

    def call_all():
        for number in range(200):
            assert handle.call_soon(seen.append, number)
        handle.call_soon(done.set)

    with in_threads(call_all):
        with anyio.fail_after(DEADLINE_SECONDS):
            await done.wait()

    assert seen == list(range(200))


@pytest.mark.anyio
async def test_callback_does_not_run_at_once():
    """Also from a task of the loop itself: soon, not now."""
    handle, seen = LoopHandle.current(), []
    assert handle.call_soon(seen.append, 1)
    assert seen == []

    with anyio.fail_after(DEADLINE_SECONDS):
        while not seen:
            await checkpoint()


@pytest.mark.anyio
async def test_handles_of_one_loop_are_equal():
    """Equal wherever they were made; tables are keyed by them."""
    one = LoopHandle.current()

    async def other():
        return LoopHandle.current()

    assert one == await other()
    assert len({one, await other()}) == 1
    assert one != "loop"


def test_handles_of_two_loops_differ(anyio_backend):
    """Two loops in two threads, alive at once."""
    barrier, handles = threading.Barrier(2), []

    async def meet():
        handles.append(LoopHandle.current())
        await anyio.to_thread.run_sync(barrier.wait, DEADLINE_SECONDS)

    with in_threads(*[lambda: run_loop(anyio_backend, meet)] * 2):
        pass

    assert len(handles) == len(set(handles)) == 2
    assert handles[0].thread_id != handles[1].thread_id


def test_no_handle_without_a_loop():
    """A thread without a loop cannot be waited in."""
    with pytest.raises(anyio.NoEventLoopError):
        LoopHandle.current()
    with pytest.raises(anyio.NoEventLoopError):
        Promise()


def test_callback_for_a_loop_that_ended_is_dropped(anyio_backend):
    """And said so, instead of raised into a thread that has nothing to do with it."""
    seen = []

    async def handle():
        return LoopHandle.current()

    ended = run_loop(anyio_backend, handle)

    assert ended.call_soon(seen.append, 1) is False
    assert seen == []


# --- promises ---


@pytest.mark.anyio
async def test_value_of_a_thread():
    """Resolved in a thread, awaited in a task."""
    promise = Promise()
    with in_threads(lambda: promise.resolve("value")), anyio.fail_after(DEADLINE_SECONDS):
        assert await promise.wait() == "value"

    assert promise.settled


@pytest.mark.anyio
async def test_error_of_a_thread():
    """Rejected in a thread, raised in a task."""
    promise = Promise()
    with (
        in_threads(lambda: promise.reject(OSError("disk"))),
        anyio.fail_after(DEADLINE_SECONDS),
        pytest.raises(OSError, match="disk"),
    ):
        await promise.wait()


@pytest.mark.anyio
async def test_none_is_a_value():
    """A promise of nothing is kept, too."""
    promise = Promise()
    promise.resolve(None)
    with anyio.fail_after(DEADLINE_SECONDS):
        assert await promise.wait() is None


@pytest.mark.anyio
async def test_promise_settled_before_anybody_waits():
    """The value stays; waiting again gives it again."""
    promise = Promise()
    assert not promise.settled
    assert promise.resolve(1)
    assert promise.settled
    with anyio.fail_after(DEADLINE_SECONDS):
        assert [await promise.wait(), await promise.wait()] == [1, 1]


@pytest.mark.anyio
async def test_any_number_of_tasks_may_wait():
    """Each of them gets the value."""
    promise, values = Promise(), []

    async def wait():
        values.append(await promise.wait())

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert values == []
            with in_threads(lambda: promise.resolve("value")):
                pass

    assert values == ["value"] * 50


@pytest.mark.anyio
async def test_promise_is_settled_once():
    """The first one counts; later ones change nothing."""
    promise = Promise()

    assert promise.resolve("first")
    assert not promise.resolve("second")
    assert not promise.reject(OSError("third"))
    with anyio.fail_after(DEADLINE_SECONDS):
        assert await promise.wait() == "first"


@pytest.mark.anyio
async def test_of_many_threads_one_settles():
    """A race of threads has one winner, and its value is the one."""
    for _ in range(20):
        promise, barrier, winners = Promise(), threading.Barrier(4), []

        def settle(number, promise=promise, barrier=barrier, winners=winners):
            barrier.wait(DEADLINE_SECONDS)
            if promise.resolve(number):
                winners.append(number)

        with in_threads(*(lambda number=number: settle(number) for number in range(4))):
            with anyio.fail_after(DEADLINE_SECONDS):
                value = await promise.wait()

        assert winners == [value]


@pytest.mark.anyio
async def test_cancelled_waiter_only_leaves():
    """The others, and the one that comes after, get the value."""
    promise, values = Promise(), []

    async def wait():
        values.append(await promise.wait())

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await promise.wait()
        assert scope.cancelled_caught
        assert not promise.settled
        promise.resolve("value")
    with anyio.fail_after(DEADLINE_SECONDS):
        values.append(await promise.wait())

    assert values == ["value", "value"]


@pytest.mark.anyio
async def test_waiter_cancelled_while_blocked_leaves_nothing_behind():
    """A later value is dropped, and nothing breaks."""
    promise = Promise()
    with anyio.move_on_after(0) as scope:
        await promise.wait()

    assert scope.cancelled_caught
    assert promise.resolve(1)
    with anyio.fail_after(DEADLINE_SECONDS):
        assert await promise.wait() == 1


@pytest.mark.anyio
async def test_error_raised_to_many_does_not_grow():
    """One error raised in fifty tasks: the traceback of the last is not fifty times as long."""
    promise = Promise()

    def fail():
        raise OSError("disk")

    try:
        fail()
    except OSError as exc:
        promise.reject(exc)
    lengths = []
    for _ in range(50):
        try:
            await promise.wait()
        except OSError as exc:
            frames = traceback.extract_tb(exc.__traceback__)
            lengths.append(len(frames))
            assert frames[-1].name == "fail", "where it happened stays in sight"

    assert len(set(lengths)) == 1


@pytest.mark.anyio
async def test_settled_promise_keeps_nothing_of_its_waiters():
    """A value that is forgotten can go."""

    class Value:
        pass

    promise, value = Promise(), Value()
    gone = weakref.ref(value)
    promise.resolve(value)
    with anyio.fail_after(DEADLINE_SECONDS):
        await promise.wait()
        await checkpoint()
    del promise, value
    gc.collect()

    assert gone() is None


def test_promise_of_a_loop_that_ended_says_that_no_task_gets_it(anyio_backend):
    """A lock that a helper thread wins after all waiters have left has to be released."""

    async def make():
        return Promise()

    promise = run_loop(anyio_backend, make)

    assert not promise.resolve(1)
    assert promise.settled


def test_promises_of_two_loops(anyio_backend):
    """One thread serves two loops; each task wakes in its own."""
    promises, ready = [], threading.Barrier(3)

    async def wait(values):
        promise = Promise()
        promises.append(promise)
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, ready.wait, DEADLINE_SECONDS)
            with anyio.fail_after(DEADLINE_SECONDS):
                values.append((await promise.wait(), threading.get_ident()))

    def serve():
        ready.wait(DEADLINE_SECONDS)
        for promise in promises:
            promise.resolve("value")

    one, other = [], []
    with in_threads(
        lambda: run_loop(anyio_backend, wait, one),
        lambda: run_loop(anyio_backend, wait, other),
        serve,
    ):
        pass

    assert one[0][0] == other[0][0] == "value"
    assert one[0][1] != other[0][1]


def test_ajit_runs_on_a_loop_that_anyio_did_not_start():
    """A server starts asyncio (or uvloop) itself."""

    async def wait():
        promise = Promise()
        with in_threads(lambda: promise.resolve("value")):
            return await asyncio.wait_for(promise.wait(), DEADLINE_SECONDS)

    assert asyncio.run(wait()) == "value"
