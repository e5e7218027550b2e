"""Programs for NVIDIA's driver run unmodified on the CPU driver, built as libcuda.so.1."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.cpu_driver import NATIVE, build_driver, build_image

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs" / "cpu-driver.md"
SOURCE = """
extern "C" __global__ void saxpy(float a, const float *x, float *y, size_t n) {
    size_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += a * x[i];
}
template <class T> __global__ void scale(T *x, T by, size_t n) {
    size_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= by;
}
"""
STEPS = {
    "fidelity_core.py": ["streams_and_events", "memory_resources", "copies_and_fills", "kernels"],
    "fidelity_bindings.py": [
        "devices",
        "errors",
        "memory",
        "streams",
        "pools",
        "launches",
        "graphs",
    ],
}


@pytest.fixture(scope="module")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same sources, built under the name that programs look for."""
    folder = tmp_path_factory.mktemp("libcuda")
    build_driver(folder, options=["-Wl,-soname,libcuda.so.1"]).rename(folder / "libcuda.so.1")
    return folder


def test_nvrtc_compiles_beside_the_driver(libcuda: Path) -> None:
    """It looks for the driver by its name, and takes functions of it without a look."""
    done = subprocess.run(
        [sys.executable, "-W", "error", HERE / "fidelity_nvrtc.py"],
        env=os.environ | {"LD_LIBRARY_PATH": str(libcuda)},
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["table", "kernel"]


@pytest.mark.parametrize("program", STEPS)
def test_an_unmodified_program_runs(libcuda: Path, tmp_path: Path, program: str) -> None:
    """In a separate process, which finds our library first; any warning is an error."""
    pytest.importorskip("cuda.core" if "core" in program else "cuda.bindings.driver")
    image = tmp_path / "image"
    image.write_bytes(build_image(tmp_path, SOURCE, "saxpy", "scale<float>"))
    done = subprocess.run(
        [sys.executable, "-W", "error", HERE / program, image],
        env=os.environ | {"LD_LIBRARY_PATH": str(libcuda)},
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == STEPS[program]


def test_a_missing_function_says_its_name(libcuda: Path) -> None:
    """Through cuda.bindings, which asks for addresses by name and gets none."""
    program = "from cuda.bindings import driver as d; d.cuInit(0); d.cuArrayDestroy(d.CUarray())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"LD_LIBRARY_PATH": str(libcuda)},
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert done.returncode == 1
    assert "cuArrayDestroy" in done.stderr


def test_the_docs_list_what_there_is() -> None:
    """Every function by its exported name, and no other."""
    text = (NATIVE / "cpu_driver/cuda_prototypes.h").read_text()
    expected = re.findall(r"^CUresult (cu\w+)\(", text, re.MULTILINE)
    listed = DOCS.read_text().split("## Functions", 1)[1]

    assert sorted(re.findall(r"`(cu\w+)`", listed)) == sorted(expected)
