"""Modules, functions and launches: what is loaded, what is refused, and what a fault does."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.gpu.cpu_driver import Cpu, build_image

if TYPE_CHECKING:
    from collections.abc import Iterator

INVALID_VALUE, INVALID_IMAGE, NO_BINARY, BAD_VERSION, NOT_FOUND = 1, 200, 209, 218, 500
INVALID_HANDLE, ASSERT, LAUNCH_FAILED, NOT_SUPPORTED = 400, 710, 719, 801
INVALID_CLUSTER = 912
MAX_DYNAMIC_SHARED = 8
SIZE = ctypes.c_size_t
ONE = (1, 1, 1)

SOURCE = """
struct Pair { char c; double d; };
__device__ int counter = 3;
__constant__ float table[5];
extern "C" __global__ void count(int *out) { *out = ++counter; }
extern "C" __global__ void params(char a, double b, short c, Pair d, const float *e, float *out) {
    out[0] = a; out[1] = b; out[2] = c; out[3] = d.c; out[4] = d.d; out[5] = e[0];
}
extern "C" __global__ void shared_size(int *out) {
    extern __shared__ char area[];
    area[out[0] - 1] = 1;
}
extern "C" __global__ void hang() { if (threadIdx.x == 0) __syncwarp(); else __syncthreads(); }
extern "C" __global__ void diverge() {
    if (threadIdx.x % 2) __shfl_sync(0xffffffffu, 1, 0); else __ballot_sync(0xffffffffu, 1);
}
extern "C" __global__ void outside_mask() { __shfl_sync(0xfffffffeu, 1, 1); }
extern "C" __global__ void check(int x) { assert(x > 0); }
extern "C" __global__ void trap() { __trap(); }
"""
ENTRIES = ["count", "params", "shared_size", "hang", "diverge", "outside_mask", "check", "trap"]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The kernels of this file."""
    return build_image(tmp_path_factory.mktemp("image"), SOURCE, *ENTRIES)


# ---- images ----


@pytest.mark.parametrize("text", [b"", b"x", b"\x7fEL", b".version 8.0\n.target sm_90", b"\0" * 4])
def test_an_image_that_is_no_elf_is_200(cpu: Cpu, text: bytes) -> None:
    """Even when it is shorter than a header."""
    module = ctypes.c_void_p()

    assert cpu.try_("cuModuleLoadData", ctypes.byref(module), text) == INVALID_IMAGE


def test_an_image_for_another_machine_is_209(cpu: Cpu, image: bytes) -> None:
    """Such as a cubin, which is an ELF file of machine 190."""
    module = ctypes.c_void_p()
    cubin = image[:18] + (190).to_bytes(2, "little") + image[20:]

    assert cpu.try_("cuModuleLoadData", ctypes.byref(module), cubin) == NO_BINARY


@pytest.mark.parametrize("offset", [16, 32, 40, 54, 56, 58, 60], ids=hex)
def test_a_damaged_header_is_refused(cpu: Cpu, image: bytes, offset: int) -> None:
    """A header that points anywhere leads to error 200, not to a crash."""
    module = ctypes.c_void_p()
    garbage = b"\xff" * 6 if offset in (32, 40) else b"\xf1\xff"  # a file offset, or 16 bits
    bad = image[:offset] + garbage + image[offset + len(garbage) :]

    assert cpu.try_("cuModuleLoadData", ctypes.byref(module), bad) == INVALID_IMAGE


def test_a_shared_object_without_kernels_is_200(cpu: Cpu, tmp_path: Path) -> None:
    """An ELF image that exports no table was not built for this driver."""
    module = ctypes.c_void_p()
    image = build_image(tmp_path, "#undef AJIT_CPU_MODULE\n#define AJIT_CPU_MODULE(...)")

    assert cpu.try_("cuModuleLoadData", ctypes.byref(module), image) == INVALID_IMAGE


def test_another_abi_version_is_refused(cpu: Cpu, tmp_path: Path) -> None:
    """218, as for PTX that the driver does not understand."""
    source = "#undef AJIT_CPU_ABI_VERSION\n#define AJIT_CPU_ABI_VERSION 999u\n"
    module = ctypes.c_void_p()
    image = build_image(tmp_path, source + SOURCE, "trap")

    assert cpu.try_("cuModuleLoadData", ctypes.byref(module), image) == BAD_VERSION


