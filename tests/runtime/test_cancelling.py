"""Cancelling at every await on the way of a kernel: nothing is left, and the kernel is served.

Each scenario is run again and again, cancelled at the first await, then at the second, and so on,
until one run ends without having reached its point. `tests/runtime/sequencer.py` finds
the awaits by itself.
"""

from __future__ import annotations

import asyncio

import anyio
import pytest

import ajit
from tests.runtime.sequencer import every_await
from tests.runtime.sources import ARCH, saxpy

pytestmark = pytest.mark.anyio

SERVED_SECONDS = 60.0
"""A kernel that is not served by then waits for a lease that was not released."""

ON_THE_WAY = {
    "resolver:resolve",  # key, closure and first look at the disk
    "walk:_try_lease",
    "walk:_read_entry",
    "pool:compile",
    "walk:_put",
    "walk:_release",
}
"""Places that must be among the awaits, or the scenario does not show what it says."""


async def idle(rt):
    """Wait until nothing is being resolved or loaded."""
    while rt.statistics().in_progress:  # noqa: ASYNC110  # no event says so
        await anyio.sleep(0.001)


@pytest.mark.parametrize("who", ["first", "last", "all"])
async def test_callers_cancelled_at_any_await_leave_the_others_served(
    with_device, compiler, nothing_left, monkeypatch, who
):
    """Any waiter may leave at any await: one compile goes on, and the others get the kernel."""
    async with ajit.open_runtime(**with_device) as rt:
        for sequencer in every_await(monkeypatch, ON_THE_WAY | {"kernels:_load"}):
            spec = saxpy(sequencer.at)
            before = compiler.started
            served: list[int] = []
            scopes = [anyio.CancelScope() for _ in range(3)]
            leaving = {"first": scopes[:1], "last": scopes[2:], "all": scopes}[who]
            sequencer.act = lambda leaving=leaving: [scope.cancel() for scope in leaving]

            async def want(number, scopes=scopes, spec=spec, served=served):
                with scopes[number]:
                    await rt.kernel(spec)
                    served.append(number)

            async with anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(want, number)
            staying = [n for n in range(3) if scopes[n] not in leaving or not sequencer.acted]
            assert sorted(set(served) & set(staying)) == staying
            with anyio.fail_after(SERVED_SECONDS):
                await rt.kernel(spec)
                await idle(rt)
            assert compiler.started == before + 1, f"compiled again at {sequencer.points[-1]}"
            nothing_left(open_runtime=True)


@pytest.mark.slow  # a runtime for each await, and one more to see that it left nothing
async def test_runtime_cancelled_at_any_await_leaves_nothing(
    with_device, compiler, nothing_left, lock_peer, cache_dir, monkeypatch
):
    """Cancelled while it opens, resolves, loads or closes: nothing is left, the next one serves.

    No lease (another process says so), no flight, no temporary file, no build folder, no compiler.
    """
    counts = []
    for sequencer in every_await(monkeypatch, ON_THE_WAY | {"kernels:_load"}):
        spec = saxpy(sequencer.at)

        async def whole_life(spec=spec, points=sequencer.points):
            async with ajit.open_runtime(**with_device) as rt:
                opened = len(points)
                await rt.kernel(spec)
                served = len(points)
            counts.append((opened, served, len(points)))

        with anyio.CancelScope() as scope:
            sequencer.act = scope.cancel
            await sequencer.watch(whole_life())
        place = sequencer.points[-1]
        nothing_left()
        assert not lock_peer.held(cache_dir), f"lease held after a cancel at {place}"
        with anyio.fail_after(SERVED_SECONDS):
            async with ajit.open_runtime(**with_device) as rt:
                await rt.kernel(spec)
    opened, served, closed = counts[-1]
    assert 0 < opened < served < closed, "opening and closing have awaits as well"


async def test_runtime_cancelled_at_any_await_of_a_failing_compile_leaves_nothing(
    options, nothing_left, lock_peer, cache_dir, compiler, monkeypatch
):
    """After a compiler's crash, a cancelled request releases what it holds as well."""
    compiler.die_by("KILL")
    for sequencer in every_await(monkeypatch, {"pool:compile", "walk:_release"}):
        spec = saxpy(sequencer.at)

        async def whole_life(spec=spec):
            async with ajit.open_runtime(**options) as rt:
                with pytest.raises(ajit.CompilerCrashed):
                    await rt.compile(spec, arch=ARCH)

        with anyio.CancelScope() as scope:
            sequencer.act = scope.cancel
            await sequencer.watch(whole_life())
        nothing_left()
        assert not lock_peer.held(cache_dir)


async def test_cancelled_only_caller_does_not_cancel_the_compile(options, compiler, nothing_left):
    """The last waiter has left, and the compile is finished and cached all the same."""
    compiler.hold()

    async with ajit.open_runtime(**options) as rt:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: rt.compile(saxpy(), arch=ARCH))
            await compiler.wait_started()
            group.cancel_scope.cancel()
        in_progress = rt.statistics().in_progress
        compiler.let_go()
        with anyio.fail_after(SERVED_SECONDS):
            await idle(rt)
        resolution = await rt.resolve(saxpy(), arch=ARCH)

    assert in_progress == 1
    assert resolution.tier == "disk"
    assert compiler.started == 1


async def test_timeout_of_asyncio_itself_only_leaves(anyio_backend, options, compiler):
    """The cancellation of asyncio, which knows nothing of anyio's scopes, is as harmless."""
    if anyio_backend[0] != "asyncio":
        pytest.skip("trio has no second kind of cancellation")
    compiler.hold()
    limits: list[asyncio.Timeout] = []

    async def compile_within(rt):
        async with asyncio.timeout(None) as limit:
            limits.append(limit)
            await rt.compile(saxpy(), arch=ARCH)

    async with ajit.open_runtime(**options) as rt:
        compiling = asyncio.create_task(compile_within(rt))
        await compiler.wait_started()
        limits[0].reschedule(0.0)  # of the loop's clock: it is over
        with pytest.raises(TimeoutError):
            await compiling
        in_progress = rt.statistics().in_progress
        compiler.let_go()
        artifact = await rt.compile(saxpy(), arch=ARCH)

    assert in_progress == 1
    assert artifact.name == "saxpy"
    assert compiler.started == 1


async def test_cancelled_warmup_keeps_what_was_made_ready(options, compiler):
    """Cancelling a warm-up stops its queue; what is compiled stays compiled."""
    specs = [saxpy(n, arch=ARCH) for n in range(1, 30)]
    done = []

    async with ajit.open_runtime(**{**options, "compile_slots": 1}) as rt:
        with anyio.CancelScope() as scope:

            def on_progress(event):
                done.append(event.key)
                scope.cancel()

            await rt.warmup(specs, on_progress=on_progress)
        resolution = await rt.resolve(specs[0])

    assert scope.cancelled_caught
    assert done == [resolution.artifact.base]
    assert resolution.tier == "disk"
    assert compiler.started <= 2
