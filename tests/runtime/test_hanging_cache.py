"""A cache on a file system that hangs, or fails for a while: a real FUSE server that is stopped.

No request takes longer than the patience and a compile, closing takes 3 seconds at most, and what
hangs is not asked again and again.
"""

from __future__ import annotations

import errno
import threading
import time
import warnings
from contextlib import suppress

import anyio
import anyio.to_thread
import pytest

import ajit
from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases.lock_waiters import BLOCKING_LIMIT
from ajit._cache.leases.table import Lease, LeaseTable
from ajit._core import events
from ajit._system import breaker, guarded_calls
from tests.fuse.mounts import why_no_fuse
from tests.runtime.sources import ARCH, SYNTAX_ERROR, saxpy

NO_FUSE = why_no_fuse()
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(bool(NO_FUSE), reason=NO_FUSE),
    pytest.mark.filterwarnings("default::ajit.AjitWarning"),
]

PATIENCE_SECONDS = 1.0
COMPILE_SECONDS = 15.0
"""What a compile may take on a busy machine, hand-overs included: a bound, and nothing expected."""

CLOSE_SECONDS = 3.0
HANGS_SECONDS = 60.0
"""A test that hangs ends so."""


@pytest.fixture
def hung(options, mount, compiler):
    """Options with the cache on it; the compiler's answer is ready."""
    return {
        **options,
        "cache_dir": str(mount.path / "cache"),
        "patience_seconds": PATIENCE_SECONDS,
    }


def hung_threads():
    """Threads of ajit that are in a call on the cache."""
    names = ("ajit-io", "ajit-probe", "ajit-lock", "ajit-beat", "ajit-touch", "ajit-digests")
    return [thread for thread in threading.enumerate() if thread.name.startswith(names)]


class Closing:
    """Opens a runtime and measures how long closing it takes."""

    def __init__(self, **options):
        self.seen = []
        self._context = ajit.open_runtime(subscribers=[self.seen.append], **options)

    async def __aenter__(self):
        self.rt = await self._context.__aenter__()
        return self

    async def __aexit__(self, *exc):
        begun = time.monotonic()
        await self._context.__aexit__(*exc)
        self.seconds = time.monotonic() - begun

    def events(self, kind):
        """Those of one kind."""
        return [event for event in self.seen if isinstance(event, kind)]


async def probed(rt):
    """Ask for kernels until it was seen twice what is mounted now."""
    calls = rt._kernels.services.guard
    for _ in range(2):
        begun = calls._probe_begun_at
        while calls._probe_begun_at == begun:
            await rt.resolve(saxpy(1), arch=ARCH)
            await anyio.sleep(0.01)


async def ended(rt, spec):
    """Ask for a kernel, and take whatever comes of it."""
    with suppress(ajit.RuntimeClosed, ajit.CompileError):
        await rt.compile(spec, arch=ARCH)


async def timed(function, *args, **kwargs):
    """Return what a coroutine function returns, and how long that took."""
    begun = time.monotonic()
    with anyio.fail_after(HANGS_SECONDS):
        value = await function(*args, **kwargs)
    return value, time.monotonic() - begun


async def calls_under_way(rt, *, wanted):
    """Wait until there are calls on the cache in threads, or none."""
    guard = rt._kernels.services.guard
    with anyio.fail_after(HANGS_SECONDS):
        while bool(guard.threads()) != wanted:  # noqa: ASYNC110  # a thread says nothing when it ends
            await anyio.sleep(0.01)


