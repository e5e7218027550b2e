"""Each peer as a process of the tests has it: how it compiles one good and one bad kernel.

A peer says how often it really compiled, with ajit or alone, counted inside of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

__all__ = ["PEERS", "TestedPeer"]


class TestedPeer(Protocol):
    """One peer. Made in the process that compiles; everything slow is imported then."""

    compiles: int
    counts: str
    """Of which processes ``compiles`` is: ``own``, or ``all`` that share a folder's parent."""

    def install(self, runtime: Any) -> AbstractContextManager[object]:
        """Let it compile through a runtime; None: alone."""

    def compile(self, case: str) -> bytes:
        """Compile the kernel ``good`` or ``bad``; return the binary."""


class CudaCore:
    """A long kernel by NVRTC. Alone, with its cache in files."""

    compiles, counts = 0, "own"

    def __init__(self, folder: str) -> None:
        import cuda.core

        self._core = cuda.core
        self._folder = folder
        self._cache: Any = None

    def install(self, runtime: Any) -> AbstractContextManager[object]:
        if runtime is None:
            self._cache = self._core.utils.FileStreamProgramCache(self._folder)
        else:
            from ajit.integrations import cuda_core

            self._cache = cuda_core.program_cache(runtime)
        return self._cache

    def compile(self, case: str) -> bytes:
        source = f"{HEAVY}\n{'' if case == 'good' else 'this is no C++'}"
        options = self._core.ProgramOptions(arch="sm_90")
        program = self._core.Program(source, "c++", options)
        before = self._cache.get(key := self._key(source, options))
        if before is not None:
            return before
        self.compiles += 1
        made = program.compile("cubin")
        self._cache[key] = made
        return bytes(made.code)

    def _key(self, source: str, options: Any) -> bytes:
        make = self._core.utils.make_program_cache_key
        return make(code=source, code_type="c++", options=options, target_type="cubin")


class Triton:
    """A kernel for sm_90. Alone, with its cache in a folder that all share."""

    compiles, counts = 0, "own"

    def __init__(self, folder: str) -> None:
        os.environ |= {"TRITON_CACHE_DIR": folder, "TRITON_DEFAULT_FP_FUSION": "1"}
        import triton.compiler

        from tests.integrations import triton_kernels

        self._triton, self._kernels = triton, triton_kernels
        make_ir = triton.compiler.ASTSource.make_ir

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.compiles += 1
            return make_ir(*args, **kwargs)

        triton.compiler.ASTSource.make_ir = counted

    def install(self, runtime: Any) -> AbstractContextManager[object]:
        if runtime is None:
            return nullcontext()
        from ajit.integrations import triton as adapter

        return adapter.install(runtime)

    def compile(self, case: str) -> bytes:
        kernels, triton = self._kernels, self._triton
        if case == "good":
            terms: Any = (kernels.matmul, kernels.MATMUL, kernels.MATMUL_SIZES)
        else:
            terms = (kernels.refuses, kernels.BAD, {"SIZE": 1})
        target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
        source = triton.compiler.ASTSource(*terms)
        return triton.compile(source, target=target).asm["cubin"]


class FlashInfer:
    """The activation module of SiLU for sm_90a. Alone, in a workspace that all share.

    nvcc is counted by a script before it, which is beside the peer's folder: what it is called is
    part of the key. The linker finds a CUDA driver without anything in it: it is not called.
    """

    counts = "all"

    def __init__(self, folder: str) -> None:
        place = os.path.dirname(folder)
        self._calls = os.path.join(place, "nvcc-calls")
        os.environ |= environment_of_flashinfer(folder, place, self._calls)
        import flashinfer.activation
        import flashinfer.jit.core

        self._flashinfer = flashinfer

    @property
    def compiles(self) -> int:
        """How often nvcc was called, by any process."""
        with contextlib.suppress(FileNotFoundError), open(self._calls) as file:
            return len(file.readlines())
        return 0

    def install(self, runtime: Any) -> AbstractContextManager[object]:
        if runtime is None:
            return nullcontext()
        from ajit.integrations import flashinfer as adapter

        return adapter.install(runtime)

    def spec(self, case: str) -> Any:
        """What FlashInfer has for each kernel."""
        if case == "good":
            return self._flashinfer.activation.gen_act_and_mul_module("silu")
        env, core = self._flashinfer.jit.env, self._flashinfer.jit.core
        source = env.FLASHINFER_GEN_SRC_DIR / "refused.cu"
        source.parent.mkdir(parents=True, exist_ok=True)
        core.write_if_different(source, "__global__ void refused() { this is no C++; }\n")
        return core.gen_jit_spec("refused", [source])

    def compile(self, case: str) -> bytes:
        loaded: list[str] = []
        core = self._flashinfer.jit.core
        load = core.tvm_ffi.load_module

        def noted(path: str) -> Any:
            loaded.append(path)
            return load(path)

        core.tvm_ffi.load_module = noted
        self.spec(case).build_and_load()
        with open(loaded[-1], "rb") as file:
            return file.read()


