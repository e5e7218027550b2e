"""DeepGEMM's compiles through the launcher, and CuTe's headers in a spec, without DeepGEMM.

Its kernels need CUTLASS, which FlashInfer's wheel carries. The kernel here is of the same form: a
header of the library, a source that only instantiates, in a new directory for each process.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ajit
from ajit._launcher.tally import totals

if TYPE_CHECKING:
    from collections.abc import Callable

PROCESSES = 8
SECONDS = 200

KERNEL = r"""
#pragma once
#include <cute/tensor.hpp>
#include <cutlass/bfloat16.h>

#define DEVICE_ASSERT(x) if (not (x)) { printf("%s:%d", __FILE__, __LINE__); asm("trap;"); }

namespace own {
using namespace cute;

template <int kRows, int kColumns, typename dtype_t>
__global__ void transpose(dtype_t* out, const dtype_t* in) {
    using Rows = Shape<Int<kRows>, Int<kColumns>>;
    using Columns = Shape<Int<kColumns>, Int<kRows>>;
    DEVICE_ASSERT(blockDim.x == kRows);
    auto from = make_tensor(make_gmem_ptr(in), make_layout(Rows{}, GenRowMajor{}));
    auto to = make_tensor(make_gmem_ptr(out), make_layout(Columns{}, GenRowMajor{}));
    for (int column = 0; column < kColumns; ++column)
        to(column, threadIdx.x) = from(threadIdx.x, column);
}
}
"""

SOURCE = """
#include <own/transpose.cuh>

using namespace own;

static void __instantiate_kernel() {
    auto ptr = reinterpret_cast<void*>(&transpose<64, 32, cutlass::bfloat16_t>);
};
"""

FLAGS = (
    "-std=c++20 --diag-suppress=39,161,174,177,186,940 --ptxas-options=--register-usage-level=10 "
    "-I{include} --gpu-architecture=sm_90a "
    "--compiler-options=-fPIC,-O3,-fconcepts,-Wno-deprecated-declarations,-Wno-abi "
    "-O3 --expt-relaxed-constexpr --expt-extended-lambda"
)
"""Those of ``NVCCCompiler`` in csrc/jit/compiler.hpp of DeepGEMM, at 54e2261."""


def cutlass() -> Path | None:
    """The headers of CUTLASS, where a wheel has them."""
    spec = importlib.util.find_spec("flashinfer")
    found = spec and spec.origin and Path(spec.origin).parent / "data" / "cutlass" / "include"
    return found if found and found.is_dir() else None


def toolkit() -> Path | None:
    """The toolkit of the wheels."""
    spec = importlib.util.find_spec("nvidia")
    found = Path(next(iter(spec.submodule_search_locations)), "cu13") if spec else None
    return found if found and (found / "bin" / "nvcc").is_file() else None


CUTLASS, TOOLKIT = cutlass(), toolkit()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        CUTLASS is None or TOOLKIT is None,
        reason="no CUTLASS of FlashInfer's wheel, or no nvcc: make integrations",
    ),
]


@pytest.fixture
def include(tmp_path: Path) -> Path:
    """The library's directory: its own headers beside those of CUTLASS, as DeepGEMM installs."""
    assert CUTLASS is not None
    folder = tmp_path / "library" / "include"
    (folder / "own").mkdir(parents=True)
    (folder / "own" / "transpose.cuh").write_text(KERNEL)
    for name in ("cute", "cutlass"):
        (folder / name).symlink_to(CUTLASS / name)
    return folder


@pytest.fixture
def build(tmp_path: Path, include: Path) -> Callable[[str], bytes]:
    """What ``Compiler::build`` does in one rank, with ``DG_JIT_NVCC_COMPILER=ajit-nvcc``."""
    launcher = Path(sys.executable).with_name("ajit-nvcc")
    env = {
        **os.environ,
        "AJIT_CC_NVCC": f"{TOOLKIT}/bin/nvcc",
        "AJIT_CACHE_DIR": f"{tmp_path}/ajit",
    }

    def build(source: str) -> bytes:
        tmp = tmp_path / ".deep_gemm" / "tmp"
        folder = tmp / uuid.uuid4().hex
        folder.mkdir(parents=True)
        (folder / "kernel.cu").write_text(source)
        made = folder / "kernel.cubin"
        flags = FLAGS.format(include=include).split()
        command = [launcher, f"{folder}/kernel.cu", "-cubin", "-o", made, *flags]
        subprocess.run(command, cwd=tmp, env=env, timeout=SECONDS, check=True)
        return made.read_bytes()

    return build


def test_ranks_compile_a_kernel_of_deepgemm_once(
    build: Callable[[str], bytes], tmp_path: Path
) -> None:
    """Each has the source in a directory of its own; the others wait, and get the first one's."""
    with ThreadPoolExecutor(PROCESSES) as ranks:
        made = list(ranks.map(build, [SOURCE] * PROCESSES))
    counted = totals(f"{tmp_path}/ajit")

    assert len(set(made)) == 1
    assert counted["compiled"] == 1
    assert sum(counted.values()) == PROCESSES


def test_an_edited_header_of_cute_form_is_seen(
    build: Callable[[str], bytes], include: Path, tmp_path: Path
) -> None:
    """DeepGEMM's own key has the includes of ``<deep_gemm/*>`` only."""
    build(SOURCE)
    path = include / "own" / "transpose.cuh"
    path.write_text(KERNEL.replace("column = 0", "column = 1"))
    build(SOURCE)

    assert totals(f"{tmp_path}/ajit")["compiled"] == 2


def test_a_spec_compiles_cute_without_an_extra_digest(
    rt: ajit.BlockingRuntime, include: Path, options: dict[str, Any]
) -> None:
    """What was read is the key: another process's look-up finds it, and an edit is a miss."""
    spec = ajit.Spec(
        "#include <own/transpose.cuh>\n",
        "own::transpose<64, 32, cutlass::bfloat16_t>",
        compiler="nvcc",
        arch="sm_90a",
        include_dirs=[include],
        options=["-std=c++17", "--expt-relaxed-constexpr"],
    )
    first = rt.compile(spec)
    with ajit.open_blocking_runtime(**options) as other:
        second = other.compile(spec)
        (include / "own" / "transpose.cuh").write_text(KERNEL.replace("column = 0", "column = 1"))
        third = other.compile(spec)

        counts = other.statistics()

    assert (counts.from_disk, counts.compiled) == (1, 1)
    assert first.data == second.data != third.data
