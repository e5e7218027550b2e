"""NVRTC is searched for when a runtime opens, so that the first kernel need not wait for it."""

from __future__ import annotations

import threading
from functools import partial

import anyio
import anyio.to_thread
import pytest

import ajit
from ajit._compile.toolchains import discovery
from tests.runtime.sources import ARCH, SAXPY

pytestmark = pytest.mark.anyio

DEADLINE_SECONDS = 60.0


@pytest.fixture
def looked(monkeypatch):
    """Set when NVRTC is looked for, which fails by a defect: more than a compiler not there."""
    event = threading.Event()

    def find_nvrtc(_digests):
        event.set()
        raise RuntimeError("a defect")

    monkeypatch.setattr(discovery, "find_nvrtc", find_nvrtc)
    return event


async def test_nvrtc_is_looked_for_before_a_kernel_is_asked_for(options, looked):
    """Opening does not wait for it."""
    async with ajit.open_runtime(**options):
        in_time = await anyio.to_thread.run_sync(partial(looked.wait, DEADLINE_SECONDS))

    assert in_time


async def test_a_failed_search_concerns_only_compiles_with_nvrtc(options, looked):
    """Others are served; a compile with NVRTC gets the error."""
    async with ajit.open_runtime(**options) as rt:
        await anyio.to_thread.run_sync(partial(looked.wait, DEADLINE_SECONDS))
        served = await rt.resolve(SAXPY, arch=ARCH)
        with pytest.raises(RuntimeError, match="a defect"):
            await rt.resolve(SAXPY, arch="sm_90a")

    assert served.tier == "compiled"


async def test_with_the_cpu_as_device_nvrtc_is_not_looked_for(with_device, looked):
    """Its kernels are the host compiler's."""
    async with ajit.open_runtime(**with_device) as rt:
        await rt.kernel(SAXPY)

    assert not looked.is_set()
