"""Memory and copies: what is checked, and what a copy guarantees."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from tests.gpu.cpu_driver import Cpu, address
from tests.gpu.test_cpu_driver_context import run_fresh

INVALID_VALUE, OUT_OF_MEMORY = 1, 2
SIZE = ctypes.c_size_t


class Attributes(ctypes.Structure):
    """CUmemcpyAttributes."""

    _fields_ = (
        ("order", ctypes.c_uint),
        ("hints", ctypes.c_int * 4),
        ("flags", ctypes.c_uint),
    )


def test_bytes_survive_the_way_to_the_device_and_back(cpu: Cpu) -> None:
    """Host to device, device to device, device to host."""
    expected = np.random.default_rng(0).integers(0, 256, 100_003, dtype=np.uint8)
    first, second = cpu.upload(expected), cpu.allocate(expected.nbytes)
    cpu.ok("cuMemcpyDtoD_v2", second, first, SIZE(expected.nbytes))

    assert (cpu.download(second, expected) == expected).all()


@pytest.mark.parametrize(("offset", "size"), [(0, 65), (64, 1), (1, 64), (-1, 1), (0, 2**63)])
def test_a_copy_out_of_an_allocation_is_refused(cpu: Cpu, offset: int, size: int) -> None:
    """One byte too many, or before, is error 1, and nothing is copied."""
    pointer = cpu.allocate(64)
    host = np.zeros(128, np.uint8)
    target = ctypes.c_uint64(pointer.value + offset)

    assert cpu.try_("cuMemcpyHtoD_v2", target, address(host), SIZE(size)) == INVALID_VALUE
    assert cpu.try_("cuMemsetD8_v2", target, 1, SIZE(size)) == INVALID_VALUE


def test_host_memory_is_not_a_device_pointer(cpu: Cpu) -> None:
    """Neither as a destination, nor to be freed; and nothing is freed twice."""
    host, pointer = np.zeros(8), cpu.allocate(8)

    assert cpu.try_("cuMemcpyHtoD_v2", address(host), address(host), SIZE(8)) == INVALID_VALUE
    assert cpu.try_("cuMemFree_v2", address(host)) == INVALID_VALUE
    cpu.ok("cuMemFree_v2", pointer)
    assert cpu.try_("cuMemFree_v2", pointer) == INVALID_VALUE
    assert cpu.try_("cuMemFree_v2", ctypes.c_uint64(0)) == 0


def test_the_device_has_a_limit(driver_library: Path) -> None:
    """More than AJIT_CPU_MEMORY_BYTES is error 2, and freeing makes room again."""
    out = run_fresh(
        driver_library,
        "os.environ['AJIT_CPU_MEMORY_BYTES'] = '4096'",
        "libc = ctypes.CDLL(None); libc.setenv(b'AJIT_CPU_MEMORY_BYTES', b'4096', 1)",
        "d.cuInit(0); c = ctypes.c_void_p(); d.cuDevicePrimaryCtxRetain(ctypes.byref(c), 0)",
        "d.cuCtxSetCurrent(c); p = ctypes.c_uint64(); q = ctypes.c_uint64(); z = ctypes.c_size_t",
        "print(d.cuMemAlloc_v2(ctypes.byref(p), z(4096)), end=' ')",
        "print(d.cuMemAlloc_v2(ctypes.byref(q), z(1)), d.cuMemFree_v2(p), end=' ')",
        "print(d.cuMemAlloc_v2(ctypes.byref(q), z(1)))",
    )

    assert out == f"0 {OUT_OF_MEMORY} 0 0"


def test_stream_ordered_frees_make_room_for_stream_ordered_allocations(cpu: Cpu) -> None:
    """An allocation waits for the frees before it in its stream instead of failing."""
    total, free = ctypes.c_size_t(), ctypes.c_size_t()
    cpu.ok("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    stream, pointer = cpu.stream(), ctypes.c_uint64()
    big = ctypes.c_size_t(free.value * 3 // 4)
    for _ in range(3):
        cpu.ok("cuMemAllocAsync", ctypes.byref(pointer), big, stream)
        cpu.ok("cuMemFreeAsync", pointer, stream)
    cpu.synchronize()
    after = ctypes.c_size_t()
    cpu.ok("cuMemGetInfo_v2", ctypes.byref(after), ctypes.byref(total))

    assert after.value == free.value


def test_a_pageable_source_is_copied_before_the_call_returns(cpu: Cpu) -> None:
    """Overwriting ordinary memory after an asynchronous copy does not change what was copied."""
    stream, pointer, host = cpu.stream(), cpu.allocate(4), np.array([7], np.int32)
    cpu.library.ajit_cpu_hold_streams(1)
    cpu.ok("cuMemcpyHtoDAsync_v2", pointer, address(host), SIZE(4), stream)
    host[0] = 8
    cpu.library.ajit_cpu_hold_streams(0)
    cpu.synchronize()

    assert cpu.download(pointer, host)[0] == 7


def test_a_pinned_source_is_read_in_stream_order(cpu: Cpu) -> None:
    """Pinned memory is read when the stream comes to it: the caller has to keep it."""
    stream, pointer, host = cpu.stream(), cpu.allocate(4), cpu.pinned(4)
    host[:] = 7
    cpu.library.ajit_cpu_hold_streams(1)
    cpu.ok("cuMemcpyHtoDAsync_v2", pointer, address(host), SIZE(4), stream)
    host[:] = 8
    cpu.library.ajit_cpu_hold_streams(0)
    cpu.synchronize()

    assert (cpu.download(pointer, host) == 8).all()


def batch(cpu: Cpu, stream: object, order: int, *parts: tuple[int, int, int]) -> int:
    """Submit copies of (destination, source, size) and return the error code."""
    count = len(parts)
    columns = [(ctypes.c_uint64 * count)(*column) for column in zip(*parts, strict=True)]
    attributes, index = Attributes(order=order), ctypes.c_size_t(0)
    extras = ctypes.byref(attributes), ctypes.byref(index), SIZE(1)
    return cpu.try_("cuMemcpyBatchAsync_v2", *columns, SIZE(count), *extras, stream)


def test_a_batch_copies_all_or_nothing(cpu: Cpu) -> None:
    """A batch with one bad copy submits none of the others."""
    host, stream = np.arange(4, dtype=np.int32), cpu.stream()
    a, b = cpu.upload(np.zeros(4, np.int32)), cpu.upload(np.zeros(4, np.int32))
    source = host.ctypes.data

    assert batch(cpu, stream, 1, (a.value, source, 16), (b.value, source, 17)) == INVALID_VALUE
    assert batch(cpu, None, 1, (a.value, source, 16)) == INVALID_VALUE
    cpu.synchronize()
    assert not cpu.download(a, host).any()
    assert batch(cpu, stream, 1, (a.value, source, 16), (b.value, source, 16)) == 0
    cpu.synchronize()
    assert (cpu.download(b, host) == host).all()


@pytest.mark.parametrize(("order", "expected"), [(1, 8), (2, 7), (3, 8)])
def test_a_batch_reads_its_sources_when_it_was_told(cpu: Cpu, order: int, expected: int) -> None:
    """DURING_API_CALL reads at once; STREAM and ANY may read later."""
    host, stream, pointer = np.array([7], np.int32), cpu.stream(), cpu.allocate(4)
    cpu.library.ajit_cpu_hold_streams(1)
    assert batch(cpu, stream, order, (pointer.value, host.ctypes.data, 4)) == 0
    host[0] = 8
    cpu.library.ajit_cpu_hold_streams(0)
    cpu.synchronize()

    assert cpu.download(pointer, host)[0] == expected


def test_fills_have_three_widths(cpu: Cpu) -> None:
    """8, 16 and 32 bits, aligned to their width."""
    pointer, like = cpu.allocate(16), np.zeros(16, np.uint8)
    for name, value, count, dtype in (
        ("cuMemsetD8_v2", 0xAB, 16, np.uint8),
        ("cuMemsetD16_v2", 0xABCD, 8, np.uint16),
        ("cuMemsetD32_v2", 0xABCDEF01, 4, np.uint32),
    ):
        cpu.ok(name, pointer, value, SIZE(count))

        assert (cpu.download(pointer, like).view(dtype) == value).all()
    odd = ctypes.c_uint64(pointer.value + 1)
    assert cpu.try_("cuMemsetD16_v2", odd, 1, SIZE(1)) == INVALID_VALUE
