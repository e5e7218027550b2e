"""The terms of a request: fallback, time limit, no waiting, frozen, compile again, abandoned."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import anyio
import pytest

import ajit
from ajit._core import events
from tests.runtime.sources import ARCH, SAXPY, SYNTAX_ERROR, saxpy

pytestmark = pytest.mark.anyio

WANTED, READY = saxpy(1), saxpy(2)
MENDED = SYNTAX_ERROR.with_(source=SYNTAX_ERROR.source.replace(" ;", " i;"), name="mended")


async def until(condition) -> None:
    """Wait for something that another task or process brings about."""
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110  # it is not ours to set an event
            await anyio.sleep(0.005)


async def test_fallback_is_returned_at_once_and_the_wanted_kernel_is_made_ready(
    with_device, compiler
):
    """The fallback says whom it stands in for; later the wanted kernel is there itself."""
    seen: list[events.Event] = []
    async with ajit.open_runtime(**with_device, subscribers=[seen.append]) as rt:
        ready = await rt.kernel(READY)
        compiler.hold()
        kernel = await rt.kernel(WANTED, fallback=READY)
        compiler.let_go()
        await until(lambda: not rt.statistics().in_progress)
        wanted = await rt.kernel(WANTED, fallback=READY)

        assert kernel.stands_in_for is WANTED
        assert kernel.module is ready.module
        assert ready.stands_in_for is None
        assert wanted.stands_in_for is None
        assert wanted.module is not ready.module

    used = [event for event in seen if isinstance(event, events.FallbackUsed)]
    assert [(event.name, event.fallback) for event in used] == [(WANTED.name, READY.name)]
    assert compiler.started == 2


async def test_fallback_that_is_not_ready_is_not_waited_for(with_device, compiler):
    """Then the wanted kernel is compiled, and the fallback is not."""
    async with ajit.open_runtime(**with_device) as rt:
        kernel = await rt.kernel(WANTED, fallback=READY)

        assert kernel.stands_in_for is None
    assert compiler.started == 1


async def test_failing_background_compile_does_not_fail_the_fallback(with_device):
    """The fallback is served; a request for the kernel itself gets its error."""
    async with ajit.open_runtime(**with_device) as rt:
        await rt.kernel(MENDED)
        served = await rt.kernel(SYNTAX_ERROR, fallback=MENDED)
        await until(lambda: not rt.statistics().in_progress)
        with pytest.raises(ajit.CompileError):
            await rt.kernel(SYNTAX_ERROR)

        assert served.stands_in_for is SYNTAX_ERROR


async def test_failing_kernel_behind_a_fallback_is_logged_and_its_key_known(with_device, caplog):
    """A warning per attempt, at most every 10 s: the second attempt finds the recorded error."""
    caplog.set_level(logging.WARNING, "ajit")
    seen: list[events.Event] = []
    async with ajit.open_runtime(**with_device, subscribers=[seen.append]) as rt:
        await rt.kernel(MENDED)
        for _ in range(3):
            await rt.kernel(SYNTAX_ERROR, fallback=MENDED)
            await until(lambda: not rt.statistics().in_progress)
        failed = rt.statistics().failed

    keys = [event.key for event in seen if isinstance(event, events.FallbackUsed)]
    lines = [line for line in caplog.messages if "fallback 'mended' serves in its place" in line]
    assert failed == 3
    assert keys[0] == ""
    assert len(keys[1]) == 64
    assert keys[2] == keys[1]
    assert len(lines) == 1
    assert lines[0].startswith(f"broken ({keys[1][:16]}): ")
    assert "error" in lines[0]


async def test_time_limit_ends_the_wait_and_not_the_compile(with_device, compiler):
    """The caller gets TimeoutError; the kernel is there later, from the same compile."""
    compiler.hold()
    async with ajit.open_runtime(**with_device) as rt:
        with pytest.raises(TimeoutError):
            await rt.kernel(SAXPY, timeout=0.01)
        await compiler.wait_started()
        with pytest.raises(TimeoutError) as caught:
            await rt.kernel(SAXPY, timeout=0.01)
        compiler.let_go()
        kernel = await rt.kernel(SAXPY)

    expected = (
        rf"kernel 'saxpy' \({kernel.module.key[:16]}\) is not ready after 0\.\d\d s: compiling"
    )
    assert re.match(expected, str(caught.value))
    assert compiler.started == 1


async def test_nowait_returns_what_is_loaded_and_starts_nothing(with_device, compiler):
    """A kernel that is not loaded is WouldBlock."""
    async with ajit.open_runtime(**with_device) as rt:
        with pytest.raises(ajit.WouldBlock, match="not loaded"):
            rt.kernel_nowait(SAXPY)
        in_progress = rt.statistics().in_progress
        kernel = await rt.kernel(SAXPY)

        assert rt.kernel_nowait(SAXPY).module is kernel.module
    assert in_progress == 0
    assert compiler.started == 1


async def test_frozen_runtime_serves_what_is_cached_and_compiles_nothing(options, compiler):
    """A miss names the nearest cached kernel and the fields in which it differs."""
    async with ajit.open_runtime(**options) as rt:
        cached = await rt.compile(saxpy(1), arch=ARCH)
    async with ajit.open_runtime(**options, mode="frozen") as rt:
        again = await rt.compile(saxpy(1), arch=ARCH)
        with pytest.raises(ajit.CompileForbidden) as caught:
            await rt.compile(saxpy(2), arch=ARCH)

    assert again == cached
    assert caught.value.nearest == cached.key
    assert caught.value.differences == (("define VARIANT", "=1", "=2"),)
    assert "define VARIANT: '=1' there, '=2' here" in str(caught.value)
    assert compiler.started == 1


async def test_frozen_runtime_without_a_cache_that_can_be_read_says_so(options):
    """Nothing can be found then, whatever was cached."""
    options = {**options, "cache_dir": "/proc/ajit/cache"}
    async with ajit.open_runtime(**options, mode="frozen") as rt:
        with pytest.raises(ajit.CompileForbidden) as caught:
            await rt.compile(SAXPY, arch=ARCH)

    assert "the cache /proc/ajit/cache cannot be read: " in caught.value.__notes__[0]


async def test_frozen_runtime_with_an_empty_cache_says_so(options, compiler):
    """There is no nearest kernel to name."""
    async with ajit.open_runtime(**options, mode="frozen") as rt:
        with pytest.raises(ajit.CompileForbidden, match="no similar kernel is cached") as caught:
            await rt.compile(SAXPY, arch=ARCH)

    assert caught.value.nearest == ""
    assert compiler.started == 0


async def test_recache_compiles_again_and_replaces_the_entry(options, cache_dir, compiler):
    """Also where the cache has a good one."""
    async with ajit.open_runtime(**options) as rt:
        first = await rt.compile(SAXPY, arch=ARCH)
        second = await rt.compile(SAXPY, arch=ARCH, recache=True)
        third = await rt.compile(SAXPY, arch=ARCH)
        rejected = rt.statistics().disk.rejected

    assert compiler.started == 2
    assert second.created > first.created
    assert third == second
    assert rejected == 0


async def test_recache_ignores_a_failure_record(options, compiler):
    """A compile that failed a moment ago is tried again when told to."""
    async with ajit.open_runtime(**options) as rt:
        for _ in range(2):
            with pytest.raises(ajit.CompileError):
                await rt.compile(SYNTAX_ERROR, arch=ARCH)
        remembered = rt.statistics().pool.failed
        with pytest.raises(ajit.CompileError):
            await rt.compile(SYNTAX_ERROR, arch=ARCH, recache=True)

        assert rt.statistics().pool.failed == 2
    assert remembered == 1


async def test_recache_loads_the_kernel_anew(with_device, compiler):
    """A loaded kernel stays usable; the next request gets the new one."""
    async with ajit.open_runtime(**with_device) as rt:
        before = await rt.kernel(SAXPY)
        anew = await rt.kernel(SAXPY, recache=True)
        after = await rt.kernel(SAXPY)

        assert anew.module is not before.module
        assert after.module is anew.module
    assert compiler.started == 2


@pytest.mark.parametrize("abandoned", ["finish", "cancel"])
async def test_compile_without_waiters_is_finished_or_cancelled(options, compiler, abandoned):
    """It is finished, so that the cache gains, or cancelled, as the setting says."""
    compiler.hold()
    async with ajit.open_runtime(**options, abandoned=abandoned) as rt:
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(lambda: rt.compile(SAXPY, arch=ARCH))
            await compiler.wait_started()
            group.cancel_scope.cancel()
        if abandoned == "finish":
            compiler.let_go()
        expected = (1, 0) if abandoned == "finish" else (0, 1)

        def outcome() -> tuple[int, int]:
            pool = rt.statistics().pool
            return pool.finished, pool.killed

        await until(lambda: sum(outcome()))

        assert outcome() == expected
    if abandoned == "cancel":
        compiler.let_go()
    assert compiler.started == 1


async def test_abandoned_compile_can_be_wanted_again(options, compiler):
    """A request that comes while the abandoned compile is being killed begins anew."""
    compiler.hold()
    async with ajit.open_runtime(**options, abandoned="cancel") as rt:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: rt.compile(SAXPY, arch=ARCH))
                await compiler.wait_started()
                scope.cancel()
        compiler.let_go()
        artifact = await rt.compile(SAXPY, arch=ARCH)

    assert artifact.entries == ("saxpy",)
    assert compiler.started == 2


async def test_compile_that_one_waiter_still_wants_is_not_abandoned(options, compiler):
    """Only the last to leave ends it."""
    compiler.hold()
    async with (
        ajit.open_runtime(**options, abandoned="cancel") as rt,
        anyio.create_task_group() as group,
    ):
        group.start_soon(lambda: rt.compile(SAXPY, arch=ARCH))
        await compiler.wait_started()
        with anyio.move_on_after(0.01):
            await rt.compile(SAXPY, arch=ARCH)
        compiler.let_go()

    assert compiler.started == 1


@pytest.fixture
async def locked(options, cache_dir: Path, lock_peer):
    """Another process holds the lease of saxpy's key, without a record: silent from the start."""
    async with ajit.open_runtime(**options) as rt:
        artifact = await rt.compile(SAXPY, arch=ARCH)
    key, base = artifact.key, artifact.base
    (cache_dir / "entries" / key[:2] / f"{key}.ajit").unlink()
    lock = cache_dir / "locks" / base[:2] / f"{base}.lock"
    lock_peer.hold(lock)
    yield base
    lock_peer.drop(lock)