def test_two_loads_are_two_modules(cpu: Cpu, image: bytes) -> None:
    """Each has its own globals; unloading one leaves the other alone."""
    out, first, second = cpu.upload(np.zeros(1, np.int32)), cpu.load(image), cpu.load(image)
    counts = []
    for module in (first, first, second):
        cpu.launch(cpu.function(module, "count"), ONE, ONE, out)
        counts.append(int(cpu.download(out, np.zeros(1, np.int32))[0]))
    cpu.ok("cuModuleUnload", first)
    cpu.launch(cpu.function(second, "count"), ONE, ONE, out)

    assert counts == [4, 5, 4]
    assert cpu.download(out, np.zeros(1, np.int32))[0] == 5
    assert cpu.try_("cuModuleUnload", first) == INVALID_HANDLE


def test_many_modules_cost_no_descriptors(cpu: Cpu, image: bytes) -> None:
    """And each load is a new one, although descriptor numbers are used again."""
    others = _mapped_modules()  # of runtimes that other tests have left; they may go meanwhile
    modules = [cpu.load(image) for _ in range(300)]
    mine = _mapped_modules() - others
    pointers = {
        cpu.get("cuModuleGetGlobal_v2", ctypes.c_uint64, None, module, b"counter").value
        for module in modules
    }

    assert len(pointers) == len(modules)
    assert len(mine) == len(modules)
    assert not [name for name in _descriptors() if "ajit-kernel" in name]
    for module in modules:
        cpu.ok("cuModuleUnload", module)
    assert not _mapped_modules() & mine


