"""A driver in front of the CPU driver that notes every call: what, when, and who had the GIL."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from ajit._gpu.driver import CPU_LIBRARY
from ajit._gpu.wire import NATIVE


def build_shim(folder: Path) -> Path:
    """Build `driver_shim.c`."""
    if platform.machine() != "x86_64":
        pytest.skip("the shim is written for x86-64")
    compiler = shutil.which("cc") or pytest.skip("no C compiler on PATH")
    library = folder / "libshim.so"
    source = Path(__file__).with_name("driver_shim.c")
    define = f'-DCPU_DRIVER="{NATIVE / CPU_LIBRARY}"'
    subprocess.run(
        [compiler, "-O1", "-fPIC", "-shared", define, source, "-o", library], check=True, timeout=60
    )
    return library


class Journal:
    """The calls so far, of this process."""

    def __init__(self, shim: Path) -> None:
        self._library = ctypes.CDLL(str(shim))
        self._library.shim_call.restype = ctypes.c_char_p

    def __len__(self) -> int:
        return int(self._library.shim_calls())

    def since(self, start: int) -> list[str]:
        """Names of the calls from number `start` on."""
        return [self._library.shim_call(number).decode() for number in range(start, len(self))]

    def violations(self) -> int:
        """How many calls were made with the GIL held."""
        return int(self._library.shim_violations())
