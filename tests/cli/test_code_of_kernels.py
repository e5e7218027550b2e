"""What a cubin says of its kernels, and its machine code as text."""

from __future__ import annotations

import re
import subprocess

import pytest

from ajit._core.cubin import kernel_usage
from ajit.cli import disassembly, exits

BIG = """
extern "C" __global__ void __launch_bounds__(256) big(float* x, int n) {
    __shared__ float s[1024];
    float a[64];
    for (int i = 0; i < 64; i++) a[i] = x[i * n];
    s[threadIdx.x] = a[n & 63];
    __syncthreads();
    for (int i = 0; i < 64; i++) x[i] += a[(i * n) & 63] * s[i];
}
extern "C" __global__ void small(int* x) { *x = 1; }
"""
CUOBJDUMP = disassembly._found("cuobjdump")
with_cuobjdump = pytest.mark.skipif(not CUOBJDUMP, reason="needs pip install 'ajit[sass]'")


def compiled(ajit, arch="sm_90a"):
    """Compile the source; return the key of its entry."""
    (ajit.folder / "big.cu").write_text(BIG)
    args = ("compile", "big.cu", "--entry", "big", "--entry", "small", "--arch", arch, "--json")
    return ajit(*args).json()["key"]


def cubin(ajit, key):
    """The bytes of an entry."""
    ajit("cache", "extract", key, "-o", "big.cubin")
    return (ajit.folder / "big.cubin").read_bytes()


@with_cuobjdump
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100"])
def test_usage_is_what_nvidias_program_says(ajit, arch):
    """Registers, stack, shared and constant memory, for archs of three generations."""
    image = cubin(ajit, compiled(ajit, arch))
    told = subprocess.run(
        [CUOBJDUMP, "-res-usage", str(ajit.folder / "big.cubin")],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    expected = {
        name: (int(registers), int(stack), int(shared), int(constant))
        for name, registers, stack, shared, constant in re.findall(
            r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:\d+ CONSTANT\[0\]:(\d+)",
            told,
        )
    }

    actual = {
        one.name: (one.registers, one.stack_bytes, one.shared_bytes, one.constant_bytes)
        for one in kernel_usage(image)
    }

    assert actual == expected
    assert set(actual) == {"big", "small"}


def test_inspect_shows_what_each_kernel_needs(ajit):
    """In a table, and as plain numbers; bounds of launches are told, too."""
    key = compiled(ajit)

    big, small = ajit("cache", "inspect", key, "--json").json()["kernels"]
    shown = ajit("cache", "inspect", key).out

    assert (big["name"], big["max_threads"], small["max_threads"]) == ("big", 256, None)
    assert big["registers"] > small["registers"] > 0
    assert big["stack_bytes"] >= 256
    assert big["shared_bytes"] >= 4096
    assert big["code_bytes"] > small["code_bytes"] > 0
    assert "at most 256" in shown


def test_a_cubin_that_is_cut_or_changed_is_no_error(ajit):
    """It may be of a newer compiler, or from anyone: what cannot be read is not told."""
    image = cubin(ajit, compiled(ajit))

    for length in range(0, len(image), 97):
        kernel_usage(image[:length])
    for at in range(0, len(image), 13):
        kernel_usage(image[:at] + b"\xff\xff\xff\xff" + image[at + 4 :])
    assert kernel_usage(b"") == kernel_usage(b"no image") == []


@with_cuobjdump
def test_machine_code_is_written_as_text(ajit):
    """Into a file by the label, or to standard output; no path of the temporary copy is in it."""
    key = compiled(ajit)

    ended = ajit("cache", "extract", key, "--sass", "--json").json()
    text = (ajit.folder / ended["file"]).read_text()
    printed = ajit("cache", "extract", key, "--sass", "-o", "-").out

    assert (ended["file"], ended["kind"], ended["bytes"]) == ("big.cu.sass", "sass", len(text))
    assert "Function : big" in text
    assert "EXIT" in text
    assert "/tmp" not in text
    assert printed == text


@pytest.mark.parametrize(("option", "target", "why"), [
    ("--ptx", ("--arch", "sm_90a"), "no PTX in it"),
    ("--sass", ("--compiler", "host"), "no code for a GPU"),
])  # fmt: skip
def test_code_that_is_not_there_is_told(ajit, option, target, why):
    """And no file is made."""
    (ajit.folder / "k.cu").write_text('extern "C" __global__ void k(int* x) { *x = 1; }')
    key = ajit("compile", "k.cu", "--entry", "k", *target, "--json").json()["key"]

    ended = ajit("cache", "extract", key, option)

    assert ended.code == exits.PROBLEM
    assert why in ended.err
    assert [path.name for path in ajit.folder.iterdir() if path.is_file()] == ["k.cu"]


def test_without_the_programs_it_says_what_to_install(ajit, monkeypatch):
    """A machine without a toolkit has neither."""
    monkeypatch.setattr(disassembly, "_found", lambda _: "")

    with pytest.raises(exits.Lacking, match=r"cuobjdump or nvdisasm.*ajit\[sass\]"):
        disassembly.disassembled(b"", "sass")


@with_cuobjdump
def test_bytes_that_the_program_does_not_understand_are_an_error(ajit):
    """In its own words."""
    with pytest.raises(disassembly.NoCode, match="no SASS"):
        disassembly.disassembled(b"no image", "sass")
