"""A fork while operations are in flight: the child is refused, and the parent goes on unharmed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.support import ON_GPU

pytestmark = pytest.mark.skipif(ON_GPU, reason="only the CPU driver works slowly on demand")

FORKS = 3
# The main thread forks while the loop of another one has tickets in flight: locks and queues are
# caught in any state. The children end as processes do, finalizers and all.
PROGRAM = """
import os, sys, threading
import anyio
from tests.gpu.support import Faults, cpu_device, kernels

OPTIONS = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}[sys.argv[1]]
ready, leave = threading.Event(), threading.Event()
shared = []

async def parent():
    async with cpu_device() as device:
        kernel, buffer = (await kernels(device))("add_one"), await device.upload(bytes(4))
        Faults().inject("device:host", delay=0.002, count=1_000_000)
        tickets = [kernel.launch(1, 1, buffer, 1) for _ in range(300)]
        shared.extend([device, kernel, buffer, tickets])
        ready.set()
        for ticket in tickets:
            await ticket
        await anyio.to_thread.run_sync(leave.wait)
        print("parent:", int.from_bytes(await device.download(buffer), "little"))

async def open_a_device():
    async with cpu_device():
        pass

def child(device, kernel, buffer, tickets):
    ways = [
        lambda: kernel.launch(1, 1, buffer, 1), device.mark,
        lambda: anyio.run(device.synchronize), lambda: anyio.run(device.alloc, 4),
        lambda: anyio.run(device.aclose), lambda: anyio.run(open_a_device),
    ]
    names = []
    for use in ways:
        try:
            use()
            names.append("nothing")
        except Exception as error:
            names.append(type(error).__name__)
    buffer.free()
    print("child:", *names, bool(device.health()))

thread = threading.Thread(target=anyio.run, args=(parent,), kwargs=OPTIONS)
thread.start()
ready.wait()
for _ in range(int(sys.argv[2])):
    pid = os.fork()
    if pid == 0:
        child(*shared)
        sys.exit(5)
    print("ended:", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
leave.set()
thread.join()
"""


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_forks_while_operations_are_in_flight(backend: str) -> None:
    """Each use in the child is ForkedRuntime, it ends in time, and the parent loses nothing."""
    environment = os.environ | {"PYTHONMALLOC": "debug"}  # finds what was freed and is used
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", PROGRAM, backend, str(FORKS)],
        cwd=Path(__file__).parents[2], env=environment, check=False, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    refused = "ForkedRuntime " * 4
    child = f"child: {refused}nothing ForkedRuntime False"

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [child, "ended: 5"] * FORKS + ["parent: 300"]
