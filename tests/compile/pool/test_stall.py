"""A compiler that is stopped or dead-locked is killed, and one that works is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import anyio
import pytest

from ajit._compile.pool import group as group_module
from ajit._compile.pool import stall as stall_module
from ajit._compile.pool.group import Group, look_at_group
from ajit._compile.pool.stall import STALL_SECONDS, Stall
from ajit.errors import CompilerStalled
from tests.compile.gates import eventually, ignore, opened
from tests.compile.support import ENDLESS, RESULT, group_members, job, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.compile.support import Bench

HOST = {"compiler": "host", "arch": os.uname().machine}
STOPPED_LIMIT, PERIOD = 10.0, 1.0


def group(cpu_seconds: float = 1.0, *, runs: bool = False, stopped: bool = False) -> Group:
    """What a look at a compiler's processes gives."""
    return Group(memory_bytes=0, cpu_seconds=cpu_seconds, runs=runs, stopped=stopped)


def looks(*groups: Group) -> list[str]:
    """What is said of groups that are seen a period apart."""
    stall = Stall(0.0, STOPPED_LIMIT, PERIOD)
    return [stall.look(PERIOD * (n + 1), seen) for n, seen in enumerate(groups)]


def test_a_compiler_that_uses_cpu_time_never_stalls() -> None:
    """However little it is between two looks."""
    assert not any(looks(*(group(n / 100) for n in range(500))))


def test_a_compiler_that_waits_for_its_turn_never_stalls() -> None:
    """On a machine with no CPU to spare, it is runnable and gets none."""
    assert not any(looks(*[group(runs=True)] * 500))


def test_a_compiler_that_cannot_be_seen_never_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no /proc, nothing is known of its CPU time."""
    monkeypatch.setattr(group_module, "_read", lambda _path: b"")
    monkeypatch.setattr(group_module, "_all_processes", list)
    unseen = look_at_group(os.getpid())

    assert (unseen.memory_bytes, unseen.cpu_seconds) == (0, 0.0)
    assert not any(looks(*[unseen] * 500))


def test_a_compiler_without_cpu_time_stalls_after_the_limit() -> None:
    """Not before, and the time begins anew with each progress."""
    idle = int(STALL_SECONDS / PERIOD)
    expected = f"used no CPU time for {STALL_SECONDS + PERIOD:.0f} s"
    actual = looks(*[group(1.0)] * idle, *[group(2.0)] * (idle + 2))

    assert actual == [*[""] * (2 * idle + 1), expected]


def test_a_stopped_compiler_stalls_after_the_patience() -> None:
    """It is told apart from one that is merely idle."""
    actual = looks(group(), *[group(stopped=True)] * 11)

    assert actual == [*[""] * 11, "was stopped for 11 s (SIGSTOP, a debugger)"]


def test_a_stopped_child_of_a_compiler_that_works_does_not_stall() -> None:
    """As long as any other process of it makes progress."""
    assert not any(looks(*(group(float(n), stopped=True) for n in range(100))))


def test_the_time_in_which_the_server_was_stopped_does_not_count() -> None:
    """It knows nothing of that time: everything on the machine may have been stopped."""
    stall = Stall(0.0, STOPPED_LIMIT, PERIOD)
    first = stall.look(PERIOD, group(stopped=True))
    after_an_hour = stall.look(3600.0, group(stopped=True))

    assert (first, after_an_hour) == ("", "")


def test_cpu_time_is_that_of_children_that_have_ended_as_well(tmp_path: Path) -> None:
    """Nvcc starts one program after the other; what they used stays in the sum."""
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    script = f"{sys.executable} -c '{burn}'; touch '{tmp_path}/done'; read x < '{tmp_path}/never'"
    os.mkfifo(tmp_path / "never")
    leader = subprocess.Popen(["sh", "-c", script], process_group=0)
    try:
        wait_until((tmp_path / "done").exists, "the end of the child")
        after = look_at_group(leader.pid).cpu_seconds
    finally:
        leader.kill()
        leader.wait()

    assert after > 0.2  # each time is counted in whole ticks


def test_a_stopped_compiler_is_killed(faking: Callable[..., Bench]) -> None:
    """Its whole group, after the patience, and the next compile of the slot works."""
    bench = faking('kill -STOP "$$"; cp "$whole" "$out"', patience_seconds=0.5)
    with pytest.raises(CompilerStalled, match="was stopped for") as caught:
        bench.compile(job(**HOST))

    assert bench.slot.worker_pid is None
    assert caught.value.cpu_seconds >= 0.0


def test_a_dead_locked_compiler_is_killed(
    faking: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its processes wait for each other and use no CPU time."""
    monkeypatch.setattr(stall_module, "STALL_SECONDS", 1.0)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    bench = faking(f'cat "{pipe}" > /dev/null; cp "$whole" "$out"')
    with pytest.raises(CompilerStalled, match="used no CPU time"):
        bench.compile(job(**HOST))

    assert bench.slot.worker_pid is None


def test_a_compiler_that_is_continued_in_time_goes_on(faking: Callable[..., Bench]) -> None:
    """A stop shorter than the patience costs nothing."""
    # Again and again: what continues it may come before it is stopped.
    script = 'while [ ! -e "$out" ]; do kill -CONT $$; sleep 0.01; done &\n'
    bench = faking(f'{script}kill -STOP $$; cp "$whole" "$out"')

    assert bench.compile(job(**HOST)).data == RESULT


@pytest.mark.anyio
async def test_a_stopped_worker_of_a_compiler_library_is_killed() -> None:
    """NVRTC runs in the worker itself; who stops that stops the compile."""
    async with opened(compile_slots=1, patience_seconds=0.5) as pool:
        stopped: list[int] = []

        async def stop() -> None:
            await eventually(lambda: pool.phase(job().key) == "compiling" and bool(_workers(pool)))
            stopped.extend(_workers(pool))
            os.kill(stopped[0], signal.SIGSTOP)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop)
            with pytest.raises(CompilerStalled):
                await pool.compile(job(ENDLESS), on_beat=ignore)

        assert group_members(stopped[0]) == []


def _workers(pool: object) -> list[int]:
    slots = pool._slots  # type: ignore[attr-defined]
    return [slot.worker_pid for slot in slots if slot.worker_pid]


@pytest.mark.anyio
async def test_beats_tell_the_cpu_time_of_the_compile() -> None:
    """Those who wait see that it makes progress."""
    told: list[float] = []
    async with opened(compile_slots=1) as pool, anyio.create_task_group() as tasks:
        tasks.start_soon(
            lambda: pool.compile(job(ENDLESS), on_beat=lambda _, cpu: told.append(cpu))
        )
        await eventually(lambda: bool(told) and told[-1] > 0.5)
        tasks.cancel_scope.cancel()

    assert told == sorted(told)