class Warp:
    """A module for sm_90. Alone, with its cache in a folder that all share."""

    compiles, counts = 0, "own"

    def __init__(self, folder: str) -> None:
        os.environ["WARP_CACHE_PATH"] = folder
        import warp

        warp.config.log_level = warp.LOG_ERROR  # its greeting is no JSON
        from tests.integrations import warp_kernels

        self._warp, self._kernels = warp, warp_kernels
        warp.init()
        build = warp._src.build.build_cuda

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.compiles += 1
            return build(*args, **kwargs)

        warp._src.build.build_cuda = counted

    def install(self, runtime: Any) -> AbstractContextManager[object]:
        if runtime is None:
            return nullcontext()
        from ajit.integrations import warp as adapter

        return adapter.install(runtime)

    def compile(self, case: str) -> bytes:
        kernel = self._kernels.scale if case == "good" else self._kernels.refused
        (path,) = self._warp.compile_aot_module(kernel.module, arch=90)
        with open(path, "rb") as file:
            return file.read()


class TileLang:
    """A copy for sm_90a. Alone, with its cache in a folder that all share."""

    compiles, counts = 0, "own"

    def __init__(self, folder: str) -> None:
        import nvidia.cu13

        toolkit = os.path.realpath(nvidia.cu13.__path__[0])
        os.environ |= {"TILELANG_CACHE_DIR": folder, "CUDA_HOME": toolkit}
        import tilelang
        import tilelang.contrib.nvcc

        from tests.integrations import tilelang_kernels

        self._tilelang, self._kernels = tilelang, tilelang_kernels
        tilelang.set_log_level("ERROR")
        compile_cuda = tilelang.contrib.nvcc.compile_cuda

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.compiles += 1
            return compile_cuda(*args, **kwargs)

        tilelang.contrib.nvcc.compile_cuda = counted

    def install(self, runtime: Any) -> AbstractContextManager[object]:
        if runtime is None:
            return nullcontext()
        from ajit.integrations import tilelang as adapter

        return adapter.install(runtime)

    def compile(self, case: str) -> bytes:
        flags = None if case == "good" else ["--there-is-no-such-flag"]
        made = self._tilelang.compile(
            self._kernels.scaled(2.0),
            target={"kind": "cuda", "arch": "sm_90a"},
            compile_flags=flags,
        )
        with open(os.path.join(made._tilelang_cache_path, "executable.so"), "rb") as file:
            return file.read()


class Quack:
    """A softmax for sm_90a. Alone, with its cache in a folder that all share."""

    compiles, counts = 0, "own"

    def __init__(self, folder: str) -> None:
        os.environ |= {"CUTE_DSL_ARCH": "sm_90a", "QUACK_CACHE_DIR": folder}
        from tests.integrations import quack_kernels

        self._kernels, self._folder = quack_kernels, folder
        cute = quack_kernels.cute
        compile_kernel = cute.compile

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.compiles += 1
            return compile_kernel(*args, **kwargs)

        cute.compile = counted

    def install(self, runtime: Any) -> AbstractContextManager[object]:
        if runtime is None:
            return nullcontext()
        from ajit.integrations import quack as adapter

        return adapter.install(runtime)

    def compile(self, case: str) -> bytes:
        if case == "good":
            self._kernels.softmax(8192)
        else:
            self._kernels.refused()
        (path,) = Path(self._folder).rglob("*.o")
        return path.read_bytes()


def environment_of_flashinfer(folder: str, place: str, calls: str) -> dict[str, str]:
    """Make a toolkit of what the wheels have; return the variables that FlashInfer finds it by."""
    import nvidia.cu13

    toolkit = os.path.realpath(nvidia.cu13.__path__[0])
    stubs = os.path.join(place, "stubs")
    with contextlib.suppress(FileExistsError):
        half = tempfile.mkdtemp(dir=place)
        os.symlink(f"{toolkit}/lib/libcudart.so.13", f"{half}/libcudart.so")
        linked = ["cc", "-shared", "-x", "c", os.devnull, "-o", f"{half}/libcuda.so"]
        subprocess.run([*linked, "-Wl,-soname,libcuda.so.1"], check=True)
        counter = Path(half, "nvcc")
        counter.write_text(f'#!/bin/sh\necho $PPID >> {calls}\nexec {toolkit}/bin/nvcc "$@"\n')
        counter.chmod(0o755)
        try:
            os.rename(half, stubs)
        except OSError:
            shutil.rmtree(half)
    return {
        "CUDA_HOME": toolkit,
        "FLASHINFER_CUDA_ARCH_LIST": "9.0a",
        "FLASHINFER_EXTRA_LDFLAGS": f"-L{stubs}",
        "FLASHINFER_NVCC": f"{stubs}/nvcc",
        "FLASHINFER_WORKSPACE_BASE": folder,
        "FLASHINFER_LOGGING_LEVEL": "error",
    }


HEAVY = f"""
extern "C" __global__ void heavy(const float* x, float* y) {{
    float sum = 0;
    {"".join(f"sum += sinf(x[threadIdx.x + {n}]) * powf(x[{n}], sum);" for n in range(12))}
    y[threadIdx.x] = sum;
}}
"""
"""Seconds of work for NVRTC."""

PEERS: dict[str, Any] = {
    "cuda_core": CudaCore,
    "flashinfer": FlashInfer,
    "quack": Quack,
    "tilelang": TileLang,
    "triton": Triton,
    "warp": Warp,
}


def digest(data: bytes) -> str:
    """Tell binaries apart."""
    return hashlib.sha256(data).hexdigest()[:16]