async def test_kernels_are_served_within_patience_and_a_compile_while_the_cache_hangs(
    hung, mount, compiler
):
    """The first pays the patience, the next do not; one warning, one event; closing is quick."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        async with Closing(**hung) as open_:
            await open_.rt.compile(saxpy(1), arch=ARCH)
            mount.stop()
            first, first_seconds = await timed(open_.rt.resolve, saxpy(2), arch=ARCH)
            others = [await timed(open_.rt.resolve, saxpy(n), arch=ARCH) for n in (3, 4, 5)]
            threads = len(hung_threads())
        mount.go_on()

    assert first.tier == "compiled"
    assert first_seconds < PATIENCE_SECONDS + COMPILE_SECONDS
    assert all(seconds < COMPILE_SECONDS for _, seconds in others)
    assert len(open_.events(events.CacheUnresponsive)) == 1
    assert len([item for item in warned if "does not answer" in str(item.message)]) == 1
    assert len(warned) == 1
    assert threads <= 12
    assert open_.seconds < CLOSE_SECONDS


async def test_many_requests_at_once_are_served_and_take_few_threads(hung, mount):
    """Forty kernels, cached and new, asked for while the cache hangs: as above, all together."""
    async with Closing(**{**hung, "compile_slots": 4}) as open_:
        for n in range(1, 4):
            await open_.rt.compile(saxpy(n), arch=ARCH)
        mount.stop()
        answers = []

        async def want(n):
            answers.append((await open_.rt.resolve(saxpy(n), arch=ARCH)).tier)

        async def want_all():
            async with anyio.create_task_group() as group:
                for n in range(1, 41):
                    group.start_soon(want, n)

        _, seconds = await timed(want_all)
        threads = len(hung_threads())
    mount.go_on()

    assert answers == ["compiled"] * 40
    assert seconds < PATIENCE_SECONDS + COMPILE_SECONDS
    assert len(open_.events(events.CacheUnresponsive)) == 1
    assert threads <= 25
    assert open_.seconds < CLOSE_SECONDS


async def test_one_look_that_hangs_takes_no_other_s_time_or_thread(hung, mount, monkeypatch):
    """One key's files hang: it costs that request its patience, and the cache stays in use."""
    # The server of this mount is a Python program: on a busy machine a probe of it takes long.
    monkeypatch.setattr(guarded_calls, "UNANSWERED_SECONDS", 2.0)
    options = {**hung, "patience_seconds": 6.0}
    async with Closing(**options) as open_:
        made = [await open_.rt.compile(saxpy(n), arch=ARCH) for n in range(1, 13)]
    mount.hang(made[0].base[2:])
    took = {}

    async with Closing(**options) as open_:

        async def want(n):
            took[n] = await timed(open_.rt.resolve, saxpy(n), arch=ARCH)

        async with anyio.create_task_group() as group:
            for n in range(1, 13):
                group.start_soon(want, n)
        mount.answer()

    first, others = took.pop(1), list(took.values())
    assert first[0].tier == "compiled"
    assert [resolution.tier for resolution, _ in others] == ["disk"] * 11
    assert max(seconds for _, seconds in others) < 4.0
    assert first[1] >= 6.0
    assert open_.events(events.CacheUnresponsive) == []


@pytest.mark.parametrize(
    ("lease", "what", "number"),
    [
        ("locks", ".ajit", 1),
        ("locks", "/reads/", 1),
        ("locks", "/locks/", 2),
        ("directory", "/locks/", 2),
        ("directory", ".ajit", 1),
        ("directory", "/reads/", 1),
        ("locks", "/tmp/", 2),
    ],
)
async def test_one_kind_of_file_that_hangs_costs_a_request_one_patience(
    hung, mount, lease, what, number
):
    """A cached kernel, or a new one: its look, lease, permit and publish share the patience."""
    patience = 5.0
    options = {**hung, "patience_seconds": patience, "lease": lease}
    async with Closing(**options) as open_:
        await open_.rt.compile(saxpy(1), arch=ARCH)
    async with Closing(**options) as open_:
        mount.hang(what)
        answer, seconds = await timed(open_.rt.resolve, saxpy(number), arch=ARCH)
    mount.answer()

    assert answer.tier == "compiled"
    assert patience <= seconds < 1.9 * patience
    assert open_.seconds < CLOSE_SECONDS


async def test_cache_is_used_again_when_it_answers_and_the_threads_end(hung, mount):
    """What was left to itself ends; the next kernels come from the disk, and are kept on it."""
    async with Closing(**hung) as open_:
        await open_.rt.compile(saxpy(1), arch=ARCH)
        mount.stop()
        await timed(open_.rt.resolve, saxpy(2), arch=ARCH)
        mount.go_on()
        await calls_under_way(open_.rt, wanted=False)
        silent = open_.rt.statistics()
        again = await open_.rt.resolve(saxpy(1), arch=ARCH)
        await open_.rt.resolve(saxpy(3), arch=ARCH)
        answering = open_.rt.statistics()
    async with Closing(**hung) as other:
        kept = await other.rt.resolve(saxpy(3), arch=ARCH)

    assert "does not answer" in silent.cache_problem
    assert "\n  cache: " in str(silent)
    assert answering.cache_problem == ""
    assert again.tier == "disk"
    assert kept.tier == "disk"
    assert len(open_.events(events.CacheResponsive)) == 1
    kinds = [type(event) for event in open_.seen]
    assert kinds.index(events.CacheUnresponsive) < kinds.index(events.CacheResponsive)


