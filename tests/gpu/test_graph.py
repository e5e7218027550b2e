"""Graphs: captured once, launched often, and never disturbed by ajit itself."""

from __future__ import annotations

import ctypes

import pytest

from ajit._gpu.driver import CPU_LIBRARY, CUDA_LIBRARY
from ajit._gpu.wire import NATIVE
from ajit.errors import ArgumentError, CaptureMiss, LaunchError, RuntimeClosed
from tests.gpu.support import ON_GPU, cpu_device, kernels, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_device_left")]

INVALID_VALUE = 1


async def test_a_graph_runs_what_was_captured_each_time():
    """Fills, launches and copies are captured without running, and run with every launch."""
    async with cpu_device() as device:
        add_one = (await kernels(device))("add_one")
        buffer, copied = await device.upload(bytes(8)), await device.alloc(8)
        async with device.capture() as graph:
            graph.add_launch(add_one, 1, 2, buffer, 2)
            graph.add_launch(add_one, 1, 2, buffer, 2)
            graph.add_copy(copied, buffer)
        assert bytes(await device.download(buffer)) == bytes(8)

        await graph.launch()
        await graph.launch(stream=await device.create_stream())

        assert bytes(await device.download(copied)) == (4).to_bytes(4, "little") * 2


async def test_a_kernel_that_is_missing_in_a_capture_is_a_typed_error():
    """Nothing is loaded while a step is recorded; behind the block it is fine again."""
    async with cpu_device() as device:
        with pytest.raises(CaptureMiss, match="not loaded"):
            async with device.capture():
                await kernels(device)
        await kernels(device)


async def test_an_operation_that_the_driver_refuses_ends_the_capture(faults):
    """There is no graph, the message names the operation, and the next capture works."""
    async with cpu_device() as device:
        nothing = (await kernels(device))("nothing")
        buffer = await device.alloc(4)
        faults.inject("cuLaunchKernel", INVALID_VALUE)
        live = device.statistics().live_resources
        with pytest.raises(LaunchError, match="operation 1 of the capture"):
            await _capture(device, buffer, nothing)
        assert device.statistics().live_resources == live

        async with device.capture() as graph:
            graph.add_launch(nothing, 1, 1)
        await graph.launch()
        graph.free()
        await until(lambda: device.statistics().live_resources == live)


async def test_a_graph_with_a_freed_buffer_is_not_launched():
    """A buffer that was freed by hand is noticed at every launch, not only at the first."""
    async with cpu_device() as device:
        add_one = (await kernels(device))("add_one")
        buffer = await device.upload(bytes(4))
        async with device.capture() as graph:
            graph.add_launch(add_one, 1, 1, buffer, 1)
        await graph.launch()
        buffer.free()
        for _ in range(2):
            with pytest.raises(ArgumentError, match="freed"):
                graph.launch()
        with pytest.raises(ArgumentError, match="nothing was added"):
            async with device.capture():
                pass
    with pytest.raises(RuntimeClosed):
        graph.launch()


async def test_loads_and_frees_do_not_kill_the_captures_of_other_threads():
    """While another thread captures in global mode, ajit loads, allocates and frees."""
    library = ctypes.CDLL(CUDA_LIBRARY if ON_GPU else str(NATIVE / CPU_LIBRARY))
    context, stream, graph = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    async with cpu_device() as device:
        assert library.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
        assert library.cuCtxSetCurrent(context) == 0
        assert library.cuStreamCreate(ctypes.byref(stream), 1) == 0
        assert library.cuStreamBeginCapture_v2(stream, 0) == 0
        loaded = await kernels(device)
        (await device.alloc(100)).free()
        await device.synchronize()
        await loaded("nothing").launch(1, 1)

        assert library.cuStreamEndCapture(stream, ctypes.byref(graph)) == 0
        assert library.cuGraphDestroy(graph) == 0
        assert library.cuStreamDestroy_v2(stream) == 0
        assert library.cuCtxSetCurrent(None) == 0
        assert library.cuDevicePrimaryCtxRelease_v2(0) == 0


async def _capture(device, buffer, kernel):
    async with device.capture() as graph:
        graph.add_fill(buffer, 1)
        graph.add_launch(kernel, 1, 1)
