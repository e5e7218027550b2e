"""An executor whose clock stands still but for calls of the driver, which take a given time.

How the CUDA thread shares its time is decided by the clock. With this one a test counts the calls
between two others, however loaded the machine is: real time does not count.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from ajit._gpu.wire import NATIVE, Library

FLAGS = ["-std=c11", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-D_GNU_SOURCE"]


def build_executor(folder: Path) -> Path:
    """Build the executor from its sources, with the clock of `driver_clock.c`."""
    compiler = shutil.which("cc") or pytest.skip("no C compiler on PATH")
    library = folder / "libexecutor.so"
    sources = [*sorted(NATIVE.glob("executor/*.c")), Path(__file__).with_name("driver_clock.c")]
    clock = "-Dclock_gettime=driver_clock_gettime"
    command = [compiler, *FLAGS, clock, f"-I{NATIVE}", *sources, "-o", library, "-ldl", "-pthread"]
    subprocess.run(command, check=True, timeout=60)
    return library


class DriverClock:
    """The clock, and how long calls of the driver take by it."""

    def __init__(self, executor: Path, shim: Path) -> None:
        self.library = Library(executor)
        self._shim = ctypes.CDLL(str(shim))
        self._shim.shim_takes.argtypes = (ctypes.c_char_p, ctypes.c_uint64)
        self._shim.shim_move_clock(ctypes.CDLL(str(executor)).driver_clock_advance)

    def takes(self, call: str, seconds: float) -> None:
        """Let each call of a function of the driver take so long, from now on."""
        assert self._shim.shim_takes(call.encode(), round(seconds * 1e9)) == 0

    def stop(self) -> None:
        """No call takes any time."""
        self._shim.shim_move_clock(None)
