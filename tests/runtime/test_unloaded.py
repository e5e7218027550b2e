"""A module that was unloaded by hand is loaded anew when its kernel is asked for."""

from __future__ import annotations

import gc
import threading
import weakref

import anyio
import pytest

import ajit
from tests.runtime.sources import SAXPY

pytestmark = pytest.mark.anyio


async def test_kernel_of_an_unloaded_module_is_loaded_anew(with_device, compiler):
    """By `kernel`, `module` and with a fallback; from disk, not by another compile."""
    async with ajit.open_runtime(**with_device) as rt:
        first = await rt.kernel(SAXPY)
        first.module.unload()
        with pytest.raises(ajit.WouldBlock, match="not loaded"):
            rt.kernel_nowait(SAXPY)
        counted = rt.statistics().loaded_modules
        second = await rt.kernel(SAXPY)
        again = await rt.kernel(SAXPY)
        second.module.unload()
        module = await rt.module(SAXPY)
        nowait = rt.kernel_nowait(SAXPY)
        nowait.module.unload()
        report = await rt.warmup([SAXPY])
        x = await rt.device.alloc(4, "float32")
        await (await rt.kernel(SAXPY))[1, 4](1.0, x, x, 4)

    assert counted == 0
    assert again is second
    assert nowait.module is module
    assert (report.from_disk, report.failures) == (1, ())
    assert compiler.started == 1


async def test_kernel_unloaded_by_another_thread_is_loaded_anew(with_device):
    """The next request in the loop sees it."""
    async with ajit.open_runtime(**with_device) as rt:
        first = await rt.kernel(SAXPY)
        thread = threading.Thread(target=first.module.unload)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        second = await rt.kernel(SAXPY)

        assert first.module.unloaded
        assert not second.module.unloaded


async def test_module_does_not_keep_its_runtime_alive(with_device):
    """Telling the runtime of its end makes no cycle: nothing waits for the collector."""
    async with ajit.open_runtime(**with_device) as rt:
        kernel = await rt.kernel(SAXPY)
        gc.collect()
        module = weakref.ref(kernel.module)
        del kernel
    gc.disable()
    try:
        del rt
        left = module()
    finally:
        gc.enable()

    assert left is None
