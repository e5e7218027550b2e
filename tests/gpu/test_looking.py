"""Looking for a ticket before parking: when it is done, for how long, and what it costs."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import anyio
import pytest

from ajit._gpu.completion import waiting
from ajit._gpu.inner import inner
from tests.gpu.support import GRACE_SECONDS, cpu_device, until, until_blocking

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

IDLE_SECONDS = 5.0
LOOKED = 1
"""Index of the word of the port that says how long tasks have looked since the last turn, in ns."""


@pytest.mark.usefixtures("patient_threads")
async def test_awaiting_what_is_soon_done_never_lets_the_gil_go(monkeypatch):
    """Beside a thread that wants the GIL, no await of a quick ticket costs a switch of threads."""
    turns, stop = 0, False

    def want_the_gil():
        nonlocal turns
        while not stop:
            turns += 1
            time.sleep(0)  # lets the GIL go, and wants it back

    async with cpu_device() as first:
        await first.mark()  # the CUDA thread needs the GIL once, to begin
        monkeypatch.setattr(waiting, "SPIN_SECONDS", 30.0)  # no look ends before its ticket
        monkeypatch.setattr(waiting, "HOG_SECONDS", 3000.0)
        thread = threading.Thread(target=want_the_gil, daemon=True)
        async with cpu_device() as device:
            thread.start()
            before = turns
            for _ in range(100):
                await device.mark()
            after = turns
        stop = True
        await anyio.to_thread.run_sync(thread.join)

    assert after == before


async def test_a_turn_of_the_loop_ends_the_count_of_hogging(faults):
    """A server that awaits one ticket per request never parks for what earlier requests looked."""
    almost_ns = int(waiting.HOG_SECONDS * 1e9) - 1
    async with cpu_device() as device:
        looked = device._port.memory.looking
        with faults.held():
            ticket = device.mark()
            looked[LOOKED] = almost_ns
            device._port.waiting.look_for(inner(ticket))
            assert looked[LOOKED] > almost_ns
            await until(lambda: looked[LOOKED] == 0)
        await ticket


async def test_a_look_that_took_too_long_by_itself_is_forgotten_as_well(faults, monkeypatch):
    """A thread that was off its processor while it looked does not park at the next ticket."""
    monkeypatch.setattr(waiting, "SPIN_SECONDS", 2 * waiting.HOG_SECONDS)
    async with cpu_device() as device:
        looked = device._port.memory.looking
        looked[LOOKED] = 0
        with faults.held():
            ticket = device.mark()
            device._port.waiting.look_for(inner(ticket))
            assert looked[LOOKED] > waiting.HOG_SECONDS * 1e9
            await until(lambda: looked[LOOKED] == 0)
        await ticket


async def test_no_task_spins_for_a_call_that_needs_the_gil_itself(monkeypatch):
    """The task that waits for a Python function on the CUDA thread lets it have the GIL."""
    async with cpu_device() as first:
        await first.mark()
        monkeypatch.setattr(waiting, "SPIN_SECONDS", 30.0)
        monkeypatch.setattr(waiting, "HOG_SECONDS", 30.0)
        async with cpu_device() as device:
            with anyio.fail_after(GRACE_SECONDS):
                actual = await device.run(threading.get_native_id)

    assert actual != threading.get_native_id()


async def test_a_task_looks_longer_where_parking_has_cost_much(faults):
    """After resumptions that came late, each look lasts `HOG_SECONDS`, five of them at most."""
    limit_ns = int(waiting.HOG_SECONDS * 1e9)
    sums = []
    async with cpu_device() as device:
        port = device._port
        for _ in range(3):
            _settle_late(device)
        looked = port.memory.looking
        looked[LOOKED] = 0
        with faults.held():
            ticket = device.mark()
            for _ in range(6):
                port.waiting.look_for(inner(ticket))
                sums.append(looked[LOOKED])
        await ticket

    assert sums[0] >= limit_ns
    assert sums[4] >= 5 * limit_ns
    assert sums[5] == sums[4]  # the limit is reached: others first


async def test_tasks_look_no_longer_than_agreed_where_parking_costs_little(faults):
    """Where nothing was late, looks add up to `HOG_SECONDS`, and then others have a turn."""
    limit_ns = int(waiting.HOG_SECONDS * 1e9)
    sums = []
    async with cpu_device() as device:
        looked = device._port.memory.looking
        with faults.held():
            ticket = device.mark()
            looked[LOOKED] = 0
            for _ in range(3):
                device._port.waiting.look_for(inner(ticket))
                sums.append(looked[LOOKED])
        await ticket

    assert sums[1] >= limit_ns
    assert sums[2] == sums[1]


@pytest.mark.slow  # it takes a while to use up hardly any time
async def test_an_idle_device_costs_no_processor_time():
    """Whatever went before, an idle device takes less than a hundredth of one processor."""
    others = _threads() - {str(threading.get_native_id())}
    async with cpu_device() as device:
        for _ in range(100):
            await device.mark()
        threads = _threads() - others
        before = sum(map(_cpu_seconds, threads))
        await anyio.sleep(IDLE_SECONDS)
        used = sum(map(_cpu_seconds, threads)) - before

    assert used < IDLE_SECONDS / 100


async def test_on_one_processor_no_task_spins(faults, monkeypatch):
    """A look would keep the one processor from the device, however late parked tasks come back."""
    monkeypatch.setattr(waiting.os, "sched_getaffinity", lambda _: {0})
    async with cpu_device() as device:
        for _ in range(3):
            _settle_late(device)
        looked = device._port.memory.looking
        with faults.held():
            ticket = device.mark()
            looked[LOOKED] = 0
            device._port.waiting.look_for(inner(ticket))
            actual = looked[LOOKED]
        await ticket

    assert actual == 0


async def test_tasks_rarely_spin_where_tickets_have_been_slow(faults):
    """Where looks would have found none, there is one in sixteen, to see what has changed."""
    async with cpu_device() as device:
        looked = device._port.memory.looking
        with faults.held():
            tickets = [device.mark() for _ in range(40)]
            until_blocking(_after(4 * waiting.HOG_SECONDS))
        for ticket in tickets:
            await ticket
        looks = []
        with faults.held():
            ticket = device.mark()
            for _ in range(32):
                looked[LOOKED] = 0
                device._port.waiting.look_for(inner(ticket))
                looks.append(looked[LOOKED] > 0)
        await ticket

    assert sum(looks) == 2
    assert looks.index(True) + 16 == len(looks) - looks[::-1].index(True) - 1


def _settle_late(device):
    """Let a ticket be done long before the loop takes it."""
    settled = device.statistics().settled
    device.mark()
    until_blocking(lambda: device.statistics().settled > settled)
    until_blocking(_after(4 * waiting.HOG_SECONDS))
    device._port.drain()


def _threads():
    """Ids of the threads of this process, native ones as well."""
    return {path.name for path in Path("/proc/self/task").iterdir()}


def _cpu_seconds(thread):
    """Processor time of a thread so far."""
    fields = Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _after(seconds):
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end
