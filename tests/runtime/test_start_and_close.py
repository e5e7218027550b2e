"""A runtime that is started and closed by hand: by any task, in any order, more than once."""

from __future__ import annotations

import asyncio
import threading

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import numpy as np
import pytest

import ajit
from tests.runtime.sources import ARCH, SAXPY, saxpy

pytestmark = pytest.mark.anyio


async def in_a_task(function, *args):
    """Run a coroutine function in a task of its own; return what it returns."""
    outcome = []

    async def task():
        outcome.append(await function(*args))

    async with anyio.create_task_group() as group:
        group.start_soon(task)
    return outcome[0]


async def test_started_runtime_serves_until_it_is_closed(with_device, nothing_left):
    """As `open_runtime`, without its block."""
    rt = await ajit.start_runtime(**with_device)
    kernel = await rt.kernel(SAXPY)
    x = await rt.device.upload(np.ones(8, np.float32))
    await kernel.launch(1, 8, 1.0, x, x, 8)
    result = np.asarray(await rt.device.download(x))
    await rt.aclose()

    assert result.tolist() == [2.0] * 8
    assert "closed" in repr(rt)
    nothing_left()
    with pytest.raises(ajit.RuntimeClosed):
        await rt.kernel(SAXPY)


async def test_any_task_closes_a_runtime_that_another_task_started(with_device, nothing_left):
    """The task that started it has ended, and the one that closes it is a third one."""
    rt = await in_a_task(lambda: ajit.start_runtime(**with_device))
    tier = (await in_a_task(lambda: rt.resolve(SAXPY))).tier
    await in_a_task(rt.aclose)

    nothing_left()
    assert tier == "compiled"


async def test_block_is_left_by_another_task_than_entered_it(options, nothing_left):
    """A fixture's teardown runs in a task of its own; the one that entered is not cancelled."""
    block = ajit.open_runtime(**options)
    rt = await in_a_task(block.__aenter__)
    await rt.resolve(SAXPY, arch=ARCH)
    await in_a_task(block.__aexit__, None, None, None)

    nothing_left()


async def test_task_that_started_a_runtime_goes_on_when_another_one_closes_it(options):
    """Closing cancels the work of the runtime, and no task of its user."""
    started, closed = anyio.Event(), anyio.Event()
    went_on = []

    async def start(runtimes):
        runtimes.append(await ajit.start_runtime(**options))
        started.set()
        await closed.wait()
        await anyio.lowlevel.checkpoint()
        went_on.append(True)

    runtimes: list[ajit.Runtime] = []
    async with anyio.create_task_group() as group:
        group.start_soon(start, runtimes)
        await started.wait()
        await runtimes[0].aclose()
        closed.set()

    assert went_on == [True]


async def test_closing_again_is_fine_and_closing_at_once_is_one_closing(options, compiler):
    """Each call returns when the runtime is closed."""
    compiler.hold()
    ends = []

    async def close():
        await rt.aclose()
        ends.append(rt.statistics().pool.workers)

    rt = await ajit.start_runtime(**options)
    async with anyio.create_task_group() as group:
        group.start_soon(_closed_under, rt, SAXPY)
        await compiler.wait_started()
        for _ in range(3):
            group.start_soon(close)
    await close()

    assert ends == [0] * 4


async def test_tasks_that_wait_for_a_kernel_are_told_when_another_one_closes(options, compiler):
    """One closes while five wait, for compiles that run and that are queued."""
    compiler.hold()
    rt = await ajit.start_runtime(**options)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for variant in range(1, 6):
                group.start_soon(_closed_under, rt, saxpy(variant))
            await compiler.wait_started(2)
            await rt.aclose()

    assert compiler.started == 2


async def test_closing_inside_the_block_leaves_nothing_for_its_end(options, nothing_left):
    """`aclose` in a block of `open_runtime` is no error, and its end none either."""
    async with ajit.open_runtime(**options) as rt:
        await rt.aclose()
        nothing_left()
        with pytest.raises(ajit.RuntimeClosed):
            await rt.compile(SAXPY, arch=ARCH)


async def test_error_of_the_block_comes_out_as_it_is(options):
    """Not as a group, although the runtime has task groups."""
    error = ValueError("of the block")
    with pytest.raises(ValueError, match="of the block") as caught:
        async with ajit.open_runtime(**options):
            raise error

    assert caught.value is error


