"""Memory pools; libraries and kernels; peers and other processes."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from tests.gpu.cpu_driver import Cpu, build_image

INVALID_VALUE, OUT_OF_MEMORY, INVALID_HANDLE, NOT_FOUND = 1, 2, 400, 500
NOT_PERMITTED, NOT_SUPPORTED = 800, 801
SIZE, ONE = ctypes.c_size_t, (1, 1, 1)
THRESHOLD, RESERVED, RESERVED_HIGH, USED, USED_HIGH = range(4, 9)
DEVICE, HOST = 1, 2
SOURCE = """
__device__ int total = 40;
extern "C" __global__ void sum(int *out, int n) { *out = total + n; }
extern "C" __global__ void other() {}
"""


class Props(ctypes.Structure):
    """`CUmemPoolProps`."""

    _fields_ = (
        ("type", ctypes.c_uint),
        ("handles", ctypes.c_uint),
        ("location", ctypes.c_uint),
        ("id", ctypes.c_int),
        ("security", ctypes.c_void_p),
        ("limit", SIZE),
        ("rest", ctypes.c_char * 56),
    )


def pool_of(cpu: Cpu, location: int = DEVICE, limit: int = 0) -> ctypes.c_void_p:
    """A new pool."""
    props = Props(type=1, location=location, limit=limit)
    return cpu.get("cuMemPoolCreate", ctypes.c_void_p, ctypes.byref(props))


def ask(cpu: Cpu, pool: ctypes.c_void_p, attribute: int) -> int:
    """An attribute of 64 bits."""
    value = ctypes.c_uint64()
    cpu.ok("cuMemPoolGetAttribute", pool, attribute, ctypes.byref(value))
    return value.value


# ---- pools ----


def test_a_pool_counts_what_is_taken_from_it(cpu: Cpu) -> None:
    """The bytes in use, now and at most; setting the mark to 0 makes it those of now."""
    pool, stream = pool_of(cpu), cpu.stream()
    first = cpu.get("cuMemAllocFromPoolAsync", ctypes.c_uint64, SIZE(1000), pool, stream)
    second = cpu.get("cuMemAllocFromPoolAsync", ctypes.c_uint64, SIZE(500), pool, stream)
    cpu.ok("cuMemFreeAsync", first, stream)
    cpu.ok("cuStreamSynchronize", stream)
    marks = [ask(cpu, pool, which) for which in (USED, USED_HIGH, RESERVED, RESERVED_HIGH)]
    cpu.ok("cuMemPoolSetAttribute", pool, USED_HIGH, ctypes.byref(ctypes.c_uint64(0)))
    owner = ctypes.c_void_p()
    cpu.ok("cuPointerGetAttribute", ctypes.byref(owner), 17, second)

    assert marks == [500, 1500, 500, 1500]
    assert ask(cpu, pool, USED_HIGH) == 500
    assert owner.value == pool.value
    cpu.ok("cuMemFree_v2", second)
    cpu.ok("cuMemPoolDestroy", pool)


def test_a_pool_keeps_bytes_up_to_its_threshold(cpu: Cpu) -> None:
    """They are used again first, and go back to the device by trimming or with the pool."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    info = (ctypes.byref(free), ctypes.byref(total))
    cpu.ok("cuMemGetInfo_v2", *info)
    before, reserved = free.value, []
    pool, stream = pool_of(cpu), cpu.stream()
    cpu.ok("cuMemPoolSetAttribute", pool, THRESHOLD, ctypes.byref(ctypes.c_uint64(4096)))
    for size in (1024, 2048, 8192):
        pointer = cpu.get("cuMemAllocFromPoolAsync", ctypes.c_uint64, SIZE(size), pool, stream)
        reserved.append(ask(cpu, pool, RESERVED))
        cpu.ok("cuMemFreeAsync", pointer, stream)
        cpu.ok("cuStreamSynchronize", stream)
        reserved.append(ask(cpu, pool, RESERVED))
    cpu.ok("cuMemGetInfo_v2", *info)
    held = before - free.value
    cpu.ok("cuMemPoolTrimTo", pool, SIZE(512))
    reserved.append(ask(cpu, pool, RESERVED))
    cpu.ok("cuMemPoolDestroy", pool)
    cpu.ok("cuMemGetInfo_v2", *info)

    assert reserved == [1024, 1024, 2048, 2048, 8192, 4096, 512]
    assert held == 4096
    assert free.value == before