async def test_runtime_opens_on_a_cache_that_hangs_and_uses_it_later(hung, mount):
    """Opening takes the patience; when the file system answers, the cache is there."""
    async with Closing(**hung) as open_:
        await open_.rt.compile(saxpy(1), arch=ARCH)
    mount.stop()
    begun = time.monotonic()
    async with Closing(**hung) as open_:
        opened = time.monotonic() - begun
        without, seconds = await timed(open_.rt.resolve, saxpy(1), arch=ARCH)
        mount.go_on()
        await calls_under_way(open_.rt, wanted=False)
        again = await open_.rt.resolve(saxpy(1), arch=ARCH)

    assert opened < PATIENCE_SECONDS + 2.0
    assert (without.tier, again.tier) == ("compiled", "disk")
    assert seconds < COMPILE_SECONDS
    assert len(open_.events(events.CacheUnresponsive)) == 1


async def test_cache_is_found_again_on_a_new_mount(hung, mount):
    """The server is killed and started anew: open descriptors lead nowhere, and the path does."""
    async with Closing(**hung) as open_:
        await open_.rt.compile(saxpy(1), arch=ARCH)
        mount.close()
        mount.serve()
        again, _ = await timed(open_.rt.resolve, saxpy(1), arch=ARCH)
        await timed(open_.rt.resolve, saxpy(2), arch=ARCH)
        kept, _ = await timed(open_.rt.resolve, saxpy(2), arch=ARCH)

    assert (again.tier, kept.tier) == ("disk", "disk")


