"""Labels, flags and symbols: the small pure parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ajit._compile.recorder.flags import (
    has_standard,
    native_option,
    option_dirs,
    plugin_option,
    with_absolute_dirs,
)
from ajit._compile.worker.text import capped, label_of
from ajit._core.elf import kernel_symbols
from tests.compile.support import Bench, job


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("saxpy", "saxpy.cu"),
        ("models/rope.cu", "rope.cu"),
        ("../../etc/passwd", "passwd.cu"),
        ("", "kernel.cu"),
        ("-rf", "rf.cu"),
        ('a"b\nc', "a_b_c.cu"),
        ("x" * 300, "x" * 80 + ".cu"),
    ],
)
def test_a_label_is_a_harmless_file_name(name: str, expected: str) -> None:
    """Whatever a spec is called."""
    assert label_of(name) == expected


def test_text_is_capped_in_the_middle() -> None:
    """Errors stand at the beginning and summaries at the end."""
    text = capped(b"begin" + b"x" * 1000 + b"end", 100)

    assert text.startswith("begin")
    assert text.endswith("end")
    assert "908 bytes left out" in text


def test_options_that_name_directories_are_understood() -> None:
    """In each of their spellings, also those that nvcc passes on or takes as a list."""
    options = ["-I/a", "-I", "/b", "--include-path=/c", "-isystem", "/d", "-O3", "-include", "x.h"]
    more = ["-I/e,/f", "-Xcompiler", "-I/g", "-Xcompiler=-O2,-I/h", "-Wp,-idirafter,/i"]

    assert option_dirs(options) == ("/a", "/b", "/c", "/d")
    assert option_dirs(more) == ("/e,/f", "/e", "/f", "/g", "/h", "/i")


@pytest.mark.parametrize(
    "options",
    [["-fplugin=x.so"], ["-Xcompiler", "-fplugin=x.so"], ["-Xclang", "-load", "-Xclang", "x.so"]],
)
def test_options_that_load_code_into_the_compiler_are_found(options: list[str]) -> None:
    """No recorder sees what the dynamic loader opens."""
    assert plugin_option(options)
    assert plugin_option(["-I/a", "-include", "-fplugin", "-O3"]) is None


@pytest.mark.parametrize(
    "options",
    [
        ["-march=native"],
        ["-mtune=native", "-O3"],
        ["-mcpu=native"],
        ["-Xcompiler", "-march=native"],
        ["-Xcompiler=-O2,-march=native"],
        ["-arch=native"],
        ["-arch", "native"],
        ["--gpu-architecture=native"],
    ],
)
def test_options_that_mean_this_machine_are_found(options: list[str]) -> None:
    """In each of their spellings."""
    assert native_option(options)
    assert native_option(["-O3", "-march=x86-64-v3", "-DMODE=native", "-arch=sm_90"]) is None


def test_relative_directories_in_options_are_made_absolute() -> None:
    """Compilers run in another directory than the server."""
    here = Path.cwd()
    options = ["-Isub", "-I", "sub", "--include-path=sub", "-O3", "-DINCLUDE=sub", "-I/abs", "-I"]
    expected = [f"-I{here}/sub", "-I", f"{here}/sub", f"--include-path={here}/sub", "-O3"]

    assert with_absolute_dirs(options) == (*expected, "-DINCLUDE=sub", "-I/abs", "-I")


def test_the_standard_is_recognised() -> None:
    """Both spellings."""
    assert has_standard(["-std=c++20"])
    assert has_standard(["--std=c++20"])
    assert not has_standard(["-O3"])


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100", "sm_120"])
def test_kernels_of_a_cubin_are_found(bench: Bench, arch: str) -> None:
    """On every architecture; device functions are not kernels."""
    source = "__device__ __noinline__ int f(int x) { return x * 3; }\n"
    source += 'extern "C" __global__ void plain(int* x) { x[0] = f(x[1]); }'
    output = bench.compile(job(source, arch=arch))

    assert kernel_symbols(output.data) == {"plain"}


def test_an_image_that_is_no_cubin_is_refused(bench: Bench) -> None:
    """An image without a header or with another one."""
    data = bench.compile(job()).data
    for image in (b"", b"text", data[:63], b"\x7fELF\x01\x01" + data[6:]):
        with pytest.raises(ValueError, match="ELF"):
            kernel_symbols(image)


def test_a_cubin_cut_short_runs_nowhere(bench: Bench) -> None:
    """Wherever it ends, it is refused or names no kernel that it has not."""
    data = bench.compile(job()).data
    for end in range(64, len(data), 61):
        try:
            found = kernel_symbols(data[:end])
        except ValueError:
            continue
        assert found <= {"plain"}
