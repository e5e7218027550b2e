"""The CPU driver by ctypes, without ajit: built into its own folder, so with its own state."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ajit import _gpu
from ajit._compile.worker.host_flags import COMPILE_FLAGS, FAMILY_FLAGS, LINK_FLAGS

if TYPE_CHECKING:
    from collections.abc import Sequence

NATIVE = Path(_gpu.__file__).parent / "native"
CUDA_H = Path("/usr/local/cuda/include/cuda.h")

DRIVER_FLAGS = [
    *("-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"),
    *("-fPIC", "-fvisibility=hidden", "-shared"),
]
ZIG_FLAGS = FAMILY_FLAGS["zig"]
ZIG = [sys.executable, "-m", "ziglang"]


def cxx() -> list[str]:
    """The system's C++ compiler with its own flags, or zig where there is none."""
    if found := shutil.which("g++"):
        return [found, *FAMILY_FLAGS["gcc"]]
    return [*ZIG, "c++", *ZIG_FLAGS]


def build_driver(folder: Path, compiler: Sequence[str] = (), options: Sequence[str] = ()) -> Path:
    """The library, with every warning an error and more options for the compiler."""
    library = folder / "libajit_cpu_driver.so"
    command = compiler or ([shutil.which("gcc") or ""] if shutil.which("gcc") else [*ZIG, "cc"])
    sources = sorted(map(str, NATIVE.glob("cpu_driver/*.c")))
    subprocess.run(
        [*command, *DRIVER_FLAGS, *options, *sources, "-o", library, "-lpthread"], check=True
    )
    return library


def compile_kernels(
    folder: Path, source: str, *entries: str, compiler: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a compiler over `source`; the image, if it comes to one, is `folder/image.so`."""
    table = ",\n".join(f'AJIT_CPU_KERNEL("{entry}", {entry})' for entry in entries)
    unit = folder / "unit.cpp"
    unit.write_text(
        f'#line 1 "kernel.cu"\n{source}\n#line 1 "<ajit entry points>"\nAJIT_CPU_MODULE({table})\n'
    )
    includes = [f"-I{NATIVE}", f"-I{NATIVE / 'cuda_cxx/include'}"]
    output = ["-o", str(folder / "image.so")]
    flags = [*COMPILE_FLAGS, "-std=c++17", "-include", "cuda_cxx/kernel.hpp"]
    command = [*(compiler or cxx()), *flags, *includes, str(unit), *output, *LINK_FLAGS]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def build_image(folder: Path, source: str, *entries: str, compiler: Sequence[str] = ()) -> bytes:
    """The image of `source`."""
    done = compile_kernels(folder, source, *entries, compiler=compiler)
    assert done.returncode == 0, done.stderr
    return (folder / "image.so").read_bytes()


class Cpu:
    """One loaded driver. `try_` returns the error code, everything else insists on success."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))

    def try_(self, name: str, *args: Any) -> int:
        """Call a function and return its error code."""
        return int(getattr(self.library, name)(*args))

    def ok(self, name: str, *args: Any) -> None:
        """Call a function that has to succeed."""
        assert (name, self.try_(name, *args)) == (name, 0)

    def get(self, name: str, kind: Any, *args: Any) -> Any:
        """Call a function whose first argument receives a result of type `kind`."""
        result = kind()
        self.ok(name, ctypes.byref(result), *args)
        return result

    def start(self) -> Cpu:
        """Make the first device's context current on this thread."""
        self.ok("cuInit", 0)
        self.ok("cuCtxSetCurrent", self.get("cuDevicePrimaryCtxRetain", ctypes.c_void_p, 0))
        return self

    def stop(self) -> None:
        """Undo all faults and let the context go."""
        self.library.ajit_cpu_reset()
        self.ok("cuDevicePrimaryCtxRelease_v2", 0)
        self.ok("cuCtxSetCurrent", None)

    def stream(self, flags: int = 1) -> ctypes.c_void_p:
        """A new stream, by default a non-blocking one."""
        return self.get("cuStreamCreate", ctypes.c_void_p, flags)

    def synchronize(self) -> None:
        """Wait for everything."""
        self.ok("cuCtxSynchronize")

    def allocate(self, size: int) -> ctypes.c_uint64:
        """Device memory."""
        return self.get("cuMemAlloc_v2", ctypes.c_uint64, ctypes.c_size_t(size))

    def pinned(self, size: int) -> Any:
        """Pinned host memory, as an array of bytes."""
        address = self.get("cuMemHostAlloc", ctypes.c_void_p, ctypes.c_size_t(size), 0)
        return np.frombuffer((ctypes.c_uint8 * size).from_address(address.value), np.uint8)

    def upload(self, array: Any) -> ctypes.c_uint64:
        """Device memory with the bytes of an array."""
        pointer = self.allocate(array.nbytes)
        self.ok("cuMemcpyHtoD_v2", pointer, address(array), ctypes.c_size_t(array.nbytes))
        return pointer

    def download(self, pointer: ctypes.c_uint64, like: Any) -> Any:
        """The bytes at a device pointer as an array like another one."""
        result = np.empty_like(like)
        self.ok("cuMemcpyDtoH_v2", address(result), pointer, ctypes.c_size_t(result.nbytes))
        return result

    def load(self, image: bytes) -> ctypes.c_void_p:
        """A module from an image."""
        return self.get("cuModuleLoadData", ctypes.c_void_p, image)

    def function(self, module: ctypes.c_void_p, name: str) -> ctypes.c_void_p:
        """A function of a module."""
        return self.get("cuModuleGetFunction", ctypes.c_void_p, module, name.encode())

    def try_launch(
        self,
        function: ctypes.c_void_p,
        grid: Sequence[int],
        block: Sequence[int],
        *args: Any,
        shared: int = 0,
        stream: Any = None,
    ) -> int:
        """Launch without waiting and return the error code."""
        params = (ctypes.c_void_p * max(1, len(args)))(*(ctypes.addressof(arg) for arg in args))
        shape = [ctypes.c_uint(n) for n in (*grid, *block, shared)]
        return self.try_("cuLaunchKernel", function, *shape, stream, params, None)

    def launch(self, *args: Any, **options: Any) -> None:
        """Launch and wait."""
        assert self.try_launch(*args, **options) == 0
        self.synchronize()


def address(array: Any) -> ctypes.c_void_p:
    """Where the array's elements are."""
    return ctypes.c_void_p(array.ctypes.data)
