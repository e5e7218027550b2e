"""The CPU driver's outside: the driver API's names, prototypes and types, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.gpu.cpu_driver import CUDA_H, NATIVE, ZIG, build_driver

STRUCTS = [
    *("CUresult", "CUdevice", "CUdeviceptr", "CUuuid", "CUmemcpyAttributes", "CUlaunchAttribute"),
    *("CUlaunchConfig", "CUdevice_attribute", "CUfunction_attribute", "CUpointer_attribute"),
    *("CUjit_option", "CUmoduleLoadingMode", "CUstreamCaptureMode", "CUstreamCaptureStatus"),
    *("CUdriverProcAddressQueryResult", "CUmemPoolProps", "CUmemAccessDesc", "CUgraphEdgeData"),
    *("CUipcMemHandle", "CUipcEventHandle", "CUmemLocation", "CUlibraryOption", "CUgraphNodeType"),
    *(
        "CUmemPool_attribute",
        "CUmemAccess_flags",
        "CUmemAllocationType",
        "CUDA_GRAPH_INSTANTIATE_PARAMS",
    ),
]

# Since CUDA 12, cuda.h makes this name another one's, which has the type.
VERSIONS_WITHOUT_A_TYPE = {("cuGraphInstantiate", "12000")}


def prototypes() -> list[str]:
    """The names that the header declares."""
    text = (NATIVE / "cpu_driver/cuda_prototypes.h").read_text()
    return re.findall(r"^CUresult (cu\w+)\(", text, re.MULTILINE)


def exported(library: Path) -> set[str]:
    """The names that the library exports."""
    lines = subprocess.run(
        ["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return {line.split()[-1] for line in lines}


needs_cuda_h = pytest.mark.skipif(not CUDA_H.exists(), reason="no CUDA toolkit to compare with")
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="compares with gcc and nm")


@needs_cuda_h
@needs_gcc
def test_prototypes_are_nvidias(tmp_path: Path) -> None:
    """A compiler that sees cuda.h and our prototypes finds no difference."""
    source = tmp_path / "both.c"
    source.write_text(f'#include "{CUDA_H}"\n#include "{NATIVE}/cpu_driver/cuda.h"\n')

    done = subprocess.run(
        ["gcc", "-std=c11", "-fsyntax-only", source], check=False, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr


@needs_cuda_h
@needs_gcc
def test_types_have_nvidias_sizes(tmp_path: Path) -> None:
    """Our declarations of types are laid out as those of cuda.h."""
    sizes = {}
    for name, header in (("theirs", CUDA_H), ("ours", NATIVE / "cpu_driver/cuda.h")):
        source = tmp_path / f"{name}.c"
        prints = "".join(f'printf("{kind} %zu\\n", sizeof({kind}));' for kind in STRUCTS)
        offsets = "".join(
            f'printf("{field} %zu\\n", offsetof(CUlaunchConfig, {field}));'
            for field in ("sharedMemBytes", "hStream", "attrs", "numAttrs")
        )
        source.write_text(
            f'#include "{header}"\n#include <stddef.h>\n#include <stdio.h>\n'
            f"int main(void) {{ {prints}{offsets} return 0; }}\n"
        )
        subprocess.run(["gcc", source, "-o", tmp_path / name], check=True)
        sizes[name] = subprocess.run(
            [tmp_path / name], check=True, capture_output=True, text=True
        ).stdout

    assert sizes["ours"] == sizes["theirs"]


@needs_gcc
def test_exports_the_driver_api_and_its_own_test_functions_only(driver_library: Path) -> None:
    """Every prototype is exported; nothing else is but the functions for tests."""
    names = exported(driver_library)

    assert set(prototypes()) <= names
    assert all(name.startswith("ajit_cpu_") for name in names - set(prototypes()))


@needs_cuda_h
def test_addresses_are_handed_out_by_the_versions_that_nvidia_gave_them() -> None:
    """Each name and version of the table is one of NVIDIA's function types."""
    table = re.findall(r"ENTRY\((\w+), (\d+),\s+\w+\)", (NATIVE / "cpu_driver/proc.c").read_text())
    theirs = set(
        re.findall(r"\bPFN_(cu\w+?)_v(\d+)\)", (CUDA_H.parent / "cudaTypedefs.h").read_text())
    )

    assert set(table) - theirs - VERSIONS_WITHOUT_A_TYPE == set()


@needs_gcc
def test_every_function_has_an_address_by_name(driver_library: Path) -> None:
    """Every exported function is also handed out by cuGetProcAddress."""
    text = (NATIVE / "cpu_driver/proc.c").read_text()
    handed_out = set(re.findall(r"ENTRY\(\w+, \d+,\s+(\w+)\)", text))

    assert handed_out == {name for name in exported(driver_library) if name.startswith("cu")}


@needs_gcc
def test_needs_no_python(driver_library: Path) -> None:
    """The library refers to no symbol of Python (rule R5)."""
    undefined = subprocess.run(
        ["nm", "-D", driver_library], check=True, capture_output=True, text=True
    ).stdout

    assert "Py" not in undefined


@pytest.mark.slow  # zig compiles its own C library the first time
def test_builds_with_zig(tmp_path: Path) -> None:
    """A machine without a C compiler builds it with the ziglang wheel, without a warning."""
    pytest.importorskip("ziglang")
    library = build_driver(tmp_path, [*ZIG, "cc"])

    assert library.exists()
