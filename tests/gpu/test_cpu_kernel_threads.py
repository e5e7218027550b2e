"""Threads of CUDA C++ on the CPU: barriers, warps, shared memory, atomics, and what is missing."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.gpu.cpu_driver import ZIG, ZIG_FLAGS, Cpu, build_image, compile_kernels

if TYPE_CHECKING:
    from pathlib import Path

ONE = (1, 1, 1)

SOURCE = """
__global__ void where(int *out) {
    int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    out[block * (blockDim.x * blockDim.y * blockDim.z) + thread] += 1 + block * 1000 + thread;
}
__global__ void early_exit(int *out) {
    int t = threadIdx.x;
    if (t % 3 == 0) return;
    out[t] = __syncthreads_count(t % 2);
    out[blockDim.x + t] = __syncthreads_and(t > 0) + 2 * __syncthreads_or(t == 4);
}
__global__ void lanes(int *out) {
    int t = threadIdx.x, n = blockDim.x;
    unsigned all = 0xffffffffu;
    out[t] = __shfl_sync(all, t, 5);
    out[n + t] = __shfl_up_sync(all, t, 3);
    out[2 * n + t] = __shfl_down_sync(all, t, 3, 16);
    out[3 * n + t] = __shfl_xor_sync(all, t, 9, 8);
    out[4 * n + t] = __ballot_sync(all, t & 1);
    out[5 * n + t] = __match_any_sync(all, t / 4 % 3);
    out[6 * n + t] = __reduce_add_sync(all, t);
    out[7 * n + t] = (int)__shfl_sync(all, (double)t * 0.5, 8, 8);
    out[7 * n + t] += (int)__shfl_sync(all, 1ll << 40, 0);
}
__global__ void split_warp(int *out) {
    int t = threadIdx.x;
    if (t < 20) out[t] = __shfl_sync(0x000fffffu, t, 19);
    else out[t] = __shfl_sync(0xfff00000u, t, 20);
    if (t % 2) { unsigned mask = __activemask(); out[32 + t] = mask; }
    else out[32 + t] = 0;
}
template <class T, int N> __global__ void reverse(const T *in, T *out) {
    __shared__ T tile[2][N];
    tile[0][threadIdx.x] = in[blockIdx.x * N + threadIdx.x];
    tile[1][threadIdx.x] = 1;
    __syncthreads();
    out[blockIdx.x * N + threadIdx.x] = tile[0][N - 1 - threadIdx.x] + tile[1][threadIdx.x];
}
namespace deep { __global__ void names(int *out) {
    extern __shared__ __align__(16) unsigned char raw[];
    extern __shared__ float numbers[];
    if (threadIdx.x == 0) for (int i = 0; i < 4; i++) raw[i] = i == 3 ? 0x3f : i == 2 ? 0x80 : 0;
    __syncthreads();
    if (threadIdx.x == 1) out[blockIdx.x] = numbers[0] == 1.0f && (size_t)raw % 16 == 0;
} }
template <class T> __global__ void dynamic(T *out) {
    extern __shared__ unsigned char bytes[];
    T *tile = reinterpret_cast<T *>(bytes);
    tile[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}
__global__ void atomics(int *i, unsigned *u, unsigned long long *l, float *f, double *d) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&i[0], 1); atomicMax(&i[1], t); atomicMin(&i[2], -t); atomicSub(&i[3], 2);
    atomicOr(&u[0], 1u << t % 32); atomicInc(&u[1], 99); atomicDec(&u[2], 6); atomicXor(&u[3], t);
    atomicAdd(&l[0], 1ull << 33); atomicAdd(f, 0.5f); atomicAdd(d, 0.25);
    int seen = i[4], old;
    do { old = seen; seen = atomicCAS(&i[4], old, old + 3); } while (seen != old);
}
__global__ void last_block(const float *in, float *partial, unsigned *count, float *out) {
    __shared__ bool last;
    float sum = in[blockIdx.x * blockDim.x + threadIdx.x];
    for (int o = 16; o > 0; o /= 2) sum += __shfl_down_sync(~0u, sum, o);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
        __threadfence();
        last = atomicAdd(count, 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) for (unsigned b = 0; b < gridDim.x; b++) *out += partial[b];
}
__global__ void handshake(int *out) {
    volatile int *flag = out;
    if (threadIdx.x == 0) { while (!*flag) __nanosleep(100); out[1] = 7; }
    if (threadIdx.x == 40) *flag = 1;
}
__global__ void matmul(const float *a, const float *b, float *c, int n) {
    __shared__ float as[16][16], bs[16][16];
    int x = threadIdx.x, y = threadIdx.y, row = blockIdx.y * 16 + y, column = blockIdx.x * 16 + x;
    float sum = 0;
    for (int k = 0; k < n; k += 16) {
        as[y][x] = a[row * n + k + x]; bs[y][x] = b[(k + y) * n + column];
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 16; i++) sum += as[y][i] * bs[i][x];
        __syncthreads();
    }
    c[row * n + column] = sum;
}
"""
ENTRIES = [
    *("where", "early_exit", "lanes", "split_warp", "deep::names", "atomics", "last_block"),
    *("handshake", "matmul"),
    "reverse<float, 64>",
    "&reverse<int, 32>",
    "dynamic<int>",
    "dynamic<double>",
]


@pytest.fixture(scope="module", params=["system", pytest.param("zig", marks=pytest.mark.slow)])
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The kernels, built by the system's compiler, and by zig, whose first build takes long."""
    if request.param == "zig":
        pytest.importorskip("ziglang")
    compiler = [*ZIG, "c++", *ZIG_FLAGS] if request.param == "zig" else []
    folder = tmp_path_factory.mktemp("threads")
    return build_image(folder, SOURCE, *ENTRIES, compiler=compiler)


