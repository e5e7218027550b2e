"""Guarded calls: calls that hang are left, take few threads, and are not made again and again."""

from __future__ import annotations

import threading
import time
from functools import partial
from types import SimpleNamespace

import anyio
import anyio.to_thread
import pytest

from ajit._system.breaker import Sign
from ajit._system.guarded_calls import LANES, PROBES, GuardedCalls, NoAnswer

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 0.3
DEADLINE_SECONDS = 20.0


class FileSystem:
    """Answers, or does not."""

    def __init__(self):
        self.answers = threading.Event()
        self.answers.set()
        self.calls = 0

    def call(self, value=None):
        """A call on it."""
        self.calls += 1
        assert self.answers.wait(DEADLINE_SECONDS)
        return value


@pytest.fixture
def files():
    """A file system; it answers at the end, so that no thread is left."""
    file_system = FileSystem()
    yield file_system
    file_system.answers.set()


@pytest.fixture
def guard(files):
    """Its calls."""
    return GuardedCalls("the disk", files.call)


async def settled(guard, threads=0):
    """Wait until so few threads are in calls."""
    with anyio.fail_after(DEADLINE_SECONDS):
        while guard.threads() > threads:  # noqa: ASYNC110  # a thread says nothing when it ends
            await anyio.sleep(0.005)


async def ask(guard, files, value=None, **more):
    """Make a call, or return None if there is no answer."""
    try:
        return await guard.call(partial(files.call, value), **{"seconds": PATIENCE_SECONDS, **more})
    except NoAnswer:
        return None


