"""A program for NVIDIA's driver by cuda.bindings, without ajit. Usage: program IMAGE."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from cuda.bindings import driver

COUNT = 64
RELAXED = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
POINTER = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE


def ok(answer):
    """The values that a call returned beside its error, which must be none."""
    error, *results = answer
    assert error == driver.CUresult.CUDA_SUCCESS, error
    return results[0] if len(results) == 1 else results


def main(image: bytes) -> None:
    """Fail with a traceback, or print what was done."""
    ok(driver.cuInit(0))
    device = ok(driver.cuDeviceGet(0))
    context = ok(driver.cuDevicePrimaryCtxRetain(device))
    ok(driver.cuCtxSetCurrent(context))
    for step in (devices, errors, memory, streams, pools, launches, graphs):
        step(device, image)
        print(step.__name__)  # noqa: T201  # the test reads it
    ok(driver.cuDevicePrimaryCtxRelease(device))


def devices(device, image) -> None:
    """Version, name, memory, a numbered attribute."""
    warp = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_WARP_SIZE
    assert ok(driver.cuDriverGetVersion()) >= 13000
    assert ok(driver.cuDeviceGetAttribute(warp, device)) == 32
    assert ok(driver.cuDeviceGetName(64, device))
    free, total = ok(driver.cuMemGetInfo())
    assert 0 < free <= total == ok(driver.cuDeviceTotalMem(device))


def errors(device, image) -> None:
    """Codes, names and texts."""
    assert driver.cuModuleLoadData(b"nothing" * 100)[0] == driver.CUresult.CUDA_ERROR_INVALID_IMAGE
    assert driver.cuCtxSynchronize()[0] == driver.CUresult.CUDA_SUCCESS
    error = driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    assert driver.cuMemAlloc(1 << 60)[0] == error
    assert ok(driver.cuGetErrorName(error)) == b"CUDA_ERROR_OUT_OF_MEMORY"
    for code in driver.CUresult:
        assert ok(driver.cuGetErrorName(code)).decode() == code.name
        assert ok(driver.cuGetErrorString(code))


def memory(device, image) -> None:
    """Device and pinned memory, fills and copies, events in between."""
    stream = ok(driver.cuStreamCreate(1))
    pointer, host = ok(driver.cuMemAlloc(4 * COUNT)), np.zeros(COUNT, np.int32)
    start, end = ok(driver.cuEventCreate(0)), ok(driver.cuEventCreate(0))
    ok(driver.cuEventRecord(start, stream))
    ok(driver.cuMemsetD32Async(pointer, 5, COUNT, stream))
    ok(driver.cuEventRecord(end, stream))
    ok(driver.cuMemcpyDtoHAsync(host.ctypes.data, pointer, host.nbytes, stream))
    ok(driver.cuStreamSynchronize(stream))
    assert host.tolist() == [5] * COUNT
    assert ok(driver.cuEventElapsedTime(start, end)) >= 0
    assert ok(driver.cuPointerGetAttribute(POINTER, pointer)) == 2
    ok(driver.cuMemFree(pointer))
    ok(driver.cuStreamDestroy(stream))


def streams(device, image) -> None:
    """Priorities, order by events, queries, contexts on a stack."""
    least, greatest = ok(driver.cuCtxGetStreamPriorityRange())
    first = ok(driver.cuStreamCreateWithPriority(1, greatest))
    second = ok(driver.cuStreamCreateWithPriority(1, least))
    assert ok(driver.cuStreamGetPriority(first)) == greatest < least
    event, pinned = ok(driver.cuEventCreate(2)), ok(driver.cuMemHostAlloc(4, 0))
    ok(driver.cuMemsetD32Async(pinned, 6, 1, first))
    ok(driver.cuEventRecord(event, first))
    ok(driver.cuStreamWaitEvent(second, event, 0))
    ok(driver.cuStreamSynchronize(second))
    assert driver.cuEventQuery(event)[0] == driver.CUresult.CUDA_SUCCESS
    assert driver.cuStreamQuery(first)[0] == driver.CUresult.CUDA_SUCCESS
    context = ok(driver.cuCtxGetCurrent())
    ok(driver.cuCtxPushCurrent(context))
    assert int(ok(driver.cuCtxPopCurrent())) == int(context)
    ok(driver.cuMemFreeHost(pinned))
    for stream in (first, second):
        ok(driver.cuStreamDestroy(stream))
    ok(driver.cuEventDestroy(event))


def pools(device, image) -> None:
    """Memory in stream order, from the device's own pool, copied within the device."""
    stream, host = ok(driver.cuStreamCreate(1)), np.arange(COUNT, dtype=np.int32)
    pool = ok(driver.cuDeviceGetDefaultMemPool(device))
    first = ok(driver.cuMemAllocAsync(host.nbytes, stream))
    second = ok(driver.cuMemAllocFromPoolAsync(host.nbytes, pool, stream))
    ok(driver.cuMemcpyHtoDAsync(first, host.ctypes.data, host.nbytes, stream))
    ok(driver.cuMemcpyDtoDAsync(second, first, host.nbytes, stream))
    back = np.zeros_like(host)
    ok(driver.cuMemcpyDtoHAsync(back.ctypes.data, second, host.nbytes, stream))
    for pointer in (first, second):
        ok(driver.cuMemFreeAsync(pointer, stream))
    ok(driver.cuStreamSynchronize(stream))
    assert back.tolist() == host.tolist()
    ok(driver.cuMemPoolTrimTo(pool, 0))
    ok(driver.cuStreamDestroy(stream))


