"""The compile pool: slots, cancelling, closing; on every event loop."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

import anyio
import pytest

from ajit._compile.pool import pool as pool_module
from ajit._compile.pool import watch as watch_module
from ajit._compile.pool import worker_process as process_module
from ajit._compile.pool.pool import CompilePool
from ajit._compile.toolchains.toolchains import Toolchains
from ajit.errors import AjitWarning, CompileError, CompilerNotFound, ForkedRuntime, RuntimeClosed
from tests.compile.gates import LIMIT_SECONDS, GatedCompiler, eventually, ignore, opened
from tests.compile.support import (
    ENDLESS,
    RESULT,
    SCALE,
    fake_compiler,
    group_members,
    is_at_work,
    job,
    kind_of_compiler,
    settings,
    workers_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.anyio

HOST = {"compiler": "host", "arch": os.uname().machine}


async def test_jobs_beyond_the_slots_wait(gate: GatedCompiler) -> None:
    """Eight jobs on two slots: two run, six wait, all finish, with two workers in all."""
    async with opened(host_compiler=gate.compiler) as pool:
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(
                    lambda name: pool.compile(job(name=name, **HOST), on_beat=ignore),
                    f"job{number}",
                )
            await eventually(lambda: len(gate.pids()) == 2)
            during = pool.statistics()
            gate.open()
        after = pool.statistics()

    assert (during.slots, during.running, during.queued, during.workers) == (2, 2, 6, 2)
    assert (after.finished, after.running, after.queued, after.workers_started) == (8, 0, 0, 2)


async def test_waiting_jobs_start_in_the_order_they_came(gate: GatedCompiler) -> None:
    """First come, first served."""
    begun: list[int] = []

    async with opened(host_compiler=gate.compiler, compile_slots=1) as pool:

        async def compile_one(number: int) -> None:
            def beat(phase: str, _cpu_seconds: float) -> None:
                if phase == "compiling" and number not in begun:
                    begun.append(number)

            await pool.compile(job(**HOST), on_beat=beat)

        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(compile_one, number)
                await eventually(lambda: sum(_at_hand(pool)) == number + 1)  # noqa: B023
            gate.open()

    assert begun == [0, 1, 2, 3]


def _at_hand(pool: CompilePool) -> tuple[int, int]:
    statistics = pool.statistics()
    return statistics.running, statistics.queued


async def test_different_failures_reach_their_own_callers() -> None:
    """A pool goes on after an error."""
    async with opened(compile_slots=1) as pool:
        with pytest.raises(CompileError):
            await pool.compile(job("syntax error"), on_beat=ignore)
        output = await pool.compile(job(SCALE), on_beat=ignore)
        statistics = pool.statistics()

    assert output.kind == "cubin"
    assert (statistics.failed, statistics.finished, statistics.workers_started) == (1, 1, 1)


async def test_a_missing_compiler_starts_nothing(tmp_path: Path) -> None:
    """The error says what was searched."""
    async with opened(host_compiler=str(tmp_path / "none")) as pool:
        with pytest.raises(CompilerNotFound, match="none"):
            await pool.compile(job(**HOST), on_beat=ignore)

        assert pool.statistics().workers_started == 0


async def test_cancelling_a_queued_job_drops_it(gate: GatedCompiler) -> None:
    """It never starts, and the running one does not notice."""
    async with opened(host_compiler=gate.compiler, compile_slots=1) as pool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: pool.compile(job(**HOST), on_beat=ignore))
            await eventually(lambda: len(gate.pids()) == 1)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as inner:
                    inner.start_soon(lambda: pool.compile(job(**HOST), on_beat=ignore))
                    await eventually(lambda: pool.statistics().queued == 1)
                    scope.cancel()
            dropped = pool.statistics()
            gate.open()
        after = pool.statistics()

    assert (dropped.queued, dropped.running, dropped.killed) == (0, 1, 0)
    assert after.finished == 1
    assert len(gate.pids()) == 1


async def test_cancelling_a_running_job_kills_its_group_before_it_returns(
    gate: GatedCompiler, scratch: Path
) -> None:
    """The slot is free again, with a new worker, and no file is left."""
    async with opened(host_compiler=gate.compiler, compile_slots=1) as pool:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: pool.compile(job(**HOST), on_beat=ignore))
                await eventually(lambda: len(gate.pids()) == 1)
                group = os.getpgid(gate.pids()[0])
                scope.cancel()
        left = group_members(group)
        files = list(scratch.iterdir())
        gate.open()
        output = await pool.compile(job(**HOST), on_beat=ignore)
        statistics = pool.statistics()

    assert left == []
    assert files == []
    assert output.data == RESULT
    assert (statistics.killed, statistics.finished, statistics.workers_started) == (1, 1, 2)


async def test_cancelling_ends_every_kind_of_compiler(
    compiler: dict[str, str], scratch: Path
) -> None:
    """Inside a library, below nvcc, below g++: the group is gone, and a new worker serves."""
    kind = kind_of_compiler(compiler["compiler"])
    others = set(workers_of(os.getpid()))  # of fixtures that live as long as the session
    async with opened(compile_slots=1) as pool:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: pool.compile(job(ENDLESS, **compiler), on_beat=ignore))
                await eventually(lambda: set(workers_of(os.getpid())) > others)
                (group,) = set(workers_of(os.getpid())) - others
                await eventually(lambda: is_at_work(group, kind))
                scope.cancel()
        left = group_members(group)
        files = list(scratch.iterdir())
        output = await pool.compile(job(**compiler), on_beat=ignore)
        statistics = pool.statistics()

    assert (left, files) == ([], [])
    assert output.data
    assert (statistics.killed, statistics.finished, statistics.workers_started) == (1, 1, 2)


async def test_cancelling_one_job_leaves_its_neighbour_alone(gate: GatedCompiler) -> None:
    """Each slot kills its own group only."""
    outputs = []

    async with opened(host_compiler=gate.compiler) as pool, anyio.create_task_group() as tasks:

        async def stay() -> None:
            outputs.append(await pool.compile(job(**HOST), on_beat=ignore))

        tasks.start_soon(stay)
        await eventually(lambda: len(gate.pids()) == 1)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as inner:
                inner.start_soon(lambda: pool.compile(job(**HOST), on_beat=ignore))
                await eventually(lambda: len(gate.pids()) == 2)
                scope.cancel()
        gate.open()

    assert [output.data for output in outputs] == [RESULT]


async def test_closing_ends_everything(gate: GatedCompiler, scratch: Path) -> None:
    """Queued and running jobs are told; no process, thread or file of the pool is left."""
    errors: list[BaseException] = []
    before = set(threading.enumerate())

    async with opened(host_compiler=gate.compiler) as pool:

        async def compile_one() -> None:
            try:
                await pool.compile(job(**HOST), on_beat=ignore)
            except RuntimeClosed as exc:
                errors.append(exc)

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(compile_one)
            await eventually(lambda: len(gate.pids()) == 2)
            groups = [os.getpgid(pid) for pid in gate.pids()]
            await pool.aclose()
        statistics = pool.statistics()
        started = [t for t in set(threading.enumerate()) - before if "ajit-compile" in t.name]

    assert len(errors) == 4
    assert [group_members(group) for group in groups] == [[], []]
    assert list(scratch.iterdir()) == []
    assert started == []
    assert (statistics.running, statistics.queued, statistics.workers) == (0, 0, 0)
    assert "closed" in repr(pool)


async def test_a_closed_pool_takes_no_job() -> None:
    """Nothing is started; closing again does nothing."""
    async with opened() as pool:
        await pool.aclose()
        with pytest.raises(RuntimeClosed):
            await pool.compile(job(), on_beat=ignore)
        await pool.aclose()

    assert pool.statistics().workers_started == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_forked_pool_says_so(gate: GatedCompiler) -> None:
    """In the child nothing of it works; in the parent it goes on."""
    gate.open()
    async with opened(host_compiler=gate.compiler) as pool:
        await pool.compile(job(**HOST), on_beat=ignore)
        child = os.fork()
        if child == 0:
            try:
                pool.compile(job(**HOST), on_beat=ignore).send(None)
            except ForkedRuntime:
                os._exit(7)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        output = await pool.compile(job(**HOST), on_beat=ignore)

    assert os.waitstatus_to_exitcode(status) == 7
    assert output.data == RESULT


async def test_beats_tell_the_phase(gate: GatedCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    """About once a second, from threads of the pool and never from the loop's."""
    monkeypatch.setattr(pool_module, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(process_module, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(watch_module, "BEAT_SECONDS", 0.02)
    first: list[tuple[str, int]] = []
    second: list[tuple[str, int]] = []

    def note(beats: list[tuple[str, int]]) -> Callable[[str, float], None]:
        return lambda phase, _: beats.append((phase, threading.get_ident()))

    async with (
        opened(host_compiler=gate.compiler, compile_slots=1) as pool,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(lambda: pool.compile(job(**HOST), on_beat=note(first)))
        await eventually(lambda: len(first) >= 3)
        tasks.start_soon(lambda: pool.compile(job(**HOST), on_beat=note(second)))
        await eventually(lambda: len(second) >= 3)
        gate.open()

    assert {phase for phase, _ in first} <= {"queued", "compiling"}
    assert first[-1][0] == "compiling"
    assert [phase for phase, _ in second[:3]] == ["queued"] * 3
    assert second[-1][0] == "compiling"
    assert threading.get_ident() not in {thread for _, thread in first + second}


async def test_a_beat_that_fails_does_not_fail_the_compile(gate: GatedCompiler) -> None:
    """It gets no more calls, and one warning says why."""
    calls = []

    def broken(phase: str, _cpu_seconds: float) -> None:
        calls.append(phase)
        raise OSError("the lock file is gone")

    gate.open()
    async with opened(host_compiler=gate.compiler) as pool:
        with pytest.warns(AjitWarning, match="the lock file is gone"):
            output = await pool.compile(job(**HOST), on_beat=broken)

    assert output.data == RESULT
    assert len(calls) == 1


async def test_an_idle_worker_is_ended(
    gate: GatedCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warm server keeps no 100 MB for compiles that do not come; the next starts a new one."""
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.02)
    gate.open()
    async with opened(host_compiler=gate.compiler) as pool:
        await pool.compile(job(**HOST), on_beat=ignore)
        await eventually(lambda: pool.statistics().workers == 0)
        await pool.compile(job(**HOST), on_beat=ignore)

        assert pool.statistics().workers_started == 2


async def test_closing_does_not_wait_for_a_beat_that_hangs(
    gate: GatedCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A beat may be stuck on a dead file system; closing is bounded and says what it left."""
    monkeypatch.setattr(pool_module, "CLOSE_SECONDS", 0.1)
    release, hanging = threading.Event(), threading.Event()

    def hang(_phase: str, _cpu_seconds: float) -> None:
        hanging.set()
        release.wait(LIMIT_SECONDS)

    async with opened(host_compiler=gate.compiler) as pool, anyio.create_task_group() as tasks:

        async def compile_one() -> None:
            with contextlib.suppress(RuntimeClosed):
                await pool.compile(job(**HOST), on_beat=hang)

        tasks.start_soon(compile_one)
        await eventually(hanging.is_set)
        with pytest.warns(AjitWarning, match="ajit-compile-1"):
            await pool.aclose()
        release.set()


async def test_a_toolchain_that_was_replaced_is_not_used(
    gate: GatedCompiler, tmp_path: Path
) -> None:
    """The result would be published under the key of the old compiler."""
    gate.open()
    given = settings(host_compiler=gate.compiler)
    toolchain = await anyio.to_thread.run_sync(Toolchains(given).find, "host")
    await anyio.to_thread.run_sync(fake_compiler, tmp_path, 'echo other > "$out"')
    async with opened(host_compiler=gate.compiler) as pool:
        with pytest.raises(CompilerNotFound, match="replaced"):
            await pool.compile(job(**HOST), on_beat=ignore, toolchain=toolchain)