def zeros(*shape: int) -> np.ndarray:
    """Integers to be written by a kernel."""
    return np.zeros(shape, np.int32)


def test_every_thread_of_every_block_runs_once(cpu: Cpu, image: bytes) -> None:
    """In three dimensions, each with its own indices."""
    out, threads = cpu.upload(zeros(24 * 60)), 60
    cpu.launch(cpu.function(cpu.load(image), "where"), (2, 3, 4), (5, 4, 3), out)
    expected = np.add.outer(np.arange(24) * 1000, np.arange(threads)) + 1

    assert (cpu.download(out, zeros(24, threads)) == expected).all()


def test_threads_that_returned_count_as_arrived(cpu: Cpu, image: bytes) -> None:
    """Barriers complete without them, and count only the threads that are left."""
    n = 97  # the last thread returns when all others wait already
    out = cpu.upload(zeros(2 * n))
    cpu.launch(cpu.function(cpu.load(image), "early_exit"), ONE, (n, 1, 1), out)
    alive = np.arange(n) % 3 != 0
    odd = int((np.arange(n)[alive] % 2).sum())
    counts, votes = cpu.download(out, zeros(2, n))

    assert (counts == np.where(alive, odd, 0)).all()
    assert (votes == np.where(alive, 3, 0)).all()


