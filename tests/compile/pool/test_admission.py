"""The order of compiles: urgency, memory, and admission from outside; on every event loop."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import anyio
import pytest

from ajit._compile.pool import admission as admission_module
from ajit._compile.pool.ledger import RESERVE_BYTES, MemoryLedger
from ajit.errors import AjitWarning
from tests.compile.gates import LIMIT_SECONDS, GatedCompiler, eventually, ignore, opened
from tests.compile.support import job

if TYPE_CHECKING:
    from pathlib import Path

    from ajit._compile.pool.pool import CompilePool
    from ajit._core.job import CompileJob
    from ajit._system.priority_line import Priority

GIB = 1 << 30
HOST = {"compiler": "host", "arch": os.uname().machine}


class Order:
    """Jobs for a pool, and the order in which they begin."""

    def __init__(self, pool: CompilePool, tasks: anyio.abc.TaskGroup) -> None:
        self._pool = pool
        self._tasks = tasks
        self.begun: list[str] = []

    async def submit(self, name: str, priority: Priority) -> None:
        """Hand a job to the pool and wait until it is there."""
        statistics = self._pool.statistics()
        expected = statistics.queued + statistics.running + 1

        def beat(phase: str, _cpu_seconds: float) -> None:
            if phase == "compiling" and name not in self.begun:
                self.begun.append(name)

        given = job(name=name, key=name * 32, **HOST)
        self._tasks.start_soon(lambda: self._pool.compile(given, on_beat=beat, priority=priority))

        def is_there() -> bool:
            now = self._pool.statistics()
            return now.queued + now.running + now.finished >= expected

        await eventually(is_there)


class CountingGate:
    """Leave for so many compiles at once, as if others had the rest."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.asked: list[str] = []

    def try_admit(self, given: CompileJob) -> CountingGate | None:
        """A permit, which is the gate itself."""
        self.asked.append(given.name)
        if self.free == 0:
            return None
        self.free -= 1
        return self

    def release(self) -> None:
        """Take a permit back."""
        self.free += 1


# --- urgency


@pytest.mark.anyio
async def test_foreground_goes_before_background(gate: GatedCompiler) -> None:
    """Within each, first come, first served; a promoted job goes with the foreground."""
    async with (
        opened(host_compiler=gate.compiler, compile_slots=1) as pool,
        anyio.create_task_group() as tasks,
    ):
        order = Order(pool, tasks)
        for name in ("a0", "b1", "b2", "b3"):
            await order.submit(name, "background")
        await eventually(lambda: len(gate.pids()) == 1)
        for name in ("f1", "f2"):
            await order.submit(name, "foreground")
        queued = pool.statistics()
        promoted = pool.promote("b3" * 32), pool.promote("b3" * 32), pool.promote("a0" * 32)
        gate.open()

    assert (queued.queued, queued.queued_background) == (5, 3)
    assert promoted == (True, False, False)
    assert order.begun == ["a0", "f1", "f2", "b3", "b1", "b2"]