@pytest.mark.parametrize("opened", ["before", "while it hangs"])
async def test_new_mount_over_one_that_hangs_is_used(hung, mount, monkeypatch, opened):
    """The old one never answers, not even that it is gone; an administrator mounts a new one."""
    monkeypatch.setattr(breaker, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(guarded_calls, "RETRY_SECONDS", 0.2)
    async with Closing(**hung) as first:
        await first.rt.compile(saxpy(1), arch=ARCH)
    if opened != "before":
        mount.stop()
    async with Closing(**hung) as open_:
        mount.stop()
        hanging = await open_.rt.resolve(saxpy(1), arch=ARCH)
        mount.unmount()
        with anyio.fail_after(HANGS_SECONDS):
            await probed(open_.rt)  # where for now there is nothing
            mount.serve()
            again = hanging
            while again.tier != "disk":
                again = await open_.rt.resolve(saxpy(1), arch=ARCH)
        await open_.rt.resolve(saxpy(2), arch=ARCH)
    async with Closing(**hung) as other:
        kept = await other.rt.resolve(saxpy(2), arch=ARCH)

    assert (hanging.tier, again.tier, kept.tier) == ("compiled", "disk", "disk")
    assert len(open_.events(events.CacheResponsive)) == 1
    assert open_.seconds < CLOSE_SECONDS


@pytest.mark.parametrize("spec", [saxpy(2), SYNTAX_ERROR], ids=["publish", "record of a failure"])
async def test_closing_does_not_wait_for_what_is_being_written(hung, mount, compiler, spec):
    """A write that hangs is left, and then the release that hangs as well; shielded or not."""
    async with anyio.create_task_group() as group:
        async with Closing(**{**hung, "patience_seconds": 300.0}) as open_:
            await open_.rt.compile(saxpy(1), arch=ARCH)
            compiler.hold()
            group.start_soon(ended, open_.rt, spec)
            await compiler.wait_started(2)
            mount.stop()
            compiler.let_go()
            with anyio.fail_after(HANGS_SECONDS):
                while open_.rt.statistics().pool.running:  # noqa: ASYNC110  # no event says so
                    await anyio.sleep(0.01)
                while not open_.rt._kernels.services.guard._waiting:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
        mount.go_on()

    assert open_.seconds < CLOSE_SECONDS


@pytest.mark.parametrize("when", ["look", "compile"])
async def test_closing_waits_for_a_hanging_cache_for_a_moment_only(hung, mount, compiler, when):
    """Closed in the middle of a first look that hangs, or of a compile whose beats hang."""
    errors = []

    async def want(rt):
        try:
            await rt.compile(saxpy(2), arch=ARCH)
        except ajit.RuntimeClosed as exc:
            errors.append(exc)

    async with anyio.create_task_group() as group:
        async with Closing(**{**hung, "patience_seconds": 300.0}) as open_:
            await open_.rt.compile(saxpy(1), arch=ARCH)
            if when == "look":
                mount.stop()
            else:
                compiler.hold()
            group.start_soon(want, open_.rt)
            if when == "look":
                await calls_under_way(open_.rt, wanted=True)
            else:
                await compiler.wait_started(2)
                mount.stop()
        mount.go_on()

    assert len(errors) == 1
    assert open_.seconds < CLOSE_SECONDS


async def test_healthy_cache_is_not_held_up_by_another_one_that_hangs(hung, mount, options):
    """Two runtimes of a process: the digests of files are shared, and their sources are not."""
    async with Closing(**hung) as sick:
        await sick.rt.compile(saxpy(1), arch=ARCH)
        async with Closing(**options) as healthy:
            await healthy.rt.compile(saxpy(1), arch=ARCH)
            mount.stop()
            _, seconds = await timed(healthy.rt.resolve, saxpy(2), arch=ARCH)
            await timed(sick.rt.resolve, saxpy(2), arch=ARCH)
            found, again = await timed(healthy.rt.resolve, saxpy(1), arch=ARCH)
        mount.go_on()

    assert found.tier == "disk"
    assert seconds < COMPILE_SECONDS
    assert again < 1.0
    assert healthy.events(events.CacheUnresponsive) == []


@pytest.mark.parametrize("code", ["ESTALE", "ENOTCONN", "EIO"])
async def test_file_server_that_fails_for_a_while_costs_no_patience(hung, mount, compiler, code):
    """Errors begin in mid-compile and end later: answers come at once, and the cache is used again.

    Errors are answers: nothing waits for them.
    """
    async with Closing(**{**hung, "patience_seconds": 300.0}) as open_:
        compiler.hold()
        answers = []

        async def want(n):
            answers.append(await open_.rt.resolve(saxpy(n), arch=ARCH))

        begun = time.monotonic()
        async with anyio.create_task_group() as group:
            group.start_soon(want, 1)
            await compiler.wait_started(1)
            mount.fail(getattr(errno, code))
            compiler.let_go()
        seconds = time.monotonic() - begun
        mount.answer()
        await open_.rt.compile(saxpy(2), arch=ARCH)
        again = await open_.rt.resolve(saxpy(2), arch=ARCH)

    assert [answer.tier for answer in answers] == ["compiled"]
    assert seconds < COMPILE_SECONDS
    assert again.tier == "disk"
    assert open_.seconds < CLOSE_SECONDS


async def test_locks_of_a_healthy_cache_come_while_those_of_another_one_hang(
    mount, cache_dir, lock_peer
):
    """The threads that wait for locks are a cache's own: one that hangs uses up none of others'."""
    sick_dir = mount.path / "cache"
    healthy, sick = [
        LeaseTable(await anyio.to_thread.run_sync(open_cache_directory, path))
        for path in (cache_dir, sick_dir)
    ]
    keys = [f"{number:064x}" for number in range(BLOCKING_LIMIT + 4)]

    def lock_of(path, key):
        return path / "locks" / key[:2] / f"{key}.lock"

    for key in keys:
        lock_peer.hold(lock_of(sick_dir, key))
    lock_peer.hold(lock_of(cache_dir, keys[0]))
    waits = [sick.wait(key, "test") for key in keys]
    mount.stop()
    with healthy.wait(keys[0], "test") as waiting:
        lock_peer.drop(lock_of(cache_dir, keys[0]))
        with anyio.fail_after(20):
            lease = await waiting.wait()
    for wait in waits:
        wait.abandon()
    mount.go_on()
    for key in keys:
        lock_peer.drop(lock_of(sick_dir, key))

    assert isinstance(lease, Lease)
    await anyio.to_thread.run_sync(lease.release)
