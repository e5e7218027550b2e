"""Lease credits: few leases at a time, in the order of urgency, and no task hangs on one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

import ajit
from ajit import events
from ajit._cache.leases.table import LeaseTable
from ajit._resolve.credits import CREDITS_PER_SLOT, Credits
from tests.runtime.sequencer import every_await
from tests.runtime.sources import ARCH, base_of, saxpy

pytestmark = pytest.mark.anyio

SLOTS = 2
TOTAL = 2 * SLOTS * CREDITS_PER_SLOT
BACKGROUND = SLOTS * CREDITS_PER_SLOT
WAIT_SECONDS = 60.0


async def until(condition) -> None:
    """Wait until something holds that sets no event."""
    with anyio.fail_after(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110  # see above
            await anyio.sleep(0.005)


async def served(count: int, take) -> list[int]:
    """Let tasks take credits in order, and end them all; return who had got one, in order."""
    served: list[int] = []

    async def want(number: int) -> None:
        await take(number)
        served.append(number)

    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(want, number)
            await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    return served


def asked(rt: ajit.Runtime) -> int:
    """How many resolutions have a credit or wait for one."""
    given = rt.statistics().credits
    return given.held + given.waiting


def in_use() -> int:
    """Descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


# --- credits by themselves ---


async def test_there_are_a_few_for_each_slot_and_half_of_them_for_the_background():
    """Background work never takes what a request needs."""
    bank = Credits(SLOTS)

    background = await served(TOTAL, lambda n: bank.take(f"b{n}", "background"))
    foreground = await served(TOTAL, lambda n: bank.take(f"f{n}", "foreground"))

    assert len(background) == BACKGROUND
    assert len(foreground) == TOTAL - BACKGROUND
    assert bank.statistics().held == TOTAL
    assert bank.statistics().waiting == 0


async def test_foreground_goes_first_and_promoted_work_goes_with_it():
    """First come, first served within each; a promoted one goes to the end of the foreground."""
    bank = Credits(1)
    total = bank.statistics().total
    for _ in range(total):
        await bank.take("before", "foreground")
    served: list[str] = []

    async def want(key, priority):
        await bank.take(key, priority)
        served.append(key)

    async with anyio.create_task_group() as group:
        for key, priority in [
            ("b1", "background"), ("b2", "background"), ("f1", "foreground"), ("f2", "foreground"),
        ]:  # fmt: skip
            group.start_soon(want, key, priority)
            await anyio.wait_all_tasks_blocked()
        waiting = bank.statistics()
        bank.promote("b2")
        # Three for the foreground; the background needs as many more as it may not have.
        for _ in range(total + CREDITS_PER_SLOT):
            bank.give_back()
            await anyio.wait_all_tasks_blocked()

    assert (waiting.waiting, waiting.waiting_background) == (4, 2)
    assert served == ["f1", "f2", "b2", "b1"]


async def test_promoted_work_gets_at_once_what_the_background_may_not_have():
    """The background has all that it may, and the foreground's half is free."""
    bank = Credits(SLOTS)
    for _ in range(BACKGROUND):
        await bank.take("before", "background")

    async with anyio.create_task_group() as group:
        group.start_soon(bank.take, "hurried", "background")
        await anyio.wait_all_tasks_blocked()
        assert bank.statistics().waiting == 1
        bank.promote("hurried")

    assert bank.statistics().held == BACKGROUND + 1


async def test_cancelled_in_line_leaves_no_place_behind():
    """The next credit goes to who still waits."""
    bank = Credits(1)
    for _ in range(bank.statistics().total):
        await bank.take("before", "foreground")

    assert await served(3, lambda n: bank.take(f"f{n}", "foreground")) == []

    assert bank.statistics().waiting == 0
    bank.give_back()
    with anyio.fail_after(WAIT_SECONDS):
        await bank.take("next", "foreground")