def test_a_pool_has_its_own_limit(cpu: Cpu) -> None:
    """One byte more is error 2, and frees in the stream make room."""
    pool, stream, pointer = pool_of(cpu, limit=1024), cpu.stream(), ctypes.c_uint64()
    cpu.ok("cuMemAllocFromPoolAsync", ctypes.byref(pointer), SIZE(1024), pool, stream)
    refused = ctypes.c_uint64()
    code = cpu.try_("cuMemAllocFromPoolAsync", ctypes.byref(refused), SIZE(1), pool, stream)
    cpu.ok("cuMemFreeAsync", pointer, stream)
    cpu.ok("cuMemAllocFromPoolAsync", ctypes.byref(pointer), SIZE(1024), pool, stream)

    assert code == OUT_OF_MEMORY
    cpu.ok("cuMemPoolDestroy", pool)
    cpu.ok("cuMemFreeAsync", pointer, stream)


def test_no_bytes_of_a_pool_are_the_null_pointer(cpu: Cpu) -> None:
    """No error, as it is for memory that comes from no pool; it is freed as any other is."""
    pool, stream = pool_of(cpu), cpu.stream()
    none = cpu.get("cuMemAllocFromPoolAsync", ctypes.c_uint64, SIZE(0), pool, stream)
    of_device = cpu.get("cuMemAllocAsync", ctypes.c_uint64, SIZE(0), stream)
    used = ask(cpu, pool, USED)
    cpu.ok("cuMemFreeAsync", none, stream)
    cpu.ok("cuStreamSynchronize", stream)

    assert (none.value, of_device.value, used) == (0, 0, 0)
    assert cpu.try_("cuMemAlloc_v2", ctypes.byref(none), SIZE(0)) == INVALID_VALUE
    cpu.ok("cuMemPoolDestroy", pool)


def test_a_device_allocates_from_its_current_pool(cpu: Cpu) -> None:
    """Which is the default one until another is set, and again when that is destroyed."""
    default = cpu.get("cuDeviceGetDefaultMemPool", ctypes.c_void_p, 0)
    pool, pointer = pool_of(cpu), ctypes.c_uint64()
    cpu.ok("cuDeviceSetMemPool", 0, pool)
    cpu.ok("cuMemAllocAsync", ctypes.byref(pointer), SIZE(64), None)
    used = ask(cpu, pool, USED)
    current = cpu.get("cuDeviceGetMemPool", ctypes.c_void_p, 0)
    cpu.ok("cuMemFreeAsync", pointer, None)
    cpu.synchronize()
    cpu.ok("cuMemPoolTrimTo", pool, SIZE(0))
    cpu.ok("cuMemPoolDestroy", pool)

    assert used == 64
    assert current.value == pool.value
    assert cpu.get("cuDeviceGetMemPool", ctypes.c_void_p, 0).value == default.value
    assert cpu.try_("cuMemPoolDestroy", default) == INVALID_VALUE


def test_a_host_pool_gives_pinned_memory(cpu: Cpu) -> None:
    """The driver knows it as host memory, and it is freed in stream order."""
    pool, stream, kind = pool_of(cpu, HOST), cpu.stream(), ctypes.c_uint()
    pointer = cpu.get("cuMemAllocFromPoolAsync", ctypes.c_uint64, SIZE(64), pool, stream)
    cpu.ok("cuPointerGetAttribute", ctypes.byref(kind), 2, pointer)
    cpu.ok("cuMemFreeAsync", pointer, stream)
    cpu.ok("cuStreamSynchronize", stream)

    assert kind.value == 1
    assert ask(cpu, pool, USED) == 0
    cpu.ok("cuMemPoolDestroy", pool)


def test_pools_for_other_processes_are_not_supported(cpu: Cpu) -> None:
    """Nor are memory and events of theirs."""
    props = Props(type=1, handles=1, location=DEVICE)
    codes = [
        cpu.try_("cuMemPoolCreate", ctypes.byref(ctypes.c_void_p()), ctypes.byref(props)),
        cpu.try_("cuIpcGetMemHandle", None, ctypes.c_uint64()),
        cpu.try_("cuIpcGetEventHandle", None, None),
    ]

    assert codes == [NOT_SUPPORTED] * 3


