"""CUDA's own headers are found without the user's help, in the release that fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ajit._compile.toolchains import cuda_headers
from ajit._compile.toolchains.cuda_headers import find_cuda_headers
from tests.compile.support import Bench, install_cuda, job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ajit._compile.toolchains.toolchains import Toolchains

HALF = """
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cuda/std/type_traits>
static_assert(cuda::std::is_same<float, float>::value, "");
extern "C" __global__ void plain(__half* x, __nv_bfloat16* y) {
    x[0] = __float2half(1.0f);
    y[0] = __float2bfloat16(1.0f);
}
"""
CUB = """
#include <cub/block/block_reduce.cuh>
extern "C" __global__ void plain(float* x) {
    using Reduce = cub::BlockReduce<float, 128>;
    __shared__ typename Reduce::TempStorage storage;
    float sum = Reduce(storage).Sum(x[threadIdx.x]);
    if (threadIdx.x == 0) x[0] = sum;
}
"""


@pytest.fixture(params=["nvrtc", "nvcc"])
def cuda_compiler(request: pytest.FixtureRequest, toolchains: Toolchains) -> dict[str, Any]:
    """The compilers that use CUDA's headers; skips where there are none."""
    if request.param == "nvcc":
        request.getfixturevalue("nvcc")
    if not toolchains.find(request.param).include_dirs:
        pytest.skip("no CUDA headers are installed: pip install 'ajit[headers]'")
    return {"compiler": request.param}


def test_half_bfloat16_and_libcu_are_found(bench: Bench, cuda_compiler: dict[str, Any]) -> None:
    """The headers that nearly every kernel of a model server includes."""
    assert bench.compile(job(HALF, **cuda_compiler)).data


def test_cub_is_found(bench: Bench, cuda_compiler: dict[str, Any]) -> None:
    """CCCL lies in a separate directory since CUDA 13."""
    assert bench.compile(job(CUB, **cuda_compiler)).data


@pytest.fixture
def roots(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The places that are searched, to be filled by the test."""
    places: list[str] = []
    monkeypatch.setattr(cuda_headers, "cuda_roots", lambda: places)
    return places


def test_the_release_of_the_compiler_is_preferred(tmp_path: Path, roots: list[str]) -> None:
    """A newer wheel beside an older toolkit does not win by its place."""
    roots += [install_cuda(tmp_path / "a", 13050), install_cuda(tmp_path / "b", 13000)]
    found = find_cuda_headers((13, 0))

    assert found.runtime == (13, 0)
    assert found.dirs == tuple(f"{tmp_path}/b/include{end}" for end in ("", "/cccl"))
    assert found.cccl == "3.1.2"
    assert found.flags((13, 0)) == ()


def test_another_minor_release_is_used_with_cccls_check_off(
    tmp_path: Path, roots: list[str]
) -> None:
    """The nearest one; compiling usually works, refusing never does."""
    roots += [install_cuda(tmp_path / "a", 13000), install_cuda(tmp_path / "b", 13040)]
    found = find_cuda_headers((13, 5))

    assert found.runtime == (13, 4)
    assert found.flags((13, 5)) == ("-DCCCL_DISABLE_CTK_COMPATIBILITY_CHECK",)


def test_another_major_release_is_never_used(tmp_path: Path, roots: list[str]) -> None:
    """CUDA 12's headers do not work with CUDA 13's compiler."""
    roots += [install_cuda(tmp_path / "a", 12090)]
    found = find_cuda_headers((13, 5))

    assert found.dirs == ()
    assert str(found) == "cudart none, cccl none"


def test_the_search_ends_at_the_best_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking on imports cuda-pathfinder, which costs more than all the rest."""

    def places() -> Iterator[str]:
        yield install_cuda(tmp_path / "a", 13050, cccl=False)
        yield install_cuda(tmp_path / "b", 13050)
        pytest.fail("looked on")

    monkeypatch.setattr(cuda_headers, "cuda_roots", places)

    assert find_cuda_headers((13, 5)).dirs[0] == f"{tmp_path}/b/include"


def test_headers_without_cccl_do(tmp_path: Path, roots: list[str]) -> None:
    """The runtime's wheel alone serves all but CUB and libcu++."""
    roots += [install_cuda(tmp_path / "a", 13050, cccl=False)]

    assert find_cuda_headers((13, 5)).dirs == (f"{tmp_path}/a/include",)
