"""Signals: Ctrl-C while a task awaits a ticket, and a storm that interrupts every system call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.support import ON_GPU

pytestmark = [
    pytest.mark.skipif(ON_GPU, reason="only the CPU driver stands still on demand"),
    pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"]),
]

COMMON = """
import os, signal, sys, threading, time
import anyio
from ajit._gpu.completion.thread import running_threads
from tests.gpu.support import Faults, cpu_device, kernels, until_blocking

OPTIONS = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}[sys.argv[1]]
"""
# The device stands still, so that the ticket is in flight, and goes on when the device is closed.
INTERRUPTED = (
    COMMON
    + """
devices = []

def press_and_let_go():
    until_blocking(lambda: devices and devices[0].statistics().in_flight)
    os.kill(os.getpid(), signal.SIGINT)
    until_blocking(lambda: devices[0]._port.closed)
    Faults().let_go()

async def main():
    async with cpu_device() as device:
        buffer = await device.alloc(64)
        Faults().hold()
        devices.append(device)
        await device.fill(buffer, 1)

presser = threading.Thread(target=press_and_let_go)
presser.start()
try:
    anyio.run(main, **OPTIONS)
except BaseException as error:
    print(type(error).__name__)
presser.join()
print(running_threads())
"""
)
# Strikes the main thread, the CUDA thread, and by the timer any thread. The handler does not
# restart calls: every one that can be interrupted is.
STORM = (
    COMMON
    + """
storm = threading.Event()
counted = []
signal.signal(signal.SIGALRM, lambda *_: counted.append(1))
signal.siginterrupt(signal.SIGALRM, True)

def strike():
    threads = [thread for thread in threading.enumerate() if "ajit-cuda" in thread.name]
    while storm.is_set():
        for thread in [threading.main_thread(), *threads]:
            signal.pthread_kill(thread.ident, signal.SIGALRM)
        time.sleep(0.0002)

async def main():
    async with cpu_device() as device:
        kernel, counter = (await kernels(device))("add_one"), await device.upload(bytes(4))
        storm.set()
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        striker = threading.Thread(target=strike)
        striker.start()
        for number in range(600):
            tickets = [kernel.launch(1, 1, counter, 1) for _ in range(number % 4 + 1)]
            for ticket in tickets:
                await ticket
            if number % 20 == 0:
                (await device.alloc(4096)).free()
                buffer = await device.upload(bytes(1 << 20))
                assert bytes(await device.download(buffer)) == bytes(1 << 20)
                await anyio.sleep(0.001)
        storm.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        striker.join()
        print(int.from_bytes(await device.download(counter), "little"), len(counted) > 100)
        print(device.statistics().failed, device.statistics().lost_callbacks)

anyio.run(main, **OPTIONS)
"""
)


def run(program: str, backend: str) -> list[str]:
    """Run a program in a separate process; returns its words."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program, backend],
        cwd=Path(__file__).parents[2], check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_an_interrupt_while_a_ticket_is_awaited(backend: str) -> None:
    """It is a KeyboardInterrupt in the end, and the device is closed before."""
    assert run(INTERRUPTED, backend) == ["KeyboardInterrupt", "[]"]


def test_a_storm_of_signals_breaks_no_wait(backend: str) -> None:
    """The loop, the CUDA thread and the driver's threads wait on when a call is interrupted."""
    expected = [str(600 // 4 * (1 + 2 + 3 + 4)), "True", "0", "0"]

    assert run(STORM, backend) == expected
