"""The memory of a loaded kernel."""

from __future__ import annotations

import gc

import anyio.to_thread
import msgspec
import psutil
import pytest

import ajit
from ajit._compile.recorder.states import states_today
from ajit._core.reads import key_of
from ajit._resolve.lookup import wanted
from tests.runtime.sources import ARCH, base_of, saxpy

pytestmark = pytest.mark.anyio

KERNELS = 1000
BUDGET_BYTES = 30 * 1000 * 1000
WARM_UP = 50
"""Kernels loaded before the count begins: allocators and caches reach their size."""


@pytest.fixture
def anyio_backend():
    """One loop is enough: the memory that is counted is not the loop's."""
    return "asyncio"


@pytest.mark.slow  # publishes and loads a thousand kernels
async def test_thousand_loaded_kernels_grow_the_process_by_less_than_the_budget(with_device):
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
