"""A process that ends with work in flight: no hang, no crash, nothing said about it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.gpu.support import ON_GPU, compiled

pytestmark = pytest.mark.skipif(ON_GPU, reason="only the CPU driver works slowly on demand")

BACKENDS = ["asyncio", "uvloop", "trio"]
COMMON = """
    import atexit, os, sys, threading, time
    import anyio
    from ajit._gpu.device import Device
    from ajit._gpu.membership import ThreadMembership
    from ajit.settings import Settings
    from tests.gpu.support import ENTRIES, Faults, artifact, cpu_device

    BACKEND, IMAGE = sys.argv[1:]
    OPTIONS = {"backend": BACKEND}
    if BACKEND == "uvloop":
        OPTIONS = {"backend": "asyncio", "backend_options": {"use_uvloop": True}}
    kept = []

    async def work(device):
        '''Memory, a kernel, a stream, and forty tickets that are on their way.'''
        with open(IMAGE, "rb") as file:
            module = await device.load(artifact(file.read()), ENTRIES)
        buffer, stream = await device.alloc(64), await device.create_stream()
        Faults().inject("device:host", delay=0.02, count=1000)
        kept.extend([module, buffer, stream, await device.alloc_pinned(64)])
        kept.extend(module.kernel("nothing").launch(1, 1) for _ in range(20))
        kept.extend(device.fill(buffer, 1, stream=stream) for _ in range(20))

    async def opened_and_left():
        '''It is not closed: the loop ends, and so does the process.'''
        device = Device.make(await ThreadMembership.join(Settings(environ={}, device="cpu")))
        kept.append(device)
        await work(device)
        return device
"""
# Each program's code, its exit code, and the end of its standard error.
PROGRAMS = {
    "left_open": ("anyio.run(opened_and_left, **OPTIONS)", 0, ""),
    "left_open_and_forgotten": (
        "anyio.run(opened_and_left, **OPTIONS); kept.clear()", 0, "",
    ),
    "left_open_and_used_at_exit": (
        """
        device = anyio.run(opened_and_left, **OPTIONS)
        def use():
            kept[2].free()
            assert device.health().alive
            device.mark()
        atexit.register(use)
        """, 0, "",
    ),
    "left_open_with_python_on_the_thread": (
        """
        async def main():
            device = await opened_and_left()
            began = threading.Event()
            def forever():
                began.set()
                time.sleep(60)
            kept.append(device._thread.call(device._port, forever))
            while not began.is_set():
                await anyio.sleep(0.001)
        anyio.run(main, **OPTIONS)
        """, 0, "",
    ),
    "left_open_with_the_device_held": (
        """
        async def main():
            await opened_and_left()
            Faults().hold()
        anyio.run(main, **OPTIONS)
        """, 0, "",
    ),
    "sys_exit_in_the_block": (
        """
        async def main():
            async with cpu_device() as device:
                await work(device)
                sys.exit(7)
        anyio.run(main, **OPTIONS)
        """, 7, "",
    ),
    "an_error_in_the_block": (
        """
        async def main():
            async with cpu_device() as device:
                await work(device)
                raise LookupError("mine")
        anyio.run(main, **OPTIONS)
        """, 1, "LookupError: mine",
    ),
    "a_loop_in_a_daemon_thread": (
        """
        ready = threading.Event()
        async def main():
            async with cpu_device() as device:
                await work(device)
                ready.set()
                while True:
                    await device.mark()
        threading.Thread(target=anyio.run, args=(main,), kwargs=OPTIONS, daemon=True).start()
        assert ready.wait(30)
        """, 0, "",
    ),
    "exit_without_finalizing": (
        "anyio.run(opened_and_left, **OPTIONS); os._exit(3)", 3, "",
    ),
}  # fmt: skip
# On trio a task reads the device, and no loop ends before its tasks: it cannot be left open there.
CASES = [
    (program, backend)
    for program, backend in itertools.product(PROGRAMS, BACKENDS)
    if backend != "trio" or not program.startswith(("left_open", "exit_"))
]
TIMES = 10
SECONDS = 100.0


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels, so that no process has to compile them."""
    path = tmp_path_factory.mktemp("endings") / "image"
    path.write_bytes(compiled().data)
    return path


def check_ending(backend: str, image: Path, program: str) -> None:
    """Run a program in a separate process, to its end."""
    text, expected_code, expected_end = PROGRAMS[program]
    source = textwrap.dedent(COMMON) + textwrap.dedent(text)
    environment = os.environ | {"PYTHONMALLOC": "debug"}  # finds what was freed and is used
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", source, backend, image],
        cwd=Path(__file__).parents[2], env=environment, check=False, capture_output=True, text=True,
        timeout=SECONDS,
    )  # fmt: skip

    assert done.returncode == expected_code, done.stderr
    assert done.stderr.strip().endswith(expected_end)
    assert expected_end or done.stderr == ""


@pytest.mark.parametrize(("program", "backend"), CASES)
def test_a_process_ends(program: str, backend: str, image: Path) -> None:
    """With its exit code, in time, and without a word of a finalizer."""
    check_ending(backend, image, program)


@pytest.mark.slow
@pytest.mark.parametrize(("program", "backend"), CASES)
def test_a_process_ends_each_time(program: str, backend: str, image: Path) -> None:
    """The same ten times: threads meet the end of the interpreter at another place each time."""
    for _ in range(TIMES):
        check_ending(backend, image, program)