async def test_a_call_returns_or_raises_what_its_function_does(guard):
    """An error is an answer."""
    assert await guard.call(lambda: 7, seconds=1.0) == 7
    with pytest.raises(ZeroDivisionError):
        await guard.call(lambda: 1 // 0, seconds=1.0)
    blocking = partial(guard.call_blocking, lambda: 8, seconds=1.0)
    assert await anyio.to_thread.run_sync(blocking) == 8
    assert not guard.is_open


async def test_a_call_that_hangs_is_left_after_its_deadline_and_later_ones_are_not_made(
    guard, files
):
    """A probe hangs beside it, so the first is enough."""
    files.answers.clear()
    begun = time.monotonic()
    with pytest.raises(NoAnswer, match="the disk"):
        await guard.call(files.call, seconds=PATIENCE_SECONDS)
    waited, made = time.monotonic() - begun, files.calls
    begun = time.monotonic()
    for _ in range(100):
        assert await ask(guard, files, "never") is None
    refused = time.monotonic() - begun

    assert PATIENCE_SECONDS <= waited < PATIENCE_SECONDS + 2.0
    assert refused < 2.0
    assert files.calls == made == 2
    assert guard.is_open
    assert "does not answer" in guard.reason


async def test_all_that_wait_go_on_when_the_first_is_out_of_patience(guard, files):
    """A call that began later, and those in the queue, do not begin to wait anew."""
    files.answers.clear()
    begun = time.monotonic()
    async with anyio.create_task_group() as group:
        group.start_soon(partial(ask, guard, files))
        for _ in range(100):
            group.start_soon(partial(ask, guard, files, seconds=300.0))

    assert time.monotonic() - begun < 10.0


async def test_threads_that_hang_are_bounded(guard, files):
    """However many calls come, from however many turns."""
    files.answers.clear()
    for _ in range(5):
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(partial(ask, guard, files))
                group.start_soon(partial(ask, guard, files, lane="watch"))

    assert guard.threads() <= sum(limit + extra for limit, extra in LANES.values()) + PROBES


async def test_it_is_used_again_when_it_answers(guard, files):
    """What was left comes back, so the next call is a trial, and then all are made again."""
    files.answers.clear()
    await ask(guard, files)
    files.answers.set()
    await settled(guard)

    assert await ask(guard, files, "trial") == "trial"
    assert not guard.is_open


async def test_one_call_that_hangs_on_a_file_system_that_answers_is_only_counted():
    """Its thread is left, and others are not refused."""
    hangs, guard = FileSystem(), GuardedCalls("the disk", lambda: None)
    hangs.answers.clear()
    missed = await ask(guard, hangs)
    answered = await guard.call(lambda: "answer", seconds=PATIENCE_SECONDS)
    hangs.answers.set()
    await settled(guard)

    assert (missed, answered) == (None, "answer")
    assert not guard.is_open


async def test_calls_that_hang_take_no_thread_from_others():
    """As many as there is room for hang; the next one is made in their place."""
    hangs, guard = FileSystem(), GuardedCalls("the disk", lambda: None)
    hangs.answers.clear()
    async with anyio.create_task_group() as group:
        for _ in range(LANES["io"][0]):
            group.start_soon(partial(ask, guard, hangs, seconds=300.0))
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(DEADLINE_SECONDS):
            answer = await guard.call(lambda: "answer", seconds=DEADLINE_SECONDS)
        hangs.answers.set()

    assert answer == "answer"


@pytest.mark.parametrize("how", ["deadline", "cancelled"])
async def test_a_result_that_comes_late_is_given_back(guard, files, how):
    """Such as a lease that was won after its waiter had gone."""
    files.answers.clear()
    late: list = []
    given_back = threading.Event()

    def give_back(value):
        late.append(value)
        given_back.set()

    seconds = PATIENCE_SECONDS if how == "deadline" else 300.0
    with anyio.move_on_after(PATIENCE_SECONDS * 2):
        await ask(guard, files, "lease", seconds=seconds, late=give_back, linger=lambda: 0.1)
    files.answers.set()
    await anyio.to_thread.run_sync(given_back.wait, DEADLINE_SECONDS)

    assert late == ["lease"]


async def test_a_cancelled_caller_waits_for_a_call_that_is_about_to_end(guard, files):
    """Nothing is under way behind its back, unless it hangs."""
    files.answers.clear()
    with anyio.CancelScope() as scope:
        threading.Timer(0.1, files.answers.set).start()
        scope.deadline = anyio.current_time() + 0.01
        await ask(guard, files, "late", seconds=300.0)

    assert files.answers.is_set()
    await settled(guard)


async def test_a_pause_of_our_own_is_not_the_file_system_s(guard, files, monkeypatch):
    """Stopped for an hour between two looks, a process knows nothing of that hour."""
    files.answers.clear()
    real, jump = time.monotonic, [0.0]
    clock = SimpleNamespace(monotonic=lambda: real() + jump[0])
    monkeypatch.setattr("ajit._system.guarded_calls.time", clock)
    answers = []

    async def wait():
        answers.append(await ask(guard, files, "answer", seconds=5.0))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            jump[0] = 3600.0
            await anyio.sleep(1.2)  # longer than the wait's next look takes to come
            files.answers.set()

    assert answers == ["answer"]
    assert not guard.is_open


async def test_a_probe_made_beside_a_trial_that_is_missed_admits_no_other():
    """Only a part hangs, and the probe is slow: the next request does not pay at once again."""
    probed, probe_goes_on, answers = (threading.Event() for _ in range(3))

    def probe():
        probed.set()
        probe_goes_on.wait(DEADLINE_SECONDS)

    guard = GuardedCalls("the file system", probe)
    guard.note(Sign.MISSED_TWICE)
    guard.note(Sign.CAME_BACK)
    with anyio.fail_after(DEADLINE_SECONDS):
        with pytest.raises(NoAnswer):
            await guard.call(partial(answers.wait, DEADLINE_SECONDS), seconds=1.0)
        probe_goes_on.set()
        while guard._probes:  # noqa: ASYNC110  # a thread says nothing when it ends
            await anyio.sleep(0.01)
    state = repr(guard)
    answers.set()

    assert probed.is_set()
    assert "open" in state.split()