@pytest.mark.anyio
async def test_the_last_slot_is_kept_while_requests_come_in(
    gate: GatedCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request does not wait for a compile of the warm-up, once requests have begun to come."""
    monkeypatch.setattr(admission_module, "URGENT_SECONDS", 1000.0)
    async with (
        opened(host_compiler=gate.compiler, compile_slots=2) as pool,
        anyio.create_task_group() as tasks,
    ):
        order = Order(pool, tasks)
        await order.submit("f1", "foreground")
        await eventually(lambda: order.begun == ["f1"])  # the slots' threads race with each other
        for name in ("b1", "b2"):
            await order.submit(name, "background")
        await eventually(lambda: pool.statistics().held_back == "foreground")
        held = pool.statistics()
        await order.submit("f2", "foreground")
        await eventually(lambda: len(gate.pids()) == 2)
        begun = list(order.begun)
        gate.open()

    assert (held.running, held.queued) == (1, 2)
    assert begun == ["f1", "f2"]
    assert sorted(order.begun) == ["b1", "b2", "f1", "f2"]


@pytest.mark.anyio
async def test_an_undisturbed_warm_up_uses_every_slot(gate: GatedCompiler) -> None:
    """Before the first request no task is kept waiting, so nothing is kept free."""
    async with (
        opened(host_compiler=gate.compiler, compile_slots=2) as pool,
        anyio.create_task_group() as tasks,
    ):
        order = Order(pool, tasks)
        for name in ("b1", "b2", "b3"):
            await order.submit(name, "background")
        await eventually(lambda: len(gate.pids()) == 2)
        gate.open()

    assert pool.statistics().finished == 3


# --- memory


@pytest.mark.anyio
async def test_a_compile_waits_for_memory_and_says_so(
    gate: GatedCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One always runs; the next starts when there is room, and beats as queued until then."""
    available = [GIB]
    phases: list[str] = []
    monkeypatch.setattr(admission_module, "available_memory_bytes", lambda: available[0])
    async with (
        opened(host_compiler=gate.compiler, compile_memory_estimate_bytes=GIB) as pool,
        anyio.create_task_group() as tasks,
    ):
        order = Order(pool, tasks)
        await order.submit("f1", "foreground")
        await eventually(lambda: len(gate.pids()) == 1)
        tasks.start_soon(
            lambda: pool.compile(job(**HOST), on_beat=lambda phase, _: phases.append(phase))
        )
        await eventually(lambda: pool.statistics().held_back == "memory" and bool(phases))
        held = pool.statistics()
        available[0] = 4 * GIB
        await eventually(lambda: len(gate.pids()) == 2)
        gate.open()

    assert (held.running, held.queued, held.slots) == (1, 1, 2)
    assert phases[0] == "queued"
    assert (pool.statistics().finished, pool.statistics().held_back) == (2, "")


@pytest.mark.anyio
async def test_a_job_that_waits_for_memory_can_be_cancelled(
    gate: GatedCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is still queued, so it is dropped; what comes after it is served."""
    monkeypatch.setattr(admission_module, "available_memory_bytes", lambda: 0)
    async with (
        opened(host_compiler=gate.compiler) as pool,
        anyio.create_task_group() as tasks,
    ):
        order = Order(pool, tasks)
        await order.submit("f1", "foreground")
        await eventually(lambda: len(gate.pids()) == 1)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as inner:
                inner.start_soon(lambda: pool.compile(job(**HOST), on_beat=ignore))
                await eventually(lambda: pool.statistics().held_back == "memory")
                scope.cancel()
        dropped = pool.statistics()
        gate.open()
        await order.submit("f2", "foreground")

    assert (dropped.queued, dropped.running, dropped.killed) == (0, 1, 0)
    assert pool.statistics().finished == 2


def test_promised_memory_is_not_free() -> None:
    """Compiles that have just started use nothing yet; by free memory alone all would start."""
    ledger = MemoryLedger(estimate_bytes=GIB, limit_bytes=8 * GIB)
    available = 3 * GIB + RESERVE_BYTES
    claims = [ledger.enter("nvcc") for _ in range(9) if ledger.admits("nvcc", available)]
    claims[0].note(GIB)  # it has what it asked for..

    assert len(claims) == 3
    assert not ledger.admits("nvcc", available - GIB)  # ..and that is no longer free
    ledger.leave(claims[0])
    assert ledger.admits("nvcc", available)


def test_the_estimate_follows_what_compiles_need() -> None:
    """Up at once, down slowly, per compiler; never below the setting or above the limit."""
    ledger = MemoryLedger(estimate_bytes=GIB, limit_bytes=4 * GIB)
    assert ledger.admits("nvcc", 0), "one is always admitted"
    _use(ledger, 3 * GIB)
    after_one = ledger.expected_bytes("nvcc")
    _use(ledger, GIB)
    after_less = ledger.expected_bytes("nvcc")
    _use(ledger, 9 * GIB)

    assert after_one == 3 * GIB
    assert GIB < after_less < 3 * GIB
    assert ledger.expected_bytes("nvcc") == 4 * GIB
    assert ledger.expected_bytes("host") == GIB
    for _ in range(99):
        _use(ledger, 0)
    assert ledger.expected_bytes("nvcc") == GIB


def test_build_gets_as_many_jobs_as_there_is_memory_for() -> None:
    """Its claim is that of so many compiles, and what one of them needs is learned from it."""
    ledger = MemoryLedger(estimate_bytes=GIB, limit_bytes=8 * GIB)
    available = 5 * GIB + RESERVE_BYTES
    few = ledger.admits("build", GIB // 2, 8)
    jobs = ledger.admits("build", available, 8)
    claim = ledger.enter("build", jobs)
    beside = ledger.admits("build", available, 8)
    claim.note(15 * GIB)
    ledger.leave(claim)

    assert (few, jobs, beside) == (1, 5, 0)
    assert ledger.expected_bytes("build") == 3 * GIB


def test_memory_that_is_not_known_or_not_asked_for_holds_nothing_back() -> None:
    """A machine without /proc/meminfo still compiles; so does one whose user says 0."""
    ledger = MemoryLedger(estimate_bytes=GIB, limit_bytes=GIB)
    ledger.enter("nvrtc")
    careless = MemoryLedger(estimate_bytes=0, limit_bytes=GIB)
    careless.enter("nvrtc")

    assert ledger.admits("nvrtc", None)
    assert not ledger.admits("nvrtc", 0)
    assert careless.admits("nvrtc", 0)


def _use(ledger: MemoryLedger, peak_bytes: int) -> None:
    claim = ledger.enter("nvcc")
    claim.note(peak_bytes)
    claim.note(0)
    ledger.leave(claim)


# --- leave from outside


@pytest.mark.anyio
async def test_nothing_starts_without_a_permit(gate: GatedCompiler) -> None:
    """Permits are asked for when all else is there, and released when the compiler has ended."""
    outside = CountingGate(free=0)
    async with (
        opened(host_compiler=gate.compiler, admission=outside) as pool,
        anyio.create_task_group() as tasks,
    ):
        order = Order(pool, tasks)
        await order.submit("b1", "background")
        await eventually(lambda: pool.statistics().held_back == "permit")
        await order.submit("f1", "foreground")
        await eventually(lambda: "f1" in outside.asked)
        outside.free = 1
        await eventually(lambda: len(gate.pids()) == 1)
        begun, left = list(order.begun), outside.free
        gate.open()

    assert (begun, left) == (["f1"], 0)
    assert order.begun == ["f1", "b1"]
    assert outside.free == 1


@pytest.mark.anyio
async def test_a_permit_of_a_cancelled_job_is_released(gate: GatedCompiler) -> None:
    """Also if it is killed while it runs."""
    outside = CountingGate(free=1)
    async with opened(host_compiler=gate.compiler, admission=outside) as pool:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                order = Order(pool, tasks)
                await order.submit("f1", "foreground")
                await eventually(lambda: len(gate.pids()) == 1)
                scope.cancel()

    assert outside.free == 1


@pytest.mark.anyio
async def test_a_permit_that_comes_too_late_is_released(gate: GatedCompiler) -> None:
    """The job was cancelled while the gate was asked: nothing starts, and nothing is kept."""
    asked, answer = threading.Event(), threading.Event()

    class Slow(CountingGate):
        def try_admit(self, given: CompileJob) -> CountingGate | None:
            asked.set()
            answer.wait(LIMIT_SECONDS)
            return super().try_admit(given)

    outside = Slow(free=1)
    async with opened(host_compiler=gate.compiler, admission=outside) as pool:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: pool.compile(job(**HOST), on_beat=ignore))
                await eventually(asked.is_set)
                scope.cancel()
        answer.set()
        await eventually(lambda: len(outside.asked) == 1)

    assert outside.free == 1
    assert gate.pids() == []


@pytest.mark.anyio
async def test_a_gate_that_breaks_stops_no_compile(gate: GatedCompiler, tmp_path: Path) -> None:
    """It only saves load: one warning, and the pool goes on without it."""

    class Broken:
        def try_admit(self, given: CompileJob) -> None:
            raise OSError(f"no locks in {tmp_path} for {given.name}")

    gate.open()
    async with opened(host_compiler=gate.compiler, admission=Broken()) as pool:
        with pytest.warns(AjitWarning, match="no locks in"):
            await pool.compile(job(**HOST), on_beat=ignore)
        await pool.compile(job(**HOST), on_beat=ignore)

        assert pool.statistics().finished == 2
