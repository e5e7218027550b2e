"""Half precision, bfloat16 and conversions of CUDA C++ on the CPU, against NumPy."""

from __future__ import annotations

import ctypes
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

from tests.gpu.cpu_driver import Cpu, build_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOURCE = """
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#define EACH for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
template <class T> __global__ void widen(const T *x, float *y, int n) { EACH y[i] = float(x[i]); }
template <class T> __global__ void narrow(const float *x, T *y, int n) { EACH y[i] = T(x[i]); }
template <class T> __global__ void narrow_double(const double *x, T *y, int n) {
    EACH y[i] = T(x[i]);
}
template <class T> __global__ void operate(const T *x, const T *y, T *out, int n) {
    EACH {
        out[i] = x[i] + y[i]; out[n + i] = x[i] - y[i]; out[2 * n + i] = x[i] * y[i];
        out[3 * n + i] = x[i] / y[i]; out[4 * n + i] = __hmax(x[i], y[i]);
        out[5 * n + i] = hsqrt(x[i]);
    }
}
template <class T> __global__ void compare(const T *x, const T *y, unsigned char *out, int n) {
    EACH out[i] = (x[i] == y[i]) | (x[i] != y[i]) << 1 | (x[i] < y[i]) << 2 | (x[i] <= y[i]) << 3 |
                  (x[i] > y[i]) << 4 | (x[i] >= y[i]) << 5;
}
template <class T> __global__ void fused(const T *x, const T *y, const T *z, T *out, int n) {
    EACH out[i] = __hfma(x[i], y[i], z[i]);
}
extern "C" __global__ void directed(const float *x, half *out, int n) {
    EACH { out[i] = __float2half_rz(x[i]); out[n + i] = __float2half_rd(x[i]);
           out[2 * n + i] = __float2half_ru(x[i]); }
}
extern "C" __global__ void to_int(const float *x, int *out, int n) {
    EACH { out[i] = __float2int_rn(x[i]); out[n + i] = __float2int_rz(x[i]);
           out[2 * n + i] = __float2int_rd(x[i]); out[3 * n + i] = __float2int_ru(x[i]);
           out[4 * n + i] = (int)__float2uint_rz(x[i]); }
}
extern "C" __global__ void pairs(const half2 *x, half2 *out) {
    half2 sum = __hfma2(x[0], x[1], __float2half2_rn(0.5f));
    float2 wide = __half22float2(sum);
    out[0] = __float22half2_rn(make_float2(wide.y, wide.x));
    out[1] = __halves2half2(__high2half(sum), __low2half(sum));
    out[2] = x[0] * x[1] + __half2half2(__float2half(0.5f));
    __half keep = __ushort_as_half(__half_as_ushort(x[0].x));
    out[3] = make_half2(keep, __shfl_sync(1u, keep, 0));
    atomicAdd(&out[4], x[0]);
}
"""
TYPES = {"__half": np.float16, "__nv_bfloat16": ml_dtypes.bfloat16}
TEMPLATES = ["widen", "narrow", "narrow_double", "operate", "compare", "fused"]
ENTRIES = [f"{name}<{kind}>" for name in TEMPLATES for kind in TYPES] + [
    "directed",
    "to_int",
    "pairs",
]
by_type = pytest.mark.parametrize(("kind", "dtype"), TYPES.items(), ids=list(TYPES))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The kernels of this file."""
    return build_image(tmp_path_factory.mktemp("numbers"), SOURCE, *ENTRIES)


@pytest.fixture
def run(cpu: Cpu, image: bytes) -> Callable[..., Any]:
    """Run a kernel over arrays; the last one is the output."""
    module = cpu.load(image)

    def run(name: str, *inputs: Any, out: Any) -> Any:
        pointers = [cpu.upload(np.ascontiguousarray(array)) for array in (*inputs, out)]
        count = ctypes.c_int(len(inputs[0]))
        cpu.launch(cpu.function(module, name), (4, 1, 1), (64, 1, 1), *pointers, count)
        return cpu.download(pointers[-1], out)

    return run


def same(actual: Any, expected: Any) -> bool:
    """Bit for bit, but any NaN is as good as another."""
    bits = {2: np.uint16, 4: np.uint32}[actual.dtype.itemsize]
    nans = np.isnan(expected.astype(np.float64))
    equal = actual.view(bits) == expected.astype(actual.dtype).view(bits)
    return bool(np.where(nans, np.isnan(actual.astype(np.float64)), equal).all())


@pytest.fixture(autouse=True)
def no_numpy_warnings() -> Iterator[None]:
    """Overflow and signalling NaNs are expected here."""
    with np.errstate(all="ignore"):
        yield


def every(dtype: Any) -> Any:
    """All numbers of a narrow type."""
    return np.arange(65536, dtype=np.uint16).view(dtype)


def hard_floats(dtype: Any) -> Any:
    """Every narrow value, the middle between each two, and the floats just beside it; and noise."""
    finite = every(dtype).astype(np.float32)
    finite = np.sort(finite[np.isfinite(finite)])
    middle = ((finite[1:].astype(np.float64) + finite[:-1]) / 2).astype(np.float32)
    beside = [np.nextafter(middle, np.float32(end)) for end in (-np.inf, np.inf)]
    noise = np.random.default_rng(1).integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    edges = np.array([65519.99, 65520, 1e30, 3.4e38, np.inf, -np.inf, np.nan, 0, -0.0, 1e-45], "f4")
    return np.concatenate([finite, middle, *beside, noise, edges, -edges])


@by_type
def test_every_narrow_number_widens_exactly(run: Any, kind: str, dtype: Any) -> None:
    """All 65536 of them, subnormals and infinities included."""
    values = every(dtype)
    actual = run(f"widen<{kind}>", values, out=np.zeros(65536, np.float32))

    assert same(actual, values.astype(np.float32))


@by_type
def test_floats_narrow_to_the_nearest_even(run: Any, kind: str, dtype: Any) -> None:
    """Ties, their neighbours, overflow and subnormals."""
    values = hard_floats(dtype)
    actual = run(f"narrow<{kind}>", values, out=np.zeros(len(values), dtype))

    assert same(actual, values.astype(dtype))


def test_doubles_narrow_in_one_step(run: Any) -> None:
    """A double just above a tie is not pulled onto the tie by way of float."""
    ties = hard_floats(np.float16).astype(np.float64)
    ties = ties[np.isfinite(ties)]
    values = np.concatenate([ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf)])
    actual = run("narrow_double<__half>", values, out=np.zeros(len(values), np.float16))

    assert same(actual, values.astype(np.float16))


def operands(dtype: Any, count: int) -> list[Any]:
    """Arrays of random bit patterns."""
    generator = np.random.default_rng(2)
    return [generator.integers(0, 65536, 60_000, dtype=np.uint16).view(dtype) for _ in range(count)]


@by_type
def test_arithmetic_rounds_once(run: Any, kind: str, dtype: Any) -> None:
    """Sum, difference, product, quotient, maximum and root of random bit patterns."""
    x, y = operands(dtype, 2)
    wide, other = x.astype(np.float64), y.astype(np.float64)
    expected = [
        wide + other,
        wide - other,
        wide * other,
        wide / other,
        np.fmax(wide, other),
        np.sqrt(wide),
    ]
    actual = run(f"operate<{kind}>", x, y, out=np.zeros(6 * len(x), dtype)).reshape(6, -1)

    for row, exact in zip(actual, expected, strict=True):
        assert same(row, exact.astype(np.float32).astype(dtype))


@by_type
def test_fused_multiply_add_rounds_once(run: Any, kind: str, dtype: Any) -> None:
    """Against exact integer arithmetic where the answer is near a tie."""
    generator = np.random.default_rng(3)
    x = generator.uniform(0.5, 2, 4000).astype(np.float32).astype(dtype)
    y = generator.uniform(0.5, 2, 4000).astype(np.float32).astype(dtype)
    z = (
        (generator.uniform(1, 2, 4000) * 2.0 ** generator.integers(-20, 12, 4000))
        .astype("f4")
        .astype(dtype)
    )
    actual = run(f"fused<{kind}>", x, y, z, out=np.zeros(len(x), dtype)).astype(np.float64)
    below, above = (np.nextafter(actual.astype(dtype), dtype(end)) for end in (0, 60000))
    columns = (array.astype(float) for array in (x, y, z, actual, below, above))

    for a, b, c, got, low, high in zip(*columns, strict=True):
        exact = Fraction(a) * Fraction(b) + Fraction(c)
        error = abs(Fraction(got) - exact)
        assert error <= abs(Fraction(low) - exact)
        assert error <= abs(Fraction(high) - exact)


@by_type
def test_comparisons_know_nan_and_zero(run: Any, kind: str, dtype: Any) -> None:
    """As NumPy compares, for random and for special values."""
    special = np.array([0, -0.0, np.nan, np.inf, -np.inf, 1], np.float32).astype(dtype)
    pairs = np.meshgrid(special, special)
    x, y = (
        np.concatenate([noise, grid.ravel()])
        for noise, grid in zip(operands(dtype, 2), pairs, strict=True)
    )
    a, b = x.astype(np.float32), y.astype(np.float32)
    expected = (
        (a == b) | (a != b) << 1 | (a < b) << 2 | (a <= b) << 3 | (a > b) << 4 | (a >= b) << 5
    )
    actual = run(f"compare<{kind}>", x, y, out=np.zeros(len(x), np.uint8))

    assert (actual == expected).all()


def test_directed_rounding_encloses_the_number(run: Any) -> None:
    """Toward zero, down and up."""
    values = hard_floats(np.float16)
    values = values[np.isfinite(values)]
    zero, down, up = run("directed", values, out=np.zeros(3 * len(values), np.float16)).reshape(
        3, -1
    )
    zero, down, up = (row.astype(np.float64) for row in (zero, down, up))

    assert (down <= values).all()
    assert (up >= values).all()
    assert (np.abs(zero) <= np.abs(values)).all()
    nearest = values.astype(np.float16).astype(np.float64)
    assert ((nearest == down) | (nearest == up)).all()


def test_conversions_to_integers_saturate(run: Any) -> None:
    """Out of range is the nearest limit and a NaN is 0, as on a GPU."""
    values = np.array([2.5, -2.5, 3.5, 1e20, -1e20, np.nan, np.inf, 2147483648.0, -0.5], np.float32)
    rows = run("to_int", values, out=np.zeros(5 * len(values), np.int32)).reshape(5, -1)
    most, least = 2**31 - 1, -(2**31)

    assert rows[0].tolist() == [2, -2, 4, most, least, 0, most, most, 0]
    assert rows[1].tolist() == [2, -2, 3, most, least, 0, most, most, 0]
    assert rows[2].tolist() == [2, -3, 3, most, least, 0, most, most, -1]
    assert rows[3].tolist() == [3, -2, 4, most, least, 0, most, most, 0]
    assert rows[4].view(np.uint32).tolist() == [2, 0, 3, 2**32 - 1, 0, 0, 2**32 - 1, 2**31, 0]


def test_pairs_work_on_both_halves(cpu: Cpu, image: bytes) -> None:
    """Arithmetic, conversions, shuffles and atomics of half2."""
    x, out = cpu.upload(np.array([1.5, 2, 3, -4], np.float16)), cpu.upload(np.zeros(10, np.float16))
    cpu.launch(cpu.function(cpu.load(image), "pairs"), (1, 1, 1), (1, 1, 1), x, out)

    expected = [-7.5, 5, -7.5, 5, 5, -7.5, 1.5, 1.5, 1.5, 2]
    assert cpu.download(out, np.zeros(10, np.float16)).tolist() == expected
