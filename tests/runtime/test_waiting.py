"""Waiting for another process's lease: what is seen meanwhile, and every way in which it ends."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

import ajit
from ajit._cache.entries.disk import Found
from ajit._cache.leases.permits import PERMIT_PREFIX
from ajit._core import events
from ajit._resolve.waiting import LeaseWaiter, WaitEnd
from ajit._system.process import this_process
from tests.runtime.sequencer import every_await
from tests.runtime.sources import ARCH, SAXPY, base_of, saxpy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.anyio


class KeyFiles:
    """The files of a key that is known beforehand, and its entry, taken out of the cache."""

    def __init__(self, cache_dir: Path, artifact: ajit.Artifact) -> None:
        self.artifact = artifact
        base, key = artifact.base, artifact.key
        self.lock = cache_dir / "locks" / base[:2] / f"{base}.lock"
        self.entry = cache_dir / "entries" / key[:2] / f"{key}.ajit"
        self.kept = cache_dir.parent / "kept"
        self.entry.rename(self.kept)

    def publish(self) -> None:
        """Put the entry into the cache."""
        shutil.copy(self.kept, self.entry)


@pytest.fixture
async def files(options, cache_dir) -> KeyFiles:
    """The files of a key that has no entry."""
    async with ajit.open_runtime(**options) as rt:
        artifact = await rt.compile(SAXPY, arch=ARCH)
    return KeyFiles(cache_dir, artifact)


async def resolve(options: dict, when_waiting: Callable[[], None], seen: list | None = None):
    """Resolve in a new runtime; do something once it waits for the lease."""
    waiting = anyio.Event()

    def subscriber(event):
        if seen is not None:
            seen.append(event)
        if isinstance(event, events.Waiting):
            waiting.set()

    async def act():
        await waiting.wait()
        when_waiting()

    async with (
        ajit.open_runtime(subscribers=[subscriber], **options) as rt,
        anyio.create_task_group() as group,
    ):
        group.start_soon(act)
        resolution = await rt.resolve(SAXPY, arch=ARCH)
        group.cancel_scope.cancel()
    return resolution


async def test_released_lease_goes_to_the_waiter(options, lock_peer, files):
    """The holder leaves without an entry: the waiter gets the lease and compiles."""
    lock_peer.hold(files.lock)
    seen: list = []

    resolution = await resolve(options, lambda: lock_peer.drop(files.lock), seen)

    (ended,) = (event for event in seen if isinstance(event, events.WaitEnded))
    assert ended.outcome == "lease"
    assert resolution.tier == "compiled"


async def test_entry_that_appears_ends_the_wait_although_the_lease_is_held(
    options, lock_peer, files, nothing_left
):
    """Publishing needs no lease, so a waiter looks for the entry as well."""
    lock_peer.hold(files.lock)
    seen: list = []

    resolution = await resolve(options, files.publish, seen)
    lock_peer.drop(files.lock)

    (ended,) = (event for event in seen if isinstance(event, events.WaitEnded))
    assert ended.outcome == "entry"
    assert resolution.tier == "disk"
    nothing_left()


async def test_entry_and_lease_in_the_same_turn_of_the_loop_leave_no_lease(
    options, lock_peer, files, nothing_left, monkeypatch
):
    """Both ends of the wait come at once, whichever is looked at first: the lease is released.

    Which of two tasks that are woken together runs first is a coin's toss on trio, so it is tossed
    a few times.
    """

    async def found_with_the_lease(self, begun, *, look_too):
        assert look_too
        self._report(begun)
        await self._place._promise._event.wait()
        return WaitEnd("seen", Found(files.artifact, size_bytes=0))

    monkeypatch.setattr(LeaseWaiter, "_watch", found_with_the_lease)

    def publish_and_drop():
        files.publish()
        lock_peer.drop(files.lock)

    for _ in range(8):
        files.entry.unlink(missing_ok=True)
        lock_peer.hold(files.lock)
        resolution = await resolve(options, publish_and_drop)
        assert resolution.tier == "disk"
        nothing_left()
        assert not lock_peer.held(files.lock.parents[2])


async def test_silent_holder_costs_the_patience_and_one_compile_more(options, lock_peer, files):
    """A holder that says nothing for the patience is not waited for any longer."""
    lock_peer.hold(files.lock)
    seen: list = []

    resolution = await resolve({**options, "patience_seconds": 0.3}, lambda: None, seen)
    published = files.entry.exists()
    lock_peer.drop(files.lock)

    (ended,) = (event for event in seen if isinstance(event, events.WaitEnded))
    assert ended.outcome == "patience"
    assert ended.waited_seconds >= 0.3
    assert resolution.tier == "compiled"
    assert published


async def test_recache_replaces_the_entry_without_the_lease_as_well(options, lock_peer, files):
    """A silent process holds the lease of a good entry that is to be compiled again."""
    files.publish()
    lock_peer.hold(files.lock)
    async with ajit.open_runtime(**{**options, "patience_seconds": 0.3}) as rt:
        before = await rt.resolve(SAXPY, arch=ARCH)
        anew = await rt.resolve(SAXPY, arch=ARCH, recache=True)
    async with ajit.open_runtime(**options) as rt:
        after = await rt.resolve(SAXPY, arch=ARCH)
    lock_peer.drop(files.lock)

    assert (before.tier, anew.tier, after.tier) == ("disk", "compiled", "disk")
    assert anew.waited_for is None  # the peer writes no record, so no holder is named
    assert after.artifact == anew.artifact
    assert after.artifact.created > before.artifact.created


async def test_good_entry_that_comes_during_the_compile_is_left_in_place(
    options, lock_peer, files, compiler
):
    """A waiter that lost patience keeps its own bytes, and replaces the damaged entry no more."""
    files.entry.write_bytes(files.kept.read_bytes()[:-1])
    lock_peer.hold(files.lock)
    compiler.hold()
    answers = []

    async def want(rt):
        answers.append(await rt.resolve(SAXPY, arch=ARCH))

    async with (
        ajit.open_runtime(**{**options, "patience_seconds": 0.3}) as rt,
        anyio.create_task_group() as group,
    ):
        group.start_soon(want, rt)
        await compiler.wait_started(2)  # the first one made them
        files.entry.unlink()
        files.publish()
        good = files.entry.stat().st_ino
        compiler.let_go()
    lock_peer.drop(files.lock)

    assert [answer.tier for answer in answers] == ["compiled"]
    assert answers[0].artifact != files.artifact
    assert files.entry.stat().st_ino == good


@pytest.mark.slow  # a runtime for each await, and one more to see that it left nothing
async def test_cancelled_at_any_await_of_a_wait_leaves_nothing(
    options, lock_peer, files, nothing_left, monkeypatch
):
    """Cancelled while it waits, or while the lease comes: another process finds the lease free."""
    cache_dir = files.lock.parents[2]
    must_see = {"waiting:_win", "waiting:_watch", "waiting:wait"}
    for sequencer in every_await(monkeypatch, must_see):
        files.entry.unlink(missing_ok=True)
        lock_peer.hold(files.lock)
        dropped = []

        def drop(dropped=dropped):
            dropped.append(lock_peer.drop(files.lock))

        with anyio.CancelScope() as scope:
            sequencer.act = scope.cancel
            await sequencer.watch(resolve(options, drop))
        if not dropped:
            drop()
        nothing_left()
        assert not lock_peer.held(cache_dir), f"lease held after {sequencer.points[-1]}"
        async with ajit.open_runtime(**options) as rt:
            with anyio.fail_after(60):
                await rt.compile(SAXPY, arch=ARCH)


async def test_cache_without_locks_still_compiles_and_publishes(options, cache_dir, files):
    """Where no lock is to be had, an event says so and the work goes on."""
    shutil.rmtree(files.lock.parent)
    files.lock.parent.write_text("a file where a directory should be")
    seen: list = []

    async with ajit.open_runtime(subscribers=[seen.append], **options) as rt:
        resolution = await rt.resolve(SAXPY, arch=ARCH)

    steps = [type(event) for event in seen if not isinstance(event, events.CompileRunning)]
    assert steps == [
        events.KeyMade,
        events.LocksUnavailable,
        events.CompileStarted,
        events.CompileFinished,
        events.KernelReady,
    ]
    assert resolution.tier == "compiled"
    assert files.entry.exists()


async def test_waiters_use_up_no_threads_of_the_loop(options, lock_peer, cache_dir, nothing_left):
    """With more leases waited for than a loop has threads, everything else still gets one."""
    waits = 45  # anyio and trio both have 40 threads
    waiting: set[str] = set()
    all_waiting = anyio.Event()
    specs = [saxpy(n) for n in range(1, waits + 1)]

    def subscriber(event):
        if isinstance(event, events.Waiting):
            waiting.add(event.key)
            if len(waiting) == waits:
                all_waiting.set()

    async with ajit.open_runtime(subscribers=[subscriber], **options) as rt:
        keys = [(await anyio.to_thread.run_sync(base_of, rt, spec)).hex for spec in specs]
        locks = [cache_dir / "locks" / key[:2] / f"{key}.lock" for key in keys]
        for lock in locks:
            lock_peer.hold(lock)
        async with anyio.create_task_group() as group:
            for spec in specs:
                group.start_soon(lambda spec=spec: rt.compile(spec, arch=ARCH))
            with anyio.fail_after(60):
                await all_waiting.wait()
                hop = await anyio.to_thread.run_sync(lambda: "a thread of the loop's own")
                resolution = await rt.resolve(saxpy(waits + 1), arch=ARCH)
            group.cancel_scope.cancel()
    for lock in locks:
        lock_peer.drop(lock)

    assert hop
    assert resolution.tier == "compiled"
    nothing_left()


@pytest.mark.parametrize("total_seconds", [1.5, 300.0])
async def test_wait_for_a_permit_is_an_event_and_ends_with_the_total_patience(
    options, cache_dir, lock_peer, total_seconds
):
    """Another process holds the machine's only permit, and the compile goes on without it."""
    name = f"{PERMIT_PREFIX}{this_process().boot_id}-0"
    permit = cache_dir / "locks" / name[:2] / f"{name}.lock"
    told: list = []
    waits = anyio.Event()

    def subscriber(event):
        if isinstance(event, events.WaitingForPermit):
            told.append(event)
            waits.set()

    only_one = {"node_compile_slots": 1, "patience_total_seconds": total_seconds}
    async with ajit.open_runtime(subscribers=[subscriber], **{**options, **only_one}) as rt:
        lock_peer.hold(permit)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: rt.compile(SAXPY, arch=ARCH))
                await waits.wait()
                if total_seconds > 60:
                    lock_peer.drop(permit)
    if total_seconds < 60:
        lock_peer.drop(permit)

    assert {event.name for event in told} == {"saxpy"}
    assert told[0].waited_seconds > 0.5