@pytest.mark.parametrize("hops", range(0, 40, 3))
async def test_cancelling_the_start_leaves_nothing_open(with_device, hops, nothing_left):
    """At any turn of the loop while it opens: cancelled, and everything is closed again."""
    opened = []

    async def start():
        opened.append(await ajit.start_runtime(**with_device))

    async with anyio.create_task_group() as group:
        group.start_soon(start)
        for _ in range(hops):
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    for rt in opened:
        await rt.aclose()

    nothing_left()


async def test_start_that_is_cancelled_while_a_thread_imports_waits_and_closes(
    with_device, nothing_left, monkeypatch
):
    """The cancellation comes in the middle of what cannot be interrupted, for certain."""
    reading, go_on = anyio.Event(), threading.Event()
    token = anyio.lowlevel.current_token()
    outcome = []

    def load_trust(_):
        anyio.from_thread.run_sync(reading.set, token=token)
        go_on.wait(60)

    async def start():
        try:
            outcome.append(await ajit.start_runtime(**with_device))
        finally:
            nothing_left()

    monkeypatch.setattr("ajit._runtime.opening.load_trust", load_trust)
    async with anyio.create_task_group() as group:
        group.start_soon(start)
        await reading.wait()
        group.cancel_scope.cancel()
        go_on.set()

    assert outcome == []


async def test_cancelling_the_close_only_ends_the_wait(options, compiler, nothing_left):
    """The runtime goes on closing in its own task; the next call waits for its end."""
    compiler.hold()
    rt = await ajit.start_runtime(**options)
    async with anyio.create_task_group() as group:
        group.start_soon(_closed_under, rt, SAXPY)
        await compiler.wait_started()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await rt.aclose()
        with pytest.raises(ajit.RuntimeClosed):
            await rt.compile(SAXPY, arch=ARCH)
    await rt.aclose()

    assert scope.cancelled_caught
    assert rt.statistics().pool.workers == 0
    nothing_left()


async def test_leaving_the_block_by_cancellation_closes_completely(with_device, nothing_left):
    """The cancellation goes on once everything is closed, and not before."""
    async with anyio.create_task_group() as group:

        async def serve():
            try:
                async with ajit.open_runtime(**with_device) as rt:
                    await rt.kernel(SAXPY)
                    group.cancel_scope.cancel()
                    await anyio.sleep_forever()
            finally:
                assert "closed" in repr(rt)
                nothing_left()

        group.start_soon(serve)


async def test_closing_in_another_loop_is_refused(options):
    """The runtime goes on; its own loop closes it."""
    errors = []

    async def close_there():
        with pytest.raises(ajit.WrongLoop) as caught:
            await rt.aclose()
        errors.append(caught.value)

    rt = await ajit.start_runtime(**options)
    other = threading.Thread(target=lambda: anyio.run(close_there))
    other.start()
    await anyio.to_thread.run_sync(other.join)
    tier = (await rt.resolve(SAXPY, arch=ARCH)).tier
    await rt.aclose()

    assert len(errors) == 1
    assert tier == "compiled"


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"device": "cuda:9999"}, ajit.NoDevice),
        ({"cache_dir": "/dev/null"}, ajit.CacheError),
        ({"hmac_key": "short"}, ajit.SettingsError),
        ({"no_such_setting": 1}, ajit.SettingsError),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_start_that_fails_leaves_nothing_open(options, settings, error, nothing_left):
    """The error is raised where the runtime was to be started."""
    with pytest.raises(error):
        await ajit.start_runtime(**options | settings)

    nothing_left()


async def test_failed_and_handled_task_group_of_asyncio_does_not_cancel_the_close(
    with_device, anyio_backend_name, nothing_left
):
    """Python 3.11 leaves a request to cancel behind in the task that had such a group."""
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has no asyncio.TaskGroup")

    async def fail():
        raise ValueError

    async def failed_group():
        async with asyncio.TaskGroup() as group:  # waits at its end when its task fails
            group.create_task(fail())

    async with ajit.open_runtime(**with_device) as rt:
        await rt.kernel(SAXPY)
        with pytest.raises(ExceptionGroup):
            await failed_group()
        await rt.kernel(saxpy(1))
    rt = await ajit.start_runtime(**with_device)
    await rt.aclose()
    await anyio.lowlevel.checkpoint()

    nothing_left()


async def _closed_under(rt, spec):
    with pytest.raises(ajit.RuntimeClosed):
        await rt.compile(spec, arch=ARCH)
