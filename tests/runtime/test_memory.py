"""The memory of a loaded kernel, and what stays when its runtime is closed."""

from __future__ import annotations

import ctypes
import gc
import threading

import anyio.to_thread
import msgspec
import psutil
import pytest

import ajit
from ajit._compile.recorder.today import states_today
from ajit._core.reads import key_of
from ajit._resolve.lookup import wanted
from tests.runtime.sources import ARCH, base_of, saxpy

pytestmark = pytest.mark.anyio

KERNELS = 1000
BUDGET_BYTES = 30 * 1000 * 1000
WARM_UP = 50
"""Kernels loaded before the count begins: allocators and caches reach their size."""


AGAIN = 100
"""Kernels that are fetched again and again."""
ROUNDS = 10
GROWTH_BYTES = 32 * 1024
"""What the C library may have handed out more after all rounds: tables that grow now and then. A
record of 200 bytes that stays behind for each kernel is more than twice as much."""


async def test_closing_ends_every_thread(with_device):
    """At once, whatever its work was: cold kernels pass all of them."""
    before = _threads_of_ajit()
    async with ajit.open_runtime(**with_device) as rt:
        await rt.warmup([saxpy(n) for n in range(1, 4)])
        during = {thread.name.rpartition("-")[0] for thread in _threads_of_ajit() - before}

    assert {"ajit-io", "ajit-compile", "ajit-cuda"} <= during
    assert _threads_of_ajit() <= before


@pytest.mark.slow  # compiles a hundred kernels
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_kernels_that_are_fetched_again_do_not_grow_the_process(with_device, anyio_backend):
    """A new runtime each time: what the last one had is given back to the last byte."""
    specs = [saxpy(n) for n in range(1, AGAIN + 1)]
    handed_out = []
    for _ in range(2 + ROUNDS):
        async with ajit.open_runtime(**with_device) as rt:
            await rt.warmup(specs)
        del rt
        handed_out.append(_handed_out_bytes())

    assert handed_out[-1] - handed_out[1] < GROWTH_BYTES, handed_out


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.slow  # publishes and loads a thousand kernels
async def test_thousand_loaded_kernels_grow_the_process_by_less_than_the_budget(
    with_device, anyio_backend
):
    """30 MB for 1000 kernels, each with its module, on the CPU driver.

    The entries are copies of one artifact under the keys of a thousand specs; compiling them would
    show nothing more.
    """
    async with ajit.open_runtime(**with_device) as rt:
        artifact = await rt.compile(saxpy(1), arch=ARCH)
        await anyio.to_thread.run_sync(_publish_copies, rt, artifact)
    async with ajit.open_runtime(**with_device) as rt:
        await rt.warmup([saxpy(n) for n in range(1, WARM_UP + 1)])
        before = _own_bytes()
        report = await rt.warmup([saxpy(n) for n in range(WARM_UP + 1, WARM_UP + KERNELS + 1)])
        growth = _own_bytes() - before

    assert report.from_disk == KERNELS
    assert growth < BUDGET_BYTES


def _publish_copies(rt, artifact):
    services = rt._kernels.services
    _, read = next(services.lists.lists(artifact.base))
    toolchain = services.toolchains.find("host")
    for n in range(2, WARM_UP + KERNELS + 1):
        base = base_of(rt, saxpy(n))
        states = states_today(read.reads, wanted(saxpy(n), toolchain, base).places)
        key = key_of(base, read, states)
        copy = msgspec.structs.replace(artifact, key=key.hex, base=base.hex, key_fields=key.fields)
        services.store.publish(copy)
        services.lists.publish(base.hex, read)


def _own_bytes():
    """Memory of this process alone: memory shared with others is not its growth."""
    gc.collect()
    return psutil.Process().memory_full_info().uss


def _threads_of_ajit():
    return {thread for thread in threading.enumerate() if thread.name.startswith("ajit")}


class _MallInfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc: of ten numbers the eighth is what is in use."""

    _fields_ = (
        ("others", ctypes.c_size_t * 7),
        ("used", ctypes.c_size_t),
        ("rest", ctypes.c_size_t * 2),
    )


def _handed_out_bytes():
    """What ``malloc`` has handed out: exact, where the size of the process is a matter of luck."""
    gc.collect()
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        pytest.skip("this C library has no mallinfo2")
    mallinfo.restype = _MallInfo
    return mallinfo().used
