"""The same device layer on a real GPU. Skipped where there is none, and only then."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import ajit
from tests.gpu.support import until

pytestmark = [pytest.mark.anyio, pytest.mark.gpu, pytest.mark.usefixtures("no_device_left")]

SAXPY = """
extern "C" __global__ void saxpy(float a, const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += a * x[i];
}
"""


async def test_a_kernel_on_the_gpu_computes_what_numpy_does(runtime):
    """Upload, launch, download: the whole way, with staged copies."""
    spec = ajit.Spec(SAXPY, "saxpy", params="float a, const float* x, float* y, int n")
    x, y = np.arange(1 << 20, dtype=np.float32), np.ones(1 << 20, np.float32)
    kernel = await runtime.kernel(spec)
    dx, dy = await runtime.device.upload(x), await runtime.device.upload(y)
    await kernel.launch(4096, 256, 2.0, dx, dy, 1 << 20)
    actual = np.empty_like(y)
    await runtime.device.download(dy, actual)

    np.testing.assert_array_equal(actual, 2.0 * x + y)
    assert runtime.device.arch.startswith("sm_")
    assert dx.__cuda_array_interface__["data"] == (dx.pointer, False)


async def test_memory_on_the_gpu_is_freed(runtime):
    """Buffers without a reference are freed."""
    before = runtime.device.statistics().live_memory_bytes
    for _ in range(10):
        await runtime.device.fill(await runtime.device.alloc(1 << 20), 1)
    gc.collect()
    await until(lambda: runtime.device.statistics().live_memory_bytes == before)
