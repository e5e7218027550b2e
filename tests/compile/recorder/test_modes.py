"""Options that contradict the request are told apart from those that do not."""

from __future__ import annotations

import pytest

from ajit._compile.recorder.modes import contradiction

GPU, HOST = ("nvrtc", "nvcc"), ("host",)


@pytest.mark.parametrize(
    ("compilers", "options"),
    [
        (GPU, ["-arch=sm_80"]),
        (GPU, ["-arch", "sm_80"]),
        (GPU, ["--gpu-architecture=compute_90"]),
        (GPU, ["--gpu-code=sm_80,sm_90"]),
        (GPU, ["-gencode=arch=compute_80,code=sm_80"]),
        (GPU, ["-gencode", "arch=compute_80,code=sm_80"]),
        (HOST, ["-m32"]),
        (HOST, ["--target=aarch64-linux-gnu"]),
        (HOST, ["-target", "aarch64-linux-gnu"]),
    ],
)
def test_another_arch_contradicts(compilers: tuple[str, ...], options: list[str]) -> None:
    """Whatever it is: the request has one, and compilers take no second."""
    for compiler in compilers:
        assert "arch=..." in (contradiction(compiler, options) or "")


@pytest.mark.parametrize(
    ("compilers", "option"),
    [
        *((HOST, text) for text in ("-B/opt/gcc/bin", "-B", "--prefix=/opt", "-wrapper")),
        (("nvcc",), "-Xcompiler=-B/opt"),
    ],
)
def test_what_goes_past_the_key_is_refused(compilers: tuple[str, ...], option: str) -> None:
    """Other programs than the fingerprint covers."""
    for compiler in compilers:
        assert "the key" in (contradiction(compiler, ["-O3", option]) or "")


@pytest.mark.parametrize(
    ("compilers", "option"),
    [
        *(((*GPU, *HOST), text) for text in ("-E", "-c", "-M", "-MM", "-MD", "-MFx.d", "-o", "-h")),
        *((GPU, text) for text in ("-dlto", "-ptx", "--ptx", "-cubin", "-fatbin", "--fatbin")),
        *((GPU, text) for text in ("-dc", "--device-c", "-lib", "-run", "--dryrun", "-optix-ir")),
        *((GPU, text) for text in ("--output-file=x", "-odir", "--fdevice-syntax-only")),
        *((HOST, text) for text in ("-S", "-ox.so", "--output=x", "-emit-llvm", "-fsyntax-only")),
        *((HOST, text) for text in ("-static", "-r", "-###", "--version", "-dumpmachine")),
        (("nvcc",), "-Xcompiler=-O2,-E"),
        (("nvcc",), "--compiler-options=-S"),
    ],
)
def test_another_output_contradicts(compilers: tuple[str, ...], option: str) -> None:
    """The reason names the option."""
    for compiler in compilers:
        why = contradiction(compiler, ["-O3", option]) or ""

        assert why.startswith(repr(option)) or option.endswith(why.partition(":")[0].strip("'"))


@pytest.mark.parametrize(
    ("compilers", "options"),
    [
        (GPU, ["-O3", "-lineinfo", "--use_fast_math", "-std=c++20", "--maxrregcount=64", "-G"]),
        (GPU, ["-Xptxas", "-c", "-D", "E", "-DS", "--ptxas-options=-v", "-rdc=true", "-w"]),
        (GPU, ["--options-file", "-c", "-include", "-E", "-I", "-o", "--restrict"]),
        (GPU, ["-default-device", "-pch", "--diag-suppress=177", "-opt-info=inline"]),
        (("nvcc",), ["-Xcompiler", "-Wall", "-Xcompiler=-fopenmp", "-keep", "-ccbin=g++"]),
        (HOST, ["-O3", "-march=native", "-mtune=native", "-ffast-math", "-g", "-Wl,-E", "-mavx2"]),
        (HOST, ["-Xlinker", "-E", "-include", "-c", "-flto", "-fopenmp", "-pthread", "-v"]),
        (HOST, ["-fmodules", "-x", "c++", "-Wp,-DX", "-fplugin=x.so"]),
    ],
)  # fmt: skip
def test_ordinary_options_pass(compilers: tuple[str, ...], options: list[str]) -> None:
    """Values of other options as well, whatever they look like."""
    for compiler in compilers:
        assert contradiction(compiler, options) is None