def test_lanes_exchange_values(cpu: Cpu, image: bytes) -> None:
    """Shuffles in all directions and widths, votes, matches and reductions, in two warps."""
    n = 64
    out = cpu.upload(zeros(8 * n))
    cpu.launch(cpu.function(cpu.load(image), "lanes"), ONE, (n, 1, 1), out)
    rows = cpu.download(out, zeros(8, n))
    t = np.arange(n)
    lane, first = t % 32, t - t % 32
    group = t // 4 % 3
    matches = [sum(1 << j for j in range(32) if group[first[i] + j] == group[i]) for i in range(n)]

    assert (rows[0] == first + 5).all()
    assert (rows[1] == np.where(lane >= 3, t - 3, t)).all()
    assert (rows[2] == np.where(t % 16 + 3 < 16, t + 3, t)).all()
    xor = t ^ 9
    assert (rows[3] == np.where(xor < (t // 8 + 1) * 8, xor, t)).all()
    assert (rows[4].view(np.uint32) == 0xAAAAAAAA).all()
    assert rows[5].view(np.uint32).tolist() == matches
    assert (rows[6] == np.where(t < 32, 496, 496 + 1024)).all()
    assert (rows[7] == (t // 8 * 8) // 2).all()


def test_parts_of_a_warp_work_apart(cpu: Cpu, image: bytes) -> None:
    """Disjoint masks do not wait for each other; __activemask names who came together."""
    out = cpu.upload(zeros(64))
    cpu.launch(cpu.function(cpu.load(image), "split_warp"), ONE, (32, 1, 1), out)
    shuffled, masks = cpu.download(out, zeros(2, 32))

    assert (shuffled == np.where(np.arange(32) < 20, 19, 20)).all()
    assert (masks.view(np.uint32) == np.where(np.arange(32) % 2, 0xAAAAAAAA, 0)).all()


@pytest.mark.parametrize(
    ("name", "dtype", "n"), [("reverse<float, 64>", "f4", 64), ("&reverse<int, 32>", "i4", 32)]
)
def test_static_shared_memory_belongs_to_the_block(
    cpu: Cpu, image: bytes, name: str, dtype: str, n: int
) -> None:
    """In templates too, with many blocks at once."""
    source = np.arange(50 * n).astype(dtype)
    pointer, out = cpu.upload(source), cpu.upload(np.zeros_like(source))
    cpu.launch(cpu.function(cpu.load(image), name), (50, 1, 1), (n, 1, 1), pointer, out)

    assert (cpu.download(out, source) == source.reshape(50, n)[:, ::-1].ravel() + 1).all()


def test_names_of_dynamic_shared_memory_alias(cpu: Cpu, image: bytes) -> None:
    """All `extern __shared__` arrays are one aligned area, in namespaces too."""
    out = cpu.upload(zeros(20))
    function = cpu.function(cpu.load(image), "deep::names")
    cpu.launch(function, (20, 1, 1), (33, 1, 1), out, shared=64)

    assert cpu.download(out, zeros(20)).all()


@pytest.mark.parametrize(("kind", "type_"), [("int", np.int32), ("double", np.float64)])
def test_a_template_has_dynamic_shared_memory(
    cpu: Cpu, image: bytes, kind: str, type_: type
) -> None:
    """In a template a C++ compiler may ask an initialiser that is nowhere for such memory."""
    expected = np.arange(33, dtype=type_)[::-1]
    out = cpu.upload(np.zeros(33, type_))
    function = cpu.function(cpu.load(image), f"dynamic<{kind}>")
    cpu.launch(function, (1, 1, 1), (33, 1, 1), out, shared=33 * expected.itemsize)

    assert (cpu.download(out, expected) == expected).all()


def test_atomics_lose_nothing(cpu: Cpu, image: bytes) -> None:
    """Over blocks that run on several threads of the CPU."""
    i = np.array([0, -1, 1, 0, 0], np.int32)
    arrays = [i, np.array([0, 0, 3, 0], "u4"), np.zeros(1, "u8"), np.zeros(1, "f4"), np.zeros(1)]
    pointers = [cpu.upload(array) for array in arrays]
    cpu.launch(cpu.function(cpu.load(image), "atomics"), (40, 1, 1), (50, 1, 1), *pointers)
    ints, unsigned, long, single, double = (
        cpu.download(pointer, array) for pointer, array in zip(pointers, arrays, strict=True)
    )
    n = 2000
    decremented = 3
    for _ in range(n):
        decremented = 6 if decremented == 0 or decremented > 6 else decremented - 1

    assert ints.tolist() == [n, n - 1, -(n - 1), -2 * n, 3 * n]
    xor = int(np.bitwise_xor.reduce(np.arange(n)))
    assert unsigned.tolist() == [2**32 - 1, n % 100, decremented, xor]
    assert long[0] == n << 33
    assert (single[0], double[0]) == (n / 2, n / 4)


def test_the_last_block_sees_what_the_others_wrote(cpu: Cpu, image: bytes) -> None:
    """The usual one-launch reduction: fence, count, and the last one sums up."""
    values = np.random.default_rng(0).integers(0, 100, 32 * 100).astype(np.float32)
    args = [cpu.upload(a) for a in (values, np.zeros(100, "f4"), zeros(1), np.zeros(1, "f4"))]
    cpu.launch(cpu.function(cpu.load(image), "last_block"), (100, 1, 1), (32, 1, 1), *args)

    assert cpu.download(args[3], np.zeros(1, "f4"))[0] == values.sum()


def test_nanosleep_lets_the_other_threads_go_on(cpu: Cpu, image: bytes) -> None:
    """A thread may spin on memory that a later thread of its block writes."""
    out = cpu.upload(zeros(2))
    cpu.launch(cpu.function(cpu.load(image), "handshake"), ONE, (64, 1, 1), out)

    assert cpu.download(out, zeros(2)).tolist() == [1, 7]


def test_a_tiled_product_is_right(cpu: Cpu, image: bytes) -> None:
    """256 x 256 x 256 in 16 x 16 tiles."""
    a, b = np.random.default_rng(0).random((2, 256, 256), dtype=np.float32)
    pa, pb, pc, n = cpu.upload(a), cpu.upload(b), cpu.upload(np.zeros_like(a)), ctypes.c_int(256)
    function = cpu.function(cpu.load(image), "matmul")
    cpu.launch(function, (16, 16, 1), (16, 16, 1), pa, pb, pc, n)

    np.testing.assert_allclose(cpu.download(pc, a), a @ b, rtol=1e-4)


# ---- what does not compile ----


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('__global__ void k(int *x) { asm volatile("mov.u32 %0, 1;" : "=r"(*x)); }', "inline PTX"),
        ("#include <mma.h>\n__global__ void k() {}", "tensor cores"),
        ("#include <cub/cub.cuh>\n__global__ void k() {}", "CUB"),
        ("#include <cooperative_groups.h>\n__global__ void k() {}", "cooperative groups"),
    ],
    ids=["asm", "mma", "cub", "cooperative groups"],
)
def test_a_feature_that_the_cpu_driver_lacks_is_named(
    tmp_path: Path, source: str, text: str
) -> None:
    """A compile error names the thing and the CPU driver."""
    done = compile_kernels(tmp_path, source, "k")

    assert done.returncode != 0
    assert f"the CPU driver does not have {text}" in done.stderr


def test_errors_are_at_the_users_lines(tmp_path: Path) -> None:
    """The user's file and line, whatever was put before the source."""
    done = compile_kernels(tmp_path, "\n\n__global__ void k() { nonsense; }", "k")

    assert "kernel.cu:3:" in done.stderr


def test_an_unknown_entry_point_is_recognisable(tmp_path: Path) -> None:
    """The error is in the file of entry points and names it."""
    done = compile_kernels(tmp_path, "__global__ void k() {}", "k", "absent<int>")

    assert "<ajit entry points>" in done.stderr
    assert "absent" in done.stderr
    assert "kernel.cu" not in done.stderr


def test_the_c_librarys_headers_may_be_included_too(tmp_path: Path) -> None:
    """<cmath>, <cstdint>, <cstdio> and <cassert> do not clash with what is there already."""
    headers = "".join(
        f"#include <{name}>\n" for name in ["cmath", "cstdint", "cstdio", "cassert", "limits"]
    )
    source = (
        "using namespace std;\n__global__ void k(float *x) { x[0] = sqrt(x[1]) + std::exp(x[2]); }"
    )
    done = compile_kernels(tmp_path, headers + source, "k")

    assert done.returncode == 0, done.stderr


ZIG_COMPILER = [*ZIG, "c++", *ZIG_FLAGS]


@pytest.mark.parametrize("compiler", [[], ZIG_COMPILER], ids=["default", "zig"])
@pytest.mark.parametrize("headers", ["", "#include <cmath>\n", "#include <math.h>\n"])
def test_integers_are_taken_as_double_whatever_headers_are_there(
    tmp_path: Path, headers: str, compiler: list[str]
) -> None:
    """The C++ library's own functions for integers do not make a call ambiguous."""
    if compiler:
        pytest.importorskip("ziglang")
    source = "__global__ void k(float *x, int n) { x[0] = sqrt(n) + pow(n, 2.0f) + pow(2, n); }"
    done = compile_kernels(tmp_path, headers + source, "k", compiler=compiler)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["other", "integer", "kind", "pi", "number", "block", "fault"])
def test_a_kernel_may_have_any_name_that_cuda_does_not_take(tmp_path: Path, name: str) -> None:
    """The headers' own names are out of the user's way."""
    done = compile_kernels(tmp_path, f"__global__ void {name}(int *x) {{ x[0] = 1; }}", name)

    assert done.returncode == 0, done.stderr


def test_constant_struct_parameters_are_spelt_as_nvidia_wants_them(
    tmp_path: Path,
) -> None:
    """``const __grid_constant__``, without which NVIDIA's compilers refuse the parameter."""
    source = """
    struct Sizes { int rows, columns; };
    __global__ void product(const __grid_constant__ Sizes sizes, int *out) {
        *out = sizes.rows * sizes.columns;
    }
    """
    assert build_image(tmp_path, source, "product")