async def test_cancelled_in_the_moment_of_the_grant_passes_the_credit_on():
    """Granted and cancelled in one turn of the loop: the credit goes to the next in line."""
    bank = Credits(1)
    total = bank.statistics().total
    for _ in range(total):
        await bank.take("before", "foreground")
    ended: list[str] = []

    async def want(key, scope):
        with scope:
            await bank.take(key, "foreground")
            ended.append(key)

    async with anyio.create_task_group() as group:
        leaving, staying = anyio.CancelScope(), anyio.CancelScope()
        group.start_soon(want, "leaving", leaving)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(want, "staying", staying)
        await anyio.wait_all_tasks_blocked()
        leaving.cancel()
        bank.give_back()  # its task had no turn yet, and still stands first in line
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()

    assert ended == ["staying"]
    assert bank.statistics().held == total


# --- credits in a runtime ---


async def test_a_thousand_kernels_take_few_leases_and_descriptors(options, compiler):
    """Only running and next compiles are leased; the other keys are left to other nodes."""
    kernels = 1000
    compiler.hold()
    async with ajit.open_runtime(**options) as rt, anyio.create_task_group() as group:
        before = in_use()
        for number in range(1, kernels + 1):
            group.start_soon(rt.compile, saxpy(number, arch=ARCH))
        await until(lambda: rt.statistics().credits.waiting == kernels - TOTAL)
        await until(lambda: rt.statistics().pool.running == SLOTS)
        leases, descriptors = LeaseTable.statistics().held, in_use() - before
        given = rt.statistics().credits
        group.cancel_scope.cancel()

    permits = SLOTS  # leases as well
    assert leases == TOTAL + permits
    # A lock file each, and what compilers need: pipes, folders.
    assert descriptors < TOTAL + 40
    assert (given.total, given.held) == (TOTAL, TOTAL)


async def test_lease_held_elsewhere_costs_no_credit(options, compiler, lock_peer, cache_dir):
    """More keys than there are credits are held elsewhere: a key without a holder is compiled."""
    specs = [saxpy(number, arch=ARCH) for number in range(1, TOTAL + 5)]
    async with ajit.open_runtime(**options) as rt, anyio.create_task_group() as group:
        keys = [(await anyio.to_thread.run_sync(base_of, rt, spec)).hex for spec in specs]
        locks = [cache_dir / "locks" / key[:2] / f"{key}.lock" for key in keys]
        for lock in locks:
            lock_peer.hold(lock)
        for spec in specs:
            group.start_soon(rt.compile, spec)
        await until(lambda: len(rt.statistics().waiting) == len(specs))
        waiting = rt.statistics().credits
        with anyio.fail_after(WAIT_SECONDS):
            other = await rt.resolve(saxpy(100, arch=ARCH))
        group.cancel_scope.cancel()
    for lock in locks:
        lock_peer.drop(lock)

    assert (waiting.held, waiting.waiting) == (0, 0)
    assert other.tier == "compiled"


async def test_warm_up_goes_on_to_keys_without_a_holder(options, lock_peer, cache_dir):
    """The first specs of a warm-up are held elsewhere, more than it works on at a time."""
    held, free = ([saxpy(n, arch=ARCH) for n in numbers] for numbers in (range(1, 11), (11, 12)))
    ready: list[str] = []
    async with ajit.open_runtime(**options) as rt, anyio.create_task_group() as group:
        keys = [(await anyio.to_thread.run_sync(base_of, rt, spec)).hex for spec in held]
        locks = [cache_dir / "locks" / key[:2] / f"{key}.lock" for key in keys]
        for lock in locks:
            lock_peer.hold(lock)
        tell = partial(rt.warmup, on_progress=lambda event: ready.append(event.key))
        group.start_soon(tell, held + free)
        await until(lambda: len(ready) == len(free))
        for lock in locks:
            lock_peer.drop(lock)

    assert not set(ready[: len(free)]) & set(keys)
    assert len(ready) == len(held + free)


async def test_warm_up_goes_on_where_a_request_waits_for_a_holder_already(
    options, lock_peer, cache_dir
):
    """It joins the request's work, which says nothing to it about waiting."""
    held, free = saxpy(1, arch=ARCH), saxpy(2, arch=ARCH)
    ready: list[str] = []
    async with (
        ajit.open_runtime(**options | {"compile_slots": 1}) as rt,
        anyio.create_task_group() as group,
    ):
        keys = [(await anyio.to_thread.run_sync(base_of, rt, spec)).hex for spec in (held, free)]
        lock = cache_dir / "locks" / keys[0][:2] / f"{keys[0]}.lock"
        lock_peer.hold(lock)
        group.start_soon(rt.compile, held)
        await until(lambda: rt.statistics().waiting)
        tell = partial(rt.warmup, on_progress=lambda event: ready.append(event.key))
        group.start_soon(tell, [held, free])
        try:
            await until(lambda: ready)
        finally:
            lock_peer.drop(lock)

    assert ready == keys[::-1]


