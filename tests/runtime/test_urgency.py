"""Warm-up gives way: an awaited kernel is compiled before one that no request awaits yet."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial

import anyio
import anyio.lowlevel
import pytest

import ajit
from ajit import events
from ajit._resolve.credits import CREDITS_PER_SLOT
from ajit._resolve.flight import flights
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
    with anyio.fail_after(60):
        while in_line(rt) < count:  # noqa: ASYNC110  # no event says so
            await anyio.sleep(0.005)


def in_line(rt: ajit.Runtime) -> int:
    """How many wait for a lease credit or, with their lease, for a slot."""
    statistics = rt.statistics()
    return statistics.credits.waiting + statistics.pool.queued


async def test_request_goes_before_warm_up(options, compiler, finished):
    """A kernel that a request awaits does not queue behind the warm-up."""
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


async def test_warm_up_job_that_a_request_awaits_moves_to_the_front(options, compiler, finished):
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
        with anyio.fail_after(60):
            while rt.statistics().pool.queued < 2:  # noqa: ASYNC110  # as above
                await anyio.sleep(0.005)
        compiler.let_go()

    assert finished == [RUNNING.name, AWAITED.name, WAITING.name]


async def test_warm_up_job_moves_to_the_front_for_a_spec_of_the_same_key(
    options, compiler, finished
):
    """Two labels, one key: a request for the one awaits the compile of the other."""
    compiler.hold()
    async with ajit.open_runtime(**options) as rt, anyio.create_task_group() as group:
        group.start_soon(rt.warmup, [RUNNING])
        await compiler.wait_started()
        group.start_soon(rt.warmup, [WAITING])
        await queued(rt, 1)
        group.start_soon(rt.warmup, [AWAITED])
        await queued(rt, 2)
        group.start_soon(rt.compile, AWAITED.with_(name="another label"))
        with anyio.fail_after(60):
            while rt.statistics().credits.waiting:  # noqa: ASYNC110  # as above
                await anyio.sleep(0.005)
        compiler.let_go()

    assert finished == [RUNNING.name, AWAITED.name, WAITING.name]


@asynccontextmanager
async def no_credits(options):
    """A runtime without a lease credit left: every request for a kernel has to queue."""
    async with ajit.open_runtime(**options | {"compile_slots": 1}) as rt:
        for _ in range(2 * CREDITS_PER_SLOT):
            await rt._kernels.services.credits.take("taken", "foreground")
        async with anyio.create_task_group() as group:
            yield rt, group
            group.cancel_scope.cancel()


async def lines(rt: ajit.Runtime, foreground: int, background: int) -> None:
    """Wait until so many stand in each of the two lines."""
    with anyio.fail_after(60):
        while in_lines(rt) != (foreground, background):  # noqa: ASYNC110  # no event says so
            await anyio.sleep(0.005)


async def members(count: int) -> None:
    """Wait until so many want the key that is in flight."""
    with anyio.fail_after(60):
        while flights.statistics().members != count:  # noqa: ASYNC110  # no event says so
            await anyio.sleep(0.005)


def in_lines(rt: ajit.Runtime) -> tuple[int, int]:
    """How many wait for a lease credit: in the foreground, and in the background."""
    found = rt.statistics().credits
    return found.waiting - found.waiting_background, found.waiting_background


async def test_request_in_any_turn_of_the_warm_ups_start_hurries_it(options):
    """Also in the turn in which its work was named and has not run yet."""
    async with no_credits(options) as (rt, group):
        for turns in range(8):
            spec = saxpy(turns + 1, arch=ARCH)
            group.start_soon(rt.warmup, [spec])
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            group.start_soon(rt.compile, spec)
            await lines(rt, turns + 1, 0)


async def test_request_hurries_what_the_work_that_it_joins_waits_for(options):
    """A warm-up joins a warm-up of the same key: a request awaits the second, and so the first."""
    async with no_credits(options) as (rt, group):
        other = AWAITED.with_(name="another label")
        group.start_soon(rt.warmup, [AWAITED])
        await lines(rt, 0, 1)
        group.start_soon(rt.warmup, [other])
        await members(2)
        group.start_soon(rt.compile, other)

        await lines(rt, 1, 0)


async def test_a_task_that_takes_over_from_a_cancelled_leader_is_as_urgent(options):
    """Two warm-ups and a request want a key; the first of them is cancelled, the second leads."""
    async with no_credits(options | {"abandoned": "cancel"}) as (rt, group):
        leader = anyio.CancelScope()

        async def warm_up():
            with leader:
                await rt.warmup([AWAITED])

        group.start_soon(warm_up)
        await lines(rt, 0, 1)
        group.start_soon(rt.warmup, [AWAITED.with_(name="second")])
        await members(2)
        group.start_soon(rt.compile, AWAITED.with_(name="third"))
        await lines(rt, 1, 0)
        await members(3)
        leader.cancel()
        await members(2)

        await lines(rt, 1, 0)


async def test_request_to_compile_again_hurries_the_first_compile(options):
    """Two pieces of work of one spec, and one lease: the one waits for that of the other."""
    async with no_credits(options) as (rt, group):
        group.start_soon(rt.warmup, [AWAITED])
        await lines(rt, 0, 1)
        group.start_soon(partial(rt.resolve, AWAITED, recache=True))

        await lines(rt, 2, 0)
