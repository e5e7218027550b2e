"""Which device there is, by ajit itself. Ends with 4 where there is none."""

from __future__ import annotations

import ctypes
import sys
from importlib import metadata
from typing import Any

import anyio

import ajit
from ajit._core.spec import Spec
from ajit.errors import NoDevice
from benchmarks.completion_work import SOURCE
from benchmarks.gpu.part import IMAGE, Part, run

PACKAGES = (
    "torch", "triton", "cupy-cuda13x", "cuda-bindings", "cuda-core", "nvidia-cuda-nvrtc", "numpy",
    "anyio", "trio", "uvloop", "msgspec",
)  # fmt: skip
NO_DEVICE = 4


def probe(part: Part) -> dict[str, Any]:
    """Open the device, compile the kernel that other parts launch, and say what there is."""
    return anyio.run(_probe, part)


async def _probe(part: Part) -> dict[str, Any]:
    spec = Spec(SOURCE, "nothing", params="float* x, int n")
    async with ajit.open_runtime(device=part.driver, cache_dir=part.folder / "cache") as rt:
        (part.folder / IMAGE).write_bytes((await rt.compile(spec)).data)
        return {
            "name": rt.device.name,
            "arch": rt.device.arch,
            "driver_version": rt.device.driver_version,
            "multiprocessors": rt.device.multiprocessors,
            "free_memory_bytes": await rt.device.run(_free_memory_bytes, part),
            "packages": {name: _version(name) for name in PACKAGES},
        }


def _free_memory_bytes(part: Part) -> int:
    """On the CUDA thread, where the context is current."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    code = ctypes.CDLL(part.library).cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    if code:
        raise OSError(f"cuMemGetInfo_v2: {code}")
    return free.value


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    try:
        run(probe)
    except NoDevice as error:
        print(error, file=sys.stderr)
        sys.exit(NO_DEVICE)
