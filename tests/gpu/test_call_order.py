"""Calls of the driver, and when: none during a capture, and no load at a first launch."""

from __future__ import annotations

import anyio
import pytest

from ajit._core.spec import EntryPoint
from tests.gpu.support import ENTRIES, GRACE_SECONDS, compiled, cpu_device, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

SPIN_SOURCE = """
extern "C" __global__ void spin(volatile int* go) { while (*go == 0) {} }
"""
SPIN = (EntryPoint("spin", ("volatile int*",)),)
LOADING = ("cuModule", "cuFunc", "cuLibrary")


async def test_nothing_of_ajit_comes_into_an_open_capture(journal, faults):
    """Loads, unloads, allocations and frees that are asked for meanwhile wait for its end."""
    artifact = compiled()
    async with cpu_device() as device:
        old = await device.load(artifact, ENTRIES)
        kernel, buffer = old.kernel("nothing"), await device.alloc(64)
        given_back = [await device.alloc(64), await device.alloc_pinned(64)]
        given_back += [await device.create_stream(), await device.create_event()]
        given_back.append(await device.load(artifact, ENTRIES))
        await device.synchronize()
        began = len(journal)
        async with anyio.create_task_group() as tasks:
            with faults.stopped("cuLaunchKernel"):
                tasks.start_soon(capture, device, buffer, kernel)
                await until(lambda: "cuStreamBeginCapture_v2" in journal.since(began))
                for owned in given_back:
                    (owned.unload if hasattr(owned, "unload") else owned.free)()
                tasks.start_soon(device.load, artifact, ENTRIES)
                tasks.start_soon(device.alloc, 64)
                tasks.start_soon(device.alloc_pinned, 64)
                tasks.start_soon(device.create_stream)
                await anyio.wait_all_tasks_blocked()  # all is asked for
        later = {"cuModuleLoadData", "cuModuleUnload", "cuMemHostAlloc", "cuMemFreeHost"}
        await until(lambda: later <= set(journal.since(began)))
        calls = journal.since(began)
        first, last = (calls.index(f"cuStream{name}") for name in ("BeginCapture_v2", "EndCapture"))
        expected = ["cuMemsetD8Async", "cuLaunchKernel", "cuMemcpyDtoDAsync_v2"]

        assert calls[first + 1 : last] == expected
        assert later <= set(calls[last:])


async def capture(device, buffer, kernel):
    """Capture a fill, a launch and a copy."""
    async with device.capture() as graph:
        graph.add_fill(buffer, 1)
        graph.add_launch(kernel, 1, 1)
        graph.add_copy(buffer, buffer)


async def test_a_first_launch_loads_nothing(journal):
    """Module, functions, code and attributes are there when the kernel is handed out."""
    async with cpu_device() as device:
        began = len(journal)
        module = await device.load(compiled(), ENTRIES)
        kernels = [module.kernel(entry.name) for entry in ENTRIES]
        loading = journal.since(began)
        handed_out = len(journal)
        await kernels[0].launch(1, 1)
        launching = journal.since(handed_out)

        assert loading.count("cuModuleLoadData") == 1
        assert loading.count("cuModuleGetFunction") == len(ENTRIES)
        assert loading.count("cuFuncLoad") == len(ENTRIES)
        assert not [name for name in launching if name.startswith(LOADING)]
        assert launching[:2] == ["cuLaunchKernel", "cuLaunchHostFunc"]


@pytest.mark.usefixtures("faults")  # the CPU driver only
async def test_a_first_launch_does_not_wait_for_a_kernel_that_spins():
    """A kernel that was never launched runs beside one that waits for it to have run."""
    async with cpu_device() as device:
        spin = (await device.load(compiled(SPIN_SOURCE, SPIN), SPIN)).kernel("spin")
        go, counter = await device.alloc(4), await device.upload(bytes(4))
        await device.fill(go, 0)
        fresh = (await device.load(compiled(), ENTRIES)).kernel("add_one")
        stream = await device.create_stream()
        spinning = spin.launch(1, 1, go)
        try:
            with anyio.fail_after(GRACE_SECONDS):
                await fresh.launch(1, 1, counter, 1, stream=stream)
                done_before = spinning.done
        finally:
            await device.fill(go, 1, stream=stream)
        await spinning

        assert not done_before
        assert bytes(await device.download(counter)) == b"\1\0\0\0"
