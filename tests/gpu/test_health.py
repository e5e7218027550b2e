"""Health: what the CUDA thread is doing, read from here, from elsewhere, and without the GIL."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import anyio
import pytest

from ajit._gpu.health import read_heartbeat
from tests.gpu.support import cpu_device, kernels, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

ILLEGAL_ADDRESS = 700


async def test_an_idle_device_is_well():
    """A thread that waits for work has no operation, and is well."""
    async with cpu_device() as device:
        await device.synchronize()
        await until(lambda: device.health().in_flight == 0)
        health = device.health()

        assert health
        assert (health.operation, health.since_seconds, health.ticket) == ("", 0.0, 0)
        assert (health.waiting, health.lost_code) == (0, 0)


async def test_health_names_the_operation_that_hangs(faults):
    """It says which operation, since when, and what waits; it is well again afterwards."""
    async with cpu_device(stall_seconds=0.05) as device:
        kernel = (await kernels(device))("nothing")
        with faults.stopped("cuLaunchKernel"):
            tickets = [kernel.launch(1, 1), kernel.launch(1, 1)]
            await until(lambda: device.health().stuck)
            health = device.health()
            await until(lambda: device.statistics().stalls == 1)

        assert not health
        assert health.alive
        assert health.operation == "launch"
        assert health.since_seconds > 0.05
        assert health.waiting == 1
        for ticket in tickets:
            await ticket
        assert device.health()


async def test_health_knows_the_oldest_ticket_and_a_lost_device(faults):
    """Work that the device does not finish shows by its age, a lost context by its code."""
    async with cpu_device() as device:
        with faults.held():
            device.mark()
            await until(lambda: device.health().oldest_ticket_seconds > 0.05)
            assert device.health().in_flight == 1
        faults.poison(ILLEGAL_ADDRESS)
        with pytest.raises(Exception, match="ILLEGAL_ADDRESS"):
            await device.synchronize()

        assert device.health().lost_code == ILLEGAL_ADDRESS
        assert not device.health()
    faults.reset()


async def test_another_process_reads_the_heartbeat(faults):
    """A sidecar sees the same, with nothing but the path."""
    program = (
        "import sys; from ajit._gpu.health import read_heartbeat; "
        "print(read_heartbeat(sys.argv[1], stall_seconds=0.01))"
    )
    async with cpu_device() as device:
        path = device.statistics().heartbeat_path
        async with anyio.create_task_group() as tasks:
            with faults.stopped("cuMemAllocFromPoolAsync"):
                tasks.start_soon(device.alloc, 4)
                await until(lambda: device.health().operation == "allocate")
                done = await anyio.run_process([sys.executable, "-c", program, path])

        assert path.startswith(f"/proc/{os.getpid()}/fd/")
        assert b"operation='allocate'" in done.stdout
        assert b"stuck=True" in done.stdout


async def test_nobody_can_cut_the_heartbeat():
    """The CUDA thread writes into its mapping: it would end by SIGBUS."""
    async with cpu_device() as device:
        path = device.statistics().heartbeat_path
        with pytest.raises(PermissionError):
            await anyio.to_thread.run_sync(os.truncate, path, 0)

        assert device.health()


async def test_a_file_that_is_no_heartbeat_is_refused(tmp_path):
    """A file that is something else, or gone, is no health."""
    other = tmp_path / "other"
    other.write_bytes(bytes(100))
    with pytest.raises(ValueError, match="no heartbeat"):
        await anyio.to_thread.run_sync(read_heartbeat, other)
    with pytest.raises(FileNotFoundError):
        await anyio.to_thread.run_sync(read_heartbeat, tmp_path / "gone")


# The thread that has the GIL reads the watchdog's words in C, and gives the GIL to no other thread
# before it has read them all.
STUCK = """
    import ctypes, os, sys, anyio
    from tests.gpu.support import Faults, cpu_device, kernels

    async def main():
        async with cpu_device(stall_seconds=0.1) as device:
            kernel = (await kernels(device))("nothing")
            await kernel.launch(1, 1)
            own, buffer, said = ctypes.PyDLL(None), ctypes.create_string_buffer(65536), b""
            reader, writer = os.pipe()
            os.dup2(writer, 2)
            sys.setswitchinterval(1000.0)
            with Faults().stopped("cuLaunchKernel"):
                ticket = kernel.launch(1, 1)
                while not said.endswith(b"in <module>\\n"):  # the last line of the last thread
                    size = own.read(reader, buffer, 65536)
                    said += buffer.raw[:size]
            sys.stdout.write(said.decode())
            await ticket

    anyio.run(main)
"""


def test_the_watchdog_prints_all_stacks_without_the_gil():
    """While one thread keeps the GIL, the stacks of all are printed by a thread that needs none."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(STUCK)],
        capture_output=True, text=True, timeout=100, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    said = done.stdout

    assert "the CUDA thread of device 0 has been in 'launch' of ticket" in said
    assert "most recent call first" in said
    assert "_main" in said  # the CUDA thread's own stack
    assert "in main" in said  # and that of the thread that has the GIL