async def test_waiting_is_seen_in_statistics_and_in_the_log(options, locked, caplog):
    """The holder that a request waits for is shown and logged, without any subscriber."""
    caplog.set_level(logging.WARNING, "ajit")
    async with ajit.open_runtime(**options) as rt, anyio.create_task_group() as group:
        group.start_soon(lambda: rt.compile(SAXPY, arch=ARCH))
        await until(lambda: rt.statistics().waiting)
        waiting = rt.statistics().waiting
        await until(lambda: "waiting for" in caplog.text)
        group.cancel_scope.cancel()

    assert [(item.name, item.key) for item in waiting] == [("saxpy", locked)]
    assert f"saxpy ({locked[:16]}): waiting for" in caplog.text


async def test_patience_in_total_ends_a_wait_for_a_lively_holder(options, locked, compiler):
    """However long the silence may be: the limit on the whole wait counts by itself."""
    seen: list[events.Event] = []
    async with ajit.open_runtime(
        **options, patience_total_seconds=0.1, subscribers=[seen.append]
    ) as rt:
        resolution = await rt.resolve(SAXPY, arch=ARCH)
        waiting = rt.statistics().waiting

    ended = [event for event in seen if isinstance(event, events.WaitEnded)]
    assert [event.outcome for event in ended] == ["patience"]
    assert resolution.tier == "compiled"
    assert waiting == ()
