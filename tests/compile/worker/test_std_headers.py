"""The C++ standard library for NVRTC, and other CUDA headers than the toolkit's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import ajit
from ajit.errors import CompileError
from tests.compile.support import Bench, job

if TYPE_CHECKING:
    from pathlib import Path

Fields = dict[str, Any]

USING = """
#include <algorithm>
#include <array>
#include <cassert>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <optional>
#include <stdint.h>
#include <tuple>
#include <type_traits>
#include <utility>

template <class T, std::size_t N>
__device__ std::enable_if_t<std::is_same_v<T, float>, T> first(const std::array<T, N>& a) {
    return a[0];
}

extern "C" __global__ void plain(std::uint32_t* x, float* y) {
    uint32_t three = 3;
    std::int64_t four = 4;
    assert(x[0] < INT_MAX && y[0] < FLT_MAX);
    x[0] = std::max<std::uint32_t>(x[0], 7u) + three + std::uint32_t(four);
    y[0] = std::sqrt(y[0]) + std::numeric_limits<float>::infinity() + std::fmax(1.f, 2.f);
    std::tuple<int, float> both{1, 2.f};
    auto [a, b] = both;
    std::pair<int, float> pair{a, b};
    auto [c, d] = pair;
    int moved = std::move(c);
    if (moved != a) x[3] = 1;
    std::array<float, 2> numbers{1.f, d};
    y[1] = first(numbers) + std::get<0>(both);
    for (int v : {1, 2, 3}) x[1] += v;
    std::memcpy(y + 2, x, 4);
    x[2] = std::plus<int>{}(1, 2) + std::gcd(4u, 6u) + *std::optional<int>(3);
    if (x[2] == 0) printf("never\\n");
    static_assert(sizeof(std::byte) == 1, "");
    static_assert(std::is_same<std::conditional_t<true, int, float>, int>::value, "");
}
"""


def of_std_headers() -> tuple[tuple[str, str], ...]:
    """As a spec has them."""
    return tuple(sorted(ajit.std_headers().items()))


def test_sources_of_the_standard_library_compile_with_all(bench: Bench, compiler: Fields) -> None:
    """NVRTC takes it from libcu++; nvcc and host compilers from their own, with the same spec."""
    # Without this, nvcc lets kernels call no function of its library, constexpr or not.
    options = ("--expt-relaxed-constexpr",) if compiler["compiler"] == "nvcc" else ()
    given = job(USING, headers=of_std_headers(), options=options, **compiler)

    assert bench.compile(given).data[:4] == b"\x7fELF"


def test_every_standard_header_compiles(bench: Bench) -> None:
    """Together: alone each takes a second."""
    includes = "".join(f"#include <{name}>\n" for name in sorted(ajit.std_headers(), reverse=True))
    source = includes + 'extern "C" __global__ void plain() {}'

    assert bench.compile(job(source, headers=of_std_headers())).data


def test_std_may_be_opened_again(bench: Bench) -> None:
    """It is a namespace and no alias."""
    source = "#include <cstdint>\nnamespace std { struct mine { uint8_t x; }; }\n"
    source += 'extern "C" __global__ void plain(std::mine* x) { x->x = 1; }'

    assert bench.compile(job(source, headers=of_std_headers())).data


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("cstdint", "(on the command line: --std-headers), or include <cuda/std/cstdint>"),
        ("stdint.h", "(on the command line: --std-headers), or include <cuda/std/cstdint>"),
        ("vector", "libcu++ has none either"),
    ],
)
def test_a_missing_standard_header_says_what_to_do(bench: Bench, header: str, says: str) -> None:
    """With NVRTC, which has none of them."""
    with pytest.raises(CompileError) as caught:
        bench.compile(job(f"#include <{header}>\n"))

    (note,) = caught.value.__notes__
    assert says in note
    assert 'compiler="nvcc", --compiler nvcc' in note


def test_another_missing_header_is_no_matter_of_the_standard_library(bench: Bench) -> None:
    """A name that is none of it."""
    with pytest.raises(CompileError) as caught:
        bench.compile(job("#include <cutlass/cutlass.h>\n"))

    assert getattr(caught.value, "__notes__", []) == []


def test_headers_of_a_spec_come_before_the_toolkits(
    bench: Bench, compiler: Fields, tmp_path: Path
) -> None:
    """A spec names the CUDA and CCCL that it wants by its include directories."""
    (tmp_path / "cuda" / "std").mkdir(parents=True)
    (tmp_path / "cuda" / "std" / "cstdint").write_text("#define OWN_CCCL 1\n")
    (tmp_path / "cuda_fp16.h").write_text("#define OWN_TOOLKIT 1\n")
    source = """
    #include <cuda/std/cstdint>
    #include <cuda_fp16.h>
    extern "C" __global__ void plain(int* x) { x[0] = OWN_CCCL + OWN_TOOLKIT; }
    """

    assert bench.compile(job(source, include_dirs=(str(tmp_path),), **compiler)).data


def test_a_cccl_that_lacks_a_standard_header_is_named(bench: Bench) -> None:
    """An older libcu++ has less: the error says that it is this."""
    lacking = ajit.std_headers()["ranges"].replace("/ranges>", "/ranges-of-later>")
    with pytest.raises(CompileError) as caught:
        bench.compile(job("#include <ranges>\n", headers=(("ranges", lacking),)))

    assert "of a version that has no <cuda/std/ranges-of-later>" in caught.value.log
