"""Results that a compiler has left cut short while it said that it succeeded."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ajit._core.elf import fault_of
from ajit.errors import CompilerCrashed
from tests.compile.support import Bench, job

if TYPE_CHECKING:
    from pathlib import Path

    from ajit._compile.toolchains.toolchains import Toolchains

ARCH = os.uname().machine
SOURCE = 'extern "C" __global__ void plain(float* x) { x[0] = 1; }'


def cutting(folder: Path, compiler: str, suffix: str, size: str) -> str:
    """Write a program that runs a compiler and then cuts its results of a name to a size."""
    path = folder / "cutting"
    path.write_text(
        f'#!/bin/bash\n{compiler} "$@" || exit $?\n'
        f"for made in *{suffix}; do [ ! -e $made ] || truncate -s {size} $made; done\n"
    )
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("size", ["3000", "-1", "-500"])
def test_a_shared_object_that_is_cut_short_is_a_crash(
    tmp_path: Path, toolchains: Toolchains, size: str
) -> None:
    """It is no result, and the error says what is missing."""
    host = toolchains.find("host").command
    bench = Bench(host_compiler=cutting(tmp_path, " ".join(host), ".so", size))

    try:
        with pytest.raises(CompilerCrashed, match="cut short: not a complete ELF image"):
            bench.compile(job(SOURCE, compiler="host", arch=ARCH))
    finally:
        bench.close()


@pytest.mark.usefixtures("nvcc")
@pytest.mark.parametrize(("suffix", "size"), [(".cubin", "-1"), (".cubin", "700"), (".ptx", "200")])
def test_a_result_of_nvcc_that_is_cut_short_is_a_crash(
    tmp_path: Path, toolchains: Toolchains, suffix: str, size: str
) -> None:
    """The cubin, and the PTX between the two halves of the compile."""
    nvcc = toolchains.find("nvcc").command
    bench = Bench(nvcc=cutting(tmp_path, " ".join(nvcc), suffix, size))

    try:
        with pytest.raises(CompilerCrashed, match="cut short"):
            bench.compile(job(SOURCE, compiler="nvcc"))
    finally:
        bench.close()


def test_a_result_is_whole_and_every_cut_of_it_is_not(
    bench: Bench, compiler: dict[str, str]
) -> None:
    """Of each compiler: templates and debug information, cut at many places."""
    source = f"{SOURCE}\ntemplate <class T> __global__ void t(T* x) {{ x[0] = 2; }}"
    output = bench.compile(job(source, ("plain", "t<float>"), **compiler))
    names = output.lowered.values()

    assert fault_of(output.kind, output.data, names) == ""
    for end in [*range(0, len(output.data), 97), len(output.data) - 1]:
        assert fault_of(output.kind, output.data[:end], names)
    assert "no_such" in fault_of(output.kind, output.data, ["no_such"])
