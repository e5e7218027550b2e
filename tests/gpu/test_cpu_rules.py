"""The rules of the CUDA thread, asserted at every entry of a CPU driver that was built for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.cpu_driver import build_driver

ROOT = Path(__file__).parent.parent.parent
START = """
import ctypes, sys, threading
def start(library):
    context = ctypes.c_void_p()
    assert library.cuInit(0) == 0
    assert library.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    enter(library, context)
    return context
def enter(library, context):
    assert library.cuCtxSetCurrent(context) == 0
    assert library.cuCtxSynchronize() == 0
"""
BREAK_R1 = START + "ctypes.PyDLL(sys.argv[1]).cuInit(0)"
SECOND_THREAD = (
    START
    + """
library = ctypes.CDLL(sys.argv[1])
thread = threading.Thread(target=enter, args=(library, start(library)))
thread.start()
thread.join()
"""
)
BREAK_R2 = (
    START
    + """
library = ctypes.CDLL(sys.argv[1])
start(library)
@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def done(_):
    print("called")
print(library.cuLaunchHostFunc(None, done, None), library.cuCtxSynchronize())
"""
)
# A buffer that frees its memory itself when it is collected, where ajit's own posts.
BREAK_R3 = """
import ctypes, gc, sys
import anyio
import ajit._gpu.driver as driver
driver.CPU_LIBRARY = sys.argv[1]
from tests.gpu.support import cpu_device
library = ctypes.CDLL(sys.argv[1])

class Buffer:
    def __init__(self, pointer):
        self.pointer = ctypes.c_uint64(pointer)
    def __del__(self):
        library.cuMemFree_v2(self.pointer)

async def main():
    async with cpu_device() as device:
        memory = await device.alloc(64)
        del memory
        gc.collect()
        await device.synchronize()
        print("posted")
        if len(sys.argv) > 2:
            Buffer((await device.alloc(64)).pointer)

anyio.run(main)
"""
# ajit's device tests with the library at the given path; it fails if that was never loaded.
DEVICE_TESTS = """
import sys, pytest
import ajit._gpu.driver as driver
driver.CPU_LIBRARY = sys.argv[1]
options = ["-q", "-p", "no:cacheprovider", "-k", "not trio and not uvloop"]
failed = pytest.main([*sys.argv[2:], *options])
sys.exit(failed or sys.argv[1] not in open("/proc/self/maps").read())
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CPU driver that asserts the rules."""
    return build_driver(tmp_path_factory.mktemp("rules"), options=["-DAJIT_CPU_ASSERT_RULES"])


def run(program: str, *arguments: object, one_thread: bool) -> subprocess.CompletedProcess[str]:
    """Run a Python program in a separate process, without a core file."""
    environment = os.environ | {"AJIT_CPU_ONE_THREAD": str(int(one_thread))}
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=100,
    )  # fmt: skip


def test_entering_with_the_gil_held_ends_the_process(library: Path) -> None:
    """ctypes.PyDLL keeps the GIL: rule R1 is named, and the function."""
    done = run(BREAK_R1, library, one_thread=False)

    assert done.returncode == -signal.SIGABRT
    assert "cuInit: rule R1 is broken" in done.stderr


@pytest.mark.parametrize(("asked", "code"), [(True, -signal.SIGABRT), (False, 0)])
def test_a_second_thread_in_the_context_ends_the_process(
    library: Path, *, asked: bool, code: int
) -> None:
    """Where a test asked for it: NVIDIA's driver allows any thread, ajit uses one."""
    done = run(SECOND_THREAD, library, one_thread=asked)

    assert done.returncode == code, done.stderr
    assert asked == ("cuCtxSynchronize: the rule of one thread (R3) is broken" in done.stderr)


def test_a_python_callable_as_a_host_function_ends_the_process(library: Path) -> None:
    """Rule R2 is named before the callable is ever called."""
    done = run(BREAK_R2, library, one_thread=False)

    assert done.returncode == -signal.SIGABRT
    assert "cuLaunchHostFunc: rule R2 is broken" in done.stderr
    assert "called" not in done.stdout


@pytest.mark.parametrize(("arguments", "code"), [((), 0), (("break",), -signal.SIGABRT)])
def test_a_finalizer_that_calls_the_driver_ends_the_process(
    library: Path, arguments: tuple[str, ...], code: int
) -> None:
    """Rule R3: ajit's own only post, one that frees by itself is named with its call."""
    done = run(BREAK_R3, library, *arguments, one_thread=True)

    assert (done.returncode, done.stdout) == (code, "posted\n"), done.stderr
    assert (code != 0) == ("cuMemFree_v2: the rule of one thread (R3) is broken" in done.stderr)


def test_without_the_assertions_nothing_is_checked(driver_library: Path) -> None:
    """The library that is installed costs nothing for it."""
    assert run(BREAK_R1, driver_library, one_thread=True).returncode == 0


@pytest.mark.slow  # a whole test session of the device layer
def test_ajits_own_device_tests_break_no_rule(library: Path) -> None:
    """Memory, batches and launches on the driver that asserts the rules, in one test session."""
    tests = [ROOT / "tests/gpu" / name for name in ("test_memory.py", "test_batch.py")]
    done = run(DEVICE_TESTS, library, *tests, one_thread=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