def test_attributes_of_an_unknown_pointer_are_no_error(cpu: Cpu) -> None:
    """Asked for together, they say "not known": as documented, unlike asked for alone."""
    kind, device, local = ctypes.c_uint(9), ctypes.c_int(9), np.zeros(1)
    numbers = (ctypes.c_uint * 2)(2, 9)
    places = (ctypes.c_void_p * 2)(ctypes.addressof(kind), ctypes.addressof(device))
    cpu.ok("cuPointerGetAttributes", 2, numbers, places, ctypes.c_uint64(local.ctypes.data))

    assert (kind.value, device.value) == (0, -2)


# ---- libraries ----


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Two kernels and a global."""
    return build_image(tmp_path_factory.mktemp("image"), SOURCE, "sum", "other")


def library_of(cpu: Cpu, image: bytes) -> ctypes.c_void_p:
    """A library, loaded without options."""
    return cpu.get("cuLibraryLoadData", ctypes.c_void_p, image, None, None, 0, None, None, 0)


def test_a_kernel_of_a_library_is_launched_as_a_function(cpu: Cpu, image: bytes) -> None:
    """By its own handle or by that of its function; globals are found by name."""
    library, out = library_of(cpu, image), cpu.upload(np.zeros(1, np.int32))
    kernel = cpu.get("cuLibraryGetKernel", ctypes.c_void_p, library, b"sum")
    function = cpu.get("cuKernelGetFunction", ctypes.c_void_p, kernel)
    cpu.launch(kernel, ONE, ONE, out, ctypes.c_int(2))
    by_kernel = cpu.download(out, np.zeros(1, np.int32))[0]
    pointer, size = ctypes.c_uint64(), SIZE()
    cpu.ok("cuLibraryGetGlobal", ctypes.byref(pointer), ctypes.byref(size), library, b"total")
    cpu.launch(function, ONE, ONE, out, ctypes.c_int(3))

    assert (by_kernel, cpu.download(out, np.zeros(1, np.int32))[0]) == (42, 43)
    assert size.value == 4
    assert cpu.get("cuLibraryGetKernelCount", ctypes.c_uint, library).value == 2
    cpu.ok("cuLibraryUnload", library)


def test_a_kernel_tells_its_name_library_parameters_and_attributes(cpu: Cpu, image: bytes) -> None:
    """The same answers as its function gives."""
    library = library_of(cpu, image)
    kernel = cpu.get("cuLibraryGetKernel", ctypes.c_void_p, library, b"sum")
    name = cpu.get("cuKernelGetName", ctypes.c_char_p, kernel)
    owner = cpu.get("cuKernelGetLibrary", ctypes.c_void_p, kernel)
    offset, size, threads = SIZE(), SIZE(), ctypes.c_int()
    cpu.ok("cuKernelGetParamInfo", kernel, SIZE(1), ctypes.byref(offset), ctypes.byref(size))
    cpu.ok("cuKernelGetAttribute", ctypes.byref(threads), 0, kernel, 0)

    assert (name.value, owner.value) == (b"sum", library.value)
    assert (offset.value, size.value, threads.value) == (8, 4, 1024)
    cpu.ok("cuLibraryUnload", library)


def test_a_library_is_unloaded_as_a_whole_and_once(cpu: Cpu, image: bytes) -> None:
    """Not by its module, nor by the context that goes; an unknown kernel is error 500."""
    library = library_of(cpu, image)
    module = cpu.get("cuLibraryGetModule", ctypes.c_void_p, library)
    missing = cpu.try_("cuLibraryGetKernel", ctypes.byref(ctypes.c_void_p()), library, b"none")
    by_module = cpu.try_("cuModuleUnload", module)
    cpu.ok("cuDevicePrimaryCtxReset_v2", 0)
    cpu.start()
    kernel = cpu.get("cuLibraryGetKernel", ctypes.c_void_p, library, b"other")
    cpu.launch(kernel, ONE, ONE)

    assert (missing, by_module) == (NOT_FOUND, NOT_PERMITTED)
    cpu.ok("cuLibraryUnload", library)
    assert cpu.try_("cuLibraryGetModule", ctypes.byref(module), None) == INVALID_HANDLE
