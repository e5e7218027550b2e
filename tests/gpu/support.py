"""Shared by the tests of the device layer: kernels, and faults on demand."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import ajit
from ajit._compile.worker.host_flags import COMPILE_FLAGS, FAMILY_FLAGS, LINK_FLAGS
from ajit._core.entry import Artifact
from ajit._core.spec import EntryPoint
from ajit._gpu.device import Device, open_device
from ajit._gpu.wire import NATIVE
from ajit.settings import Settings
from ajit.testing import FakeDevice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ON_GPU = os.environ.get("AJIT_TEST_DEVICE") == "cuda"
"""Whether tests marked `both` run on a GPU this time: `python -m benchmarks.gpu` does so."""
GRACE_SECONDS = 60.0
POLL_SECONDS = 0.005

SOURCE = """
extern "C" __global__ void nothing() {}
extern "C" __global__ void saxpy(float a, const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += a * x[i];
}
extern "C" __global__ void add_one(int* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] += 1;
}
struct Triple { int a; short b; };
extern "C" __global__ void scalars(bool b, signed char c, unsigned short s, int i, long long l,
                                   double d, Triple t, float* out) {
    out[0] = b; out[1] = c; out[2] = s; out[3] = i; out[4] = l; out[5] = d;
    out[6] = t.a; out[7] = t.b;
}
extern "C" __global__ void dynamic_shared(int* out) {
    extern __shared__ int area[];
    area[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = area[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void bits(unsigned short h, unsigned short b, unsigned short* out) {
    out[0] = h; out[1] = b;
}
"""
ENTRIES = (
    EntryPoint("nothing", ()),
    EntryPoint("saxpy", ("float", "const float*", "float*", "int")),
    EntryPoint("add_one", ("int*", "int")),
    EntryPoint(
        "scalars",
        ("bool", "signed char", "unsigned short", "int", "long long", "double", "Triple", "float*"),
    ),
    EntryPoint("dynamic_shared", ("int*",)),
    EntryPoint("bits", ("half", "__nv_bfloat16", "unsigned short*")),
)


@functools.cache
def compiled(source: str = SOURCE, entries: tuple[EntryPoint, ...] = ENTRIES) -> Artifact:
    """An artifact for the CPU driver, built by the host's compiler."""
    with tempfile.TemporaryDirectory() as folder:
        unit, image = Path(folder, "unit.cpp"), Path(folder, "image.so")
        kernels = ", ".join(f'AJIT_CPU_KERNEL("{e.name}", {e.name})' for e in entries)
        unit.write_text(f'#include "cuda_cxx/kernel.hpp"\n{source}\nAJIT_CPU_MODULE({kernels})\n')
        compiler = shutil.which("c++") or pytest.skip("no C++ compiler on PATH")
        version = subprocess.check_output([compiler, "--version"], text=True)
        family = FAMILY_FLAGS["clang" if "clang" in version else "gcc"]
        includes = [f"-I{NATIVE}", f"-I{NATIVE}/cuda_cxx/include"]
        flags = [*COMPILE_FLAGS, *family, "-std=c++17"]
        command = [compiler, *flags, *includes, unit, "-o", image, *LINK_FLAGS]
        subprocess.run(command, check=True, timeout=60)
        return artifact(image.read_bytes(), entries)


def artifact(data: bytes, entries: tuple[EntryPoint, ...] = ENTRIES) -> Artifact:
    """An artifact of these bytes."""
    names = tuple(entry.name for entry in entries)
    return Artifact(
        key="ab" * 32, base="ab" * 32, key_fields=(), name="kernels", kind="elf", arch="x86_64",
        compiler="host", compiler_version="", entries=names,
        lowered={name: name for name in names}, log="", command=(), created=0.0, seconds=0.0,
        host="", ajit_version="", data=data,
    )  # fmt: skip


@asynccontextmanager
async def cpu_device(**settings: Any) -> AsyncIterator[Device]:
    """The CPU driver's device, opened for this loop; with `ON_GPU`, the first GPU in its place."""
    kind = "cuda" if ON_GPU else "cpu"
    async with open_device(Settings(environ={}, device=kind, **settings)) as device:
        yield device


async def image_for(device: Device) -> Artifact:
    """The kernels above, compiled for the device that a test has."""
    return await _compiled_for_gpu(device.arch) if ON_GPU else compiled()


async def kernels(device: Device) -> Callable[[str], Any]:
    """The kernels above, loaded."""
    artifact = await image_for(device)
    return (await device.load(artifact, ENTRIES)).kernel


@functools.cache
def _gpu_cache() -> str:
    folder = tempfile.mkdtemp(prefix="ajit-tests-")
    atexit.register(shutil.rmtree, folder)
    return folder


async def _compiled_for_gpu(arch: str) -> Artifact:
    async with ajit.open_runtime(device="none", cache_dir=_gpu_cache()) as rt:
        return await rt.compile(ajit.Spec(SOURCE, ENTRIES), arch=arch)


class Faults(FakeDevice):
    """The public fake, with what tests of the driver itself ask of it."""

    def inject(self, function: str, error: int = 0, *, count: int = 1, delay: float = 0.0) -> None:
        """Let a function, or a step of the device, fail or take longer."""
        self._inject(function, error, count, int(delay * 1e6))

    def poison(self, error: int) -> None:
        """Lose the device."""
        self.lose(error)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that only looking can tell.

    Raises:
        TimeoutError: It did not come.
    """
    with anyio.fail_after(GRACE_SECONDS):
        while not condition():  # noqa: ASYNC110  # what is looked at sets no event
            await anyio.sleep(POLL_SECONDS)


def until_blocking(condition: Callable[[], bool]) -> None:
    """The same outside of an event loop."""
    deadline = time.monotonic() + GRACE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(POLL_SECONDS)