def _mapped_modules() -> set[str]:
    """Inodes of the modules that are mapped into this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "ajit-kernel" in line}


def _descriptors() -> Iterator[str]:
    """Names of what this process has open."""
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield str(descriptor.readlink())


def test_globals_are_found_with_their_size(cpu: Cpu, image: bytes) -> None:
    """__device__ and __constant__ variables; not functions, and not what libraries have."""
    module, size = cpu.load(image), ctypes.c_size_t()
    pointer = cpu.get("cuModuleGetGlobal_v2", ctypes.c_uint64, ctypes.byref(size), module, b"table")

    assert pointer.value
    assert size.value == 20
    for name in (b"count", b"stderr", b"malloc", b"nothing"):
        code = cpu.try_("cuModuleGetGlobal_v2", ctypes.byref(pointer), None, module, name)
        assert (name, code) == (name, NOT_FOUND)


# ---- functions ----


def test_parameters_lie_where_cuda_packs_them(cpu: Cpu, image: bytes) -> None:
    """Sizes and offsets as cuFuncGetParamInfo gives them on a GPU; both ways to pass them work."""
    function, infos = cpu.function(cpu.load(image), "params"), list[tuple[int, int]]()
    offset, size = ctypes.c_size_t(), ctypes.c_size_t()
    both = ctypes.byref(offset), ctypes.byref(size)
    while cpu.try_("cuFuncGetParamInfo", function, SIZE(len(infos)), *both) == 0:
        infos.append((offset.value, size.value))
    source, out = cpu.upload(np.array([9], np.float32)), cpu.upload(np.zeros(6, np.float32))
    packed = np.zeros(56, np.uint8)
    packed[0:1].view(np.int8)[:] = 1
    packed[8:16].view(np.float64)[:] = 2
    packed[16:18].view(np.int16)[:] = 3
    packed[24:25].view(np.int8)[:] = 4
    packed[32:40].view(np.float64)[:] = 5
    packed[40:56].view(np.uint64)[:] = source.value, out.value
    length = ctypes.c_size_t(56)
    extra = (ctypes.c_void_p * 5)(1, packed.ctypes.data, 2, ctypes.addressof(length), 0)
    cpu.ok("cuLaunchKernel", function, 1, 1, 1, 1, 1, 1, 0, None, None, extra)

    assert infos == [(0, 1), (8, 8), (16, 2), (24, 16), (40, 8), (48, 8)]
    assert cpu.download(out, np.zeros(6, np.float32)).tolist() == [1, 2, 3, 4, 5, 9]


@pytest.mark.parametrize(
    ("grid", "block", "code"),
    [
        (ONE, (1024, 1, 1), 0),
        (ONE, (1025, 1, 1), INVALID_VALUE),
        (ONE, (32, 33, 1), INVALID_VALUE),
        (ONE, (1, 1, 65), INVALID_VALUE),
        (ONE, (0, 1, 1), INVALID_VALUE),
        ((0, 1, 1), ONE, INVALID_VALUE),
        ((1, 65536, 1), ONE, INVALID_VALUE),
        ((2**31, 1, 1), ONE, INVALID_VALUE),
    ],
)
def test_launch_shapes_are_checked(
    cpu: Cpu, image: bytes, grid: tuple[int, ...], block: tuple[int, ...], code: int
) -> None:
    """A shape the device cannot have is refused when the call is made."""
    out = cpu.upload(np.zeros(1, np.int32))

    assert cpu.try_launch(cpu.function(cpu.load(image), "count"), grid, block, out) == code


def test_much_shared_memory_has_to_be_asked_for(cpu: Cpu, image: bytes) -> None:
    """48 KiB without asking, 227 KiB with, no more."""
    function, out = cpu.function(cpu.load(image), "shared_size"), cpu.upload(np.array([232448]))
    codes = [cpu.try_launch(function, ONE, ONE, out, shared=n) for n in (49152 + 1, 232448)]

    assert codes == [INVALID_VALUE, INVALID_VALUE]
    assert cpu.try_("cuFuncSetAttribute", function, MAX_DYNAMIC_SHARED, 232449) == INVALID_VALUE
    cpu.ok("cuFuncSetAttribute", function, MAX_DYNAMIC_SHARED, 232448)
    cpu.launch(function, ONE, ONE, out, shared=232448)


class Attribute(ctypes.Structure):
    """CUlaunchAttribute."""

    _fields_ = (("id", ctypes.c_uint), ("pad", ctypes.c_uint), ("value", ctypes.c_uint * 16))


class Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("shape", ctypes.c_uint * 7),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(Attribute)),
        ("count", ctypes.c_uint),
    )


@pytest.mark.parametrize(
    ("number", "values", "code"),
    [
        (4, (1, 1, 1), 0),
        (4, (2, 1, 1), 0),
        (4, (3, 1, 1), INVALID_CLUSTER),
        (4, (4, 2, 2), INVALID_CLUSTER),
        (4, (0, 1, 1), INVALID_CLUSTER),
        (2, (0,), 0),
        (2, (1,), NOT_SUPPORTED),
        (6, (1,), 0),
        (7, (0,), NOT_SUPPORTED),
    ],
)
def test_launch_attributes_are_honoured_or_refused(
    cpu: Cpu, image: bytes, number: int, values: tuple[int, ...], code: int
) -> None:
    """Clusters must divide the grid, up to 8 blocks; cooperation and unknown ones are 801."""
    out = cpu.upload(np.zeros(1, np.int32))
    attribute = Attribute(id=number, value=(ctypes.c_uint * 16)(*values))
    config = Config((ctypes.c_uint * 7)(4, 2, 2, 1, 1, 1, 0), None, ctypes.pointer(attribute), 1)
    params = (ctypes.c_void_p * 1)(ctypes.addressof(out))
    function = cpu.function(cpu.load(image), "count")

    assert cpu.try_("cuLaunchKernelEx", ctypes.byref(config), function, params, None) == code


# ---- faults ----


@pytest.mark.parametrize(
    ("kernel", "code"),
    [
        ("hang", LAUNCH_FAILED),
        ("diverge", LAUNCH_FAILED),
        ("outside_mask", LAUNCH_FAILED),
        ("check", ASSERT),
        ("trap", LAUNCH_FAILED),
    ],
)
def test_a_kernel_that_fails_loses_the_device(
    cpu: Cpu, image: bytes, kernel: str, code: int
) -> None:
    """A deadlock is found, not waited for; the error is sticky; after a reset kernels run again."""
    module, out = cpu.load(image), cpu.upload(np.zeros(1, np.int32))
    for _ in range(2):
        args = [ctypes.c_int(0)] if kernel == "check" else []
        assert cpu.try_launch(cpu.function(module, kernel), (8, 1, 1), (64, 1, 1), *args) == 0
        assert cpu.try_("cuCtxSynchronize") == code
        assert cpu.try_("cuMemAlloc_v2", ctypes.byref(ctypes.c_uint64()), SIZE(4)) == code
        cpu.library.ajit_cpu_reset()
    cpu.launch(cpu.function(module, "count"), ONE, ONE, out)

    assert cpu.download(out, np.zeros(1, np.int32))[0] == 4