async def test_wait_that_begins_after_its_warm_up_was_cancelled_goes_on(
    options, lock_peer, cache_dir
):
    """The resolution stays, for the cache gains; there is no worker left to be replaced."""
    spec = saxpy(1, arch=ARCH)
    async with ajit.open_runtime(**options) as rt, anyio.create_task_group() as group:
        key = (await anyio.to_thread.run_sync(base_of, rt, spec)).hex
        lock = cache_dir / "locks" / key[:2] / f"{key}.lock"
        lock_peer.hold(lock)
        bank = rt._kernels.services.credits
        for _ in range(TOTAL):
            await bank.take("taken", "foreground")
        scope = anyio.CancelScope()

        async def warm():
            with scope:
                await rt.warmup([spec])

        group.start_soon(warm)
        await until(lambda: bank.statistics().waiting)
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        for _ in range(TOTAL):
            bank.give_back()
        await until(lambda: rt.statistics().waiting or not rt.statistics().in_progress)
        waiting = [item.key for item in rt.statistics().waiting]
        lock_peer.drop(lock)
        await rt.compile(spec)

    assert waiting == [key]


async def test_request_waits_for_no_credit_of_a_warm_up(options, compiler):
    """All that a warm-up may have is taken, and a request is compiled in between."""
    options["compile_slots"] = 1
    compiler.hold()
    done: list[str] = []

    def subscriber(event: events.Event) -> None:
        if isinstance(event, events.CompileFinished):
            done.append(event.name)

    warm = [saxpy(n, arch=ARCH, name=f"warm {n}") for n in range(1, 7)]
    async with (
        ajit.open_runtime(subscribers=[subscriber], **options) as rt,
        anyio.create_task_group() as group,
    ):
        for number, spec in enumerate(warm, 1):
            group.start_soon(rt.warmup, [spec])
            await until(lambda n=number: asked(rt) == n)  # so that the last is the last in line
        await compiler.wait_started()
        group.start_soon(rt.compile, saxpy(7, arch=ARCH, name="awaited"))
        await until(lambda: rt.statistics().pool.queued == CREDITS_PER_SLOT)
        # The last in line of the warm-up: a request awaits it now.
        group.start_soon(rt.compile, warm[-1])
        await until(lambda: rt.statistics().pool.queued == CREDITS_PER_SLOT + 1)
        compiler.let_go()

    assert done[1:3] == ["awaited", warm[-1].name]
    assert len(done) == len(warm) + 1


@pytest.mark.slow  # a runtime for each await
async def test_cancelled_at_any_await_with_a_credit_to_wait_for_leaves_nothing(
    options, compiler, nothing_left, lock_peer, cache_dir, monkeypatch
):
    """The credit, the lease and the compile that follow are released wherever it is cancelled."""
    must_see = {"credits:take", "walk:_try_lease", "pool:compile", "walk:_put"}
    for sequencer in every_await(monkeypatch, must_see):
        spec = saxpy(sequencer.at, arch=ARCH)
        async with ajit.open_runtime(**options, abandoned="cancel") as rt:
            bank = rt._kernels.services.credits
            for _ in range(TOTAL):
                await bank.take("taken", "foreground")
            scope = anyio.CancelScope()

            async def want(scope=scope, rt=rt, spec=spec):
                with scope:
                    await rt.compile(spec)

            sequencer.act = scope.cancel
            async with anyio.create_task_group() as group:
                group.start_soon(want)
                await until(
                    lambda bank=bank, scope=scope: bank.statistics().waiting or scope.cancel_called
                )
                for _ in range(TOTAL):
                    bank.give_back()
            # Abandoned work is not waited for; it releases what it holds when it ends.
            await until(lambda bank=bank: bank.statistics().held == 0)
            nothing_left(open_runtime=True)
            assert not lock_peer.held(cache_dir)
            with anyio.fail_after(WAIT_SECONDS):
                await rt.compile(spec)
