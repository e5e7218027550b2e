"""Warm-up gives way: what somebody awaits is compiled before what nobody awaits yet."""

from __future__ import annotations

import anyio
import pytest

import ajit
from ajit import events
from tests.runtime.sources import ARCH, saxpy

pytestmark = pytest.mark.anyio

RUNNING, WAITING, AWAITED = (
    saxpy(variant, name=f"saxpy {variant}", arch=ARCH) for variant in (1, 2, 3)
)


@pytest.fixture
def finished(options) -> list[str]:
    """Labels of compiled specs in the order in which they were finished; one at a time."""
    names: list[str] = []

    def subscriber(event: events.Event) -> None:
        if isinstance(event, events.CompileFinished):
            names.append(event.name)

    options |= {"compile_slots": 1, "subscribers": [subscriber]}
    return names


async def queued(rt: ajit.Runtime, count: int) -> None:
    """Wait until that many compiles are in line behind the running one."""
    with anyio.fail_after(20):
        while in_line(rt) < count:  # noqa: ASYNC110  # no event says so
            await anyio.sleep(0.005)


def in_line(rt: ajit.Runtime) -> int:
    """How many wait for a lease credit or, with their lease, for a slot."""
    statistics = rt.statistics()
    return statistics.credits.waiting + statistics.pool.queued


async def test_request_goes_before_warm_up(options, compiler, finished):
    """A kernel that somebody awaits is not behind the warm-up's queue."""
    compiler.hold()
    async with ajit.open_runtime(**options) as rt, anyio.create_task_group() as group:
        group.start_soon(rt.warmup, [RUNNING])
        await compiler.wait_started()
        group.start_soon(rt.warmup, [WAITING])
        await queued(rt, 1)
        group.start_soon(rt.compile, AWAITED)
        await queued(rt, 2)
        compiler.let_go()

    assert finished == [RUNNING.name, AWAITED.name, WAITING.name]


async def test_warm_up_job_that_somebody_awaits_moves_to_the_front(options, compiler, finished):
    """The same compile, no second one: it only changes its place."""
    compiler.hold()
    async with ajit.open_runtime(**options) as rt, anyio.create_task_group() as group:
        group.start_soon(rt.warmup, [RUNNING])
        await compiler.wait_started()
        group.start_soon(rt.warmup, [WAITING])
        await queued(rt, 1)
        group.start_soon(rt.warmup, [AWAITED])
        await queued(rt, 2)
        group.start_soon(rt.compile, AWAITED)
        with anyio.fail_after(20):
            while rt.statistics().pool.queued < 2:  # noqa: ASYNC110  # as above
                await anyio.sleep(0.005)
        compiler.let_go()

    assert finished == [RUNNING.name, AWAITED.name, WAITING.name]


async def test_warm_up_job_moves_to_the_front_for_a_spec_of_the_same_key(
    options, compiler, finished
):
    """Two labels, one key: who asks for the one awaits the compile of the other."""
    compiler.hold()
    async with ajit.open_runtime(**options) as rt, anyio.create_task_group() as group:
        group.start_soon(rt.warmup, [RUNNING])
        await compiler.wait_started()
        group.start_soon(rt.warmup, [WAITING])
        await queued(rt, 1)
        group.start_soon(rt.warmup, [AWAITED])
        await queued(rt, 2)
        group.start_soon(rt.compile, AWAITED.with_(name="another label"))
        with anyio.fail_after(20):
            while rt.statistics().credits.waiting:  # noqa: ASYNC110  # as above
                await anyio.sleep(0.005)
        compiler.let_go()

    assert finished == [RUNNING.name, AWAITED.name, WAITING.name]