def launches(device, image) -> None:
    """A library's kernel by its handle, its parameters, and a launch with a configuration."""
    library = ok(driver.cuLibraryLoadData(image, [], [], 0, [], [], 0))
    scale = ok(driver.cuKernelGetFunction(ok(driver.cuLibraryGetKernel(library, b"scale<float>"))))
    assert [ok(driver.cuFuncGetParamInfo(scale, index)) for index in range(3)] == [
        [0, 8], [8, 4], [16, 8],
    ]  # fmt: skip
    host, memory = np.ones(COUNT, np.float32), ok(driver.cuMemAlloc(4 * COUNT))
    ok(driver.cuMemcpyHtoD(memory, host.ctypes.data, host.nbytes))
    values = [np.array([number], kind) for number, kind in
              ((int(memory), np.uint64), (5, np.float32), (COUNT, np.uint64))]  # fmt: skip
    addresses = np.array([value.ctypes.data for value in values], np.uint64)
    config = driver.CUlaunchConfig()
    config.gridDimX = config.gridDimY = config.gridDimZ = 1
    config.blockDimX, config.blockDimY, config.blockDimZ = COUNT, 1, 1
    ok(driver.cuLaunchKernelEx(config, scale, addresses.ctypes.data, 0))
    ok(driver.cuCtxSynchronize())
    ok(driver.cuMemcpyDtoH(host.ctypes.data, memory, host.nbytes))
    assert host.tolist() == [5] * COUNT
    ok(driver.cuMemFree(memory))
    ok(driver.cuLibraryUnload(library))


def graphs(device, image) -> None:
    """A module's kernel, captured once and launched three times."""
    module = ok(driver.cuModuleLoadData(image))
    scale = ok(driver.cuModuleGetFunction(module, b"scale<float>"))
    stream, memory = ok(driver.cuStreamCreate(1)), ok(driver.cuMemAlloc(4 * COUNT))
    host = np.ones(COUNT, np.float32)
    ok(driver.cuMemcpyHtoD(memory, host.ctypes.data, host.nbytes))
    values = [np.array([number], kind) for number, kind in
              ((int(memory), np.uint64), (2, np.float32), (COUNT, np.uint64))]  # fmt: skip
    addresses = np.array([value.ctypes.data for value in values], np.uint64)
    ok(driver.cuStreamBeginCapture(stream, RELAXED))
    ok(driver.cuLaunchKernel(scale, 1, 1, 1, COUNT, 1, 1, 0, stream, addresses.ctypes.data, 0))
    graph = ok(driver.cuStreamEndCapture(stream))
    executable = ok(driver.cuGraphInstantiate(graph, 0))
    for _ in range(3):
        ok(driver.cuGraphLaunch(executable, stream))
    ok(driver.cuStreamSynchronize(stream))
    ok(driver.cuMemcpyDtoH(host.ctypes.data, memory, host.nbytes))
    assert host.tolist() == [8] * COUNT
    ok(driver.cuGraphExecDestroy(executable))
    ok(driver.cuGraphDestroy(graph))
    ok(driver.cuModuleUnload(module))


if __name__ == "__main__":
    main(Path(sys.argv[1]).read_bytes())
