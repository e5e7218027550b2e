"""What the parts of `benchmarks.gpu` share: each is a program that prints one JSON object.

A part is started with the driver (``cuda`` or ``cpu``), the effort (``full`` or ``quick``), a
folder that has the compiled kernel, and what else it needs. It ends with 0, or with `SKIPPED` and
the reason where a package or the GPU is missing. An object with ``failed`` is a result that is not
as it should be.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ajit._gpu.driver import CPU_LIBRARY, CUDA_LIBRARY
from ajit._gpu.wire import NATIVE
from benchmarks.completion_work import Measured

if TYPE_CHECKING:
    from collections.abc import Callable

SKIPPED = 77
"""Exit status; the object then has only ``skipped``, the reason."""
IMAGE = "image"
"""The compiled kernel `benchmarks.completion_work.SOURCE`, in the folder."""
NON_BLOCKING = 1


class Skip(Exception):
    """The part cannot run here; says why."""


@dataclass(frozen=True)
class Part:
    """How a part was started.

    Attributes:
        driver: ``cuda`` or ``cpu``.
        quick: Whether only to show that it works.
        folder: Where the compiled kernel lies, and room for files.
        rest: Further arguments.
    """

    driver: str
    quick: bool
    folder: Path
    rest: list[str]

    @property
    def library(self) -> str:
        """The driver's library, as dlopen takes it."""
        return CUDA_LIBRARY if self.driver == "cuda" else str(NATIVE / CPU_LIBRARY)

    def runs(self, full: int) -> int:
        """How often to do something that takes little time."""
        return max(3, full // 50) if self.quick else full

    def need_gpu(self, who: str) -> None:
        """Skip on the CPU driver."""
        if self.driver != "cuda":
            raise Skip(f"{who} runs on NVIDIA's driver only")


class Raw:
    """The driver by ctypes, with the GIL released in calls, its context current on this thread."""

    def __init__(self, path: str) -> None:
        self.library = ctypes.CDLL(path)
        self.ok("cuInit", 0)
        context = ctypes.c_void_p()
        self.ok("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self.ok("cuCtxSetCurrent", context)

    def code(self, name: str, *arguments: Any) -> int:
        """Call a function; returns its code."""
        return int(getattr(self.library, name)(*arguments))

    def ok(self, name: str, *arguments: Any) -> None:
        """Call a function that must succeed."""
        code = self.code(name, *arguments)
        if code:
            raise OSError(f"{name}: {code}")

    def make(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """Call a function that makes something, and return that."""
        made = ctypes.c_void_p()
        self.ok(name, ctypes.byref(made), *arguments)
        return made

    def stream(self) -> ctypes.c_void_p:
        return self.make("cuStreamCreate", NON_BLOCKING)

    def launch(self, function: ctypes.c_void_p, stream: ctypes.c_void_p) -> None:
        """Launch the kernel on nothing."""
        pointer, count = ctypes.c_void_p(), ctypes.c_int(0)
        arguments = (ctypes.c_void_p * 2)(ctypes.addressof(pointer), ctypes.addressof(count))
        self.ok("cuLaunchKernel", function, 1, 1, 1, 1, 1, 1, 0, stream, arguments, None)


def measured(what: str, values: list[float], count: int = 1) -> dict[str, Any]:
    """Sum up times in seconds."""
    return Measured.of("", what, count, values).to_json()


def timed(function: Callable[[], object]) -> float:
    """Seconds that a function takes."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def run(part: Callable[[Part], dict[str, Any]]) -> None:
    """Run a part as a program."""
    driver, effort, folder, *rest = sys.argv[1:]
    try:
        result = part(Part(driver, effort == "quick", Path(folder), rest))
    except Skip as skip:
        print(json.dumps({"skipped": str(skip)}))
        sys.exit(SKIPPED)
    print(json.dumps(result))
