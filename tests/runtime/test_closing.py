"""Closing a runtime while it works, and using it where it cannot be used."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading

import anyio
import numpy as np
import pytest

import ajit
from tests.runtime.processes import PROJECT
from tests.runtime.sources import ARCH, SAXPY, SAXPY_SOURCE, saxpy

pytestmark = pytest.mark.anyio


async def test_closing_while_compiles_run_tells_every_waiter(options, compiler, nothing_left):
    """Waiters of running and of queued compiles get RuntimeClosed, and no compiler goes on."""
    compiler.hold()
    errors = []

    async def want(rt, spec):
        with pytest.raises(ajit.RuntimeClosed) as caught:
            await rt.compile(spec, arch=ARCH)
        errors.append(caught.value)

    async with anyio.create_task_group() as group:
        async with ajit.open_runtime(**options) as rt:
            for variant in range(1, 6):
                group.start_soon(want, rt, saxpy(variant))
            await compiler.wait_started(2)
        nothing_left()

    assert len(errors) == 5
    assert compiler.started == 2


async def test_kernel_that_was_compiling_at_the_close_is_served_by_the_next_runtime(
    options, compiler
):
    """A close in the middle costs the compile that was under way, and nothing else."""
    compiler.hold()
    async with anyio.create_task_group() as group, ajit.open_runtime(**options) as rt:
        group.start_soon(_closed_under, rt)
        await compiler.wait_started()
    compiler.let_go()

    async with ajit.open_runtime(**options) as rt:
        with anyio.fail_after(60):
            resolution = await rt.resolve(SAXPY, arch=ARCH)

    assert resolution.tier == "compiled"
    assert resolution.waited_for is None


async def _closed_under(rt):
    with pytest.raises(ajit.RuntimeClosed):
        await rt.compile(SAXPY, arch=ARCH)


async def test_closing_waits_for_device_work_in_flight(with_device):
    """Work submitted before the close and not done by then is done after it."""
    n = 1 << 20
    x = np.ones(n, np.float32)

    async with ajit.open_runtime(**with_device) as rt:
        kernel = await rt.kernel(SAXPY)
        device_x = await rt.device.upload(x)
        device_y = await rt.device.upload(x)
        tickets = [kernel.launch(n // 256, 256, 1.0, device_x, device_y, n) for _ in range(32)]
        in_flight = not tickets[-1].done

    assert in_flight, "the device was too fast for this test"
    assert all(ticket.done for ticket in tickets)
    for ticket in tickets:
        await ticket  # raises, had it failed


async def test_runtime_refuses_every_call_after_its_close(with_device):
    """Also a kernel that it had loaded: nothing can be launched on a device that is gone."""
    async with ajit.open_runtime(**with_device) as rt:
        await rt.kernel(SAXPY)

    with pytest.raises(ajit.RuntimeClosed):
        await rt.kernel(SAXPY)
    with pytest.raises(ajit.RuntimeClosed):
        await rt.module(SAXPY)
    with pytest.raises(ajit.RuntimeClosed):
        await rt.compile(SAXPY, arch=ARCH)
    with pytest.raises(ajit.RuntimeClosed):
        await rt.warmup([SAXPY])
    with pytest.raises(ajit.RuntimeClosed):
        _ = rt.device


async def test_launch_after_the_close_is_refused(with_device):
    """A kernel that outlives its runtime says so, instead of touching a device that is gone."""
    async with ajit.open_runtime(**with_device) as rt:
        kernel = await rt.kernel(SAXPY)
        x = await rt.device.upload(np.ones(4, np.float32))

    with pytest.raises(ajit.RuntimeClosed):
        kernel.launch(1, 32, 1.0, x, x, 4)


async def test_runtime_of_another_loop_is_refused(with_device):
    """A task of another event loop, in another thread, gets WrongLoop: also for a loaded kernel."""
    outcomes: queue.SimpleQueue = queue.SimpleQueue()

    async def from_another_loop(rt):
        for call in (rt.kernel, rt.module, rt.compile):
            try:
                await call(SAXPY)
            except ajit.WrongLoop as exc:
                outcomes.put(exc)

    async with ajit.open_runtime(**with_device) as rt:
        await rt.kernel(SAXPY)
        other = threading.Thread(target=lambda: anyio.run(from_another_loop, rt))
        other.start()
        await anyio.to_thread.run_sync(other.join)

    assert outcomes.qsize() == 3
    assert "open one in each loop" in str(outcomes.get())


async def test_runtime_can_be_opened_again_as_often_as_one_likes(options):
    """Each time a new one on the same cache; those that are closed say so."""
    opened, tiers = [], []
    for _ in range(3):
        async with ajit.open_runtime(**options) as rt:
            opened.append(rt)
            tiers.append((await rt.resolve(SAXPY, arch=ARCH)).tier)

    assert tiers == ["compiled", "disk", "disk"]
    assert ["<Runtime closed" in repr(rt) for rt in opened] == [True] * 3


FORKS = """
import os, sys, json
import anyio, ajit

async def main(settings, source, backend):
    spec = ajit.Spec(source, "saxpy")
    async with ajit.open_runtime(**settings) as rt:
        await rt.kernel(spec)
        child = os.fork()
        if child == 0:
            outcome = 1
            try:
                await rt.kernel(spec)
            except ajit.ForkedRuntime as exc:
                outcome = 0 if "child process" in str(exc) else 2
            finally:
                os._exit(outcome)
        outcome = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        kernel = await rt.kernel(spec)
        compiled = await rt.compile(spec.with_(defines=(("AFTER", "1"),)))
    print(json.dumps({"child": outcome, "parent": compiled.name}))

anyio.run(main, json.loads(sys.argv[1]), sys.argv[2], sys.argv[3], backend=sys.argv[3])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_runtime_is_refused_in_a_forked_child_and_goes_on_in_the_parent(with_device, backend):
    """The child gets ForkedRuntime; the parent's loop, leases and compilers are unharmed."""
    result = subprocess.run(
        [sys.executable, "-c", FORKS, json.dumps(with_device), SAXPY_SOURCE, backend],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"child": 0, "parent": "saxpy"}


async def test_kernel_that_arrives_in_the_turn_of_the_close_is_not_kept(with_device):
    """A caller that resumes just after the close does not make the closed runtime hot again."""

    async def want(rt):
        await rt.kernel(SAXPY)

    async with anyio.create_task_group() as group, ajit.open_runtime(**with_device) as rt:
        group.start_soon(want, rt)
        await rt.module(SAXPY)

    with pytest.raises(ajit.RuntimeClosed):
        await rt.kernel(SAXPY)
