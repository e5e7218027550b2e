"""Operations whose worth only a real GPU shows. Skipped where there is none, and only then."""

from __future__ import annotations

import numpy as np
import pytest

import ajit
from ajit.errors import LaunchError
from tests.gpu.support import until

pytestmark = [pytest.mark.anyio, pytest.mark.gpu, pytest.mark.usefixtures("no_device_left")]

# Each block writes how many blocks its cluster has. 9.0 is the first capability with clusters.
CLUSTER_SIZE = """
extern "C" __global__ void cluster_size(unsigned* out) {
    unsigned blocks = 1;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
#endif
    if (threadIdx.x == 0) out[blockIdx.x] = blocks;
}
"""
# The second launch may begin early, and must not read what the first has not written.
DEPENDENT = """
extern "C" __global__ void dependent(int* x, int n) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = 2 * x[i] + 1;
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
"""
SPIN = """
extern "C" __global__ void spin(long long nanoseconds) {
    unsigned long long began, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(began));
    do asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    while (now - began < nanoseconds);
}
"""


@pytest.mark.parametrize("blocks", [1, 2, 8, 16])
async def test_clusters_have_the_size_of_the_launch(runtime, blocks):
    """The kernel sees its cluster; more than 8 blocks are allowed for the function first."""
    kernel = await runtime.kernel(ajit.Spec(CLUSTER_SIZE, "cluster_size", params="unsigned* out"))
    if not runtime.device.has_clusters:
        with pytest.raises(LaunchError, match="no clusters"):
            kernel.with_attributes(cluster=blocks)
        return
    out = await runtime.device.upload(np.zeros(32, np.uint32))
    await kernel.with_attributes(cluster=blocks).launch(32, 32, out)
    actual = np.asarray(await runtime.device.download(out))

    assert actual.tolist() == [blocks] * 32


async def test_dependent_launches_see_what_came_before(runtime):
    """Ten launches that may overlap give what ten in a row give, alone and as a graph."""
    if not runtime.device.has_clusters:
        pytest.skip("dependent launches need compute capability 9.0, as clusters do")
    kernel = await runtime.kernel(ajit.Spec(DEPENDENT, "dependent", params="int* x, int n"))
    dependent = kernel.with_attributes(programmatic=True, priority=0)
    n = 1 << 16
    x = await runtime.device.upload(np.zeros(n, np.int32))
    for _ in range(5):
        ticket = dependent.launch(n // 256, 256, x, n)
    async with runtime.device.capture() as graph:
        for _ in range(5):
            graph.add_launch(dependent, n // 256, 256, x, n)
    await graph.launch()
    await ticket
    actual = np.asarray(await runtime.device.download(x))

    assert (actual == 2**10 - 1).all()


async def test_the_gpu_tells_how_long_it_worked(runtime):
    """A kernel of 2 ms takes 2 ms, however long it stood in the queue."""
    kernel = await runtime.kernel(ajit.Spec(SPIN, "spin", params="long long nanoseconds"))
    first = kernel.launch(1, 1, 2_000_000, timed=True)
    second = kernel.launch(1, 1, 2_000_000, timed=True)
    await second

    assert first.device_seconds == pytest.approx(2e-3, rel=0.2)
    assert second.device_seconds == pytest.approx(2e-3, rel=0.2)
    assert second.seconds > 3.5e-3


async def test_memory_of_the_pool_is_kept_and_used_again(runtime):
    """Freed memory stays reserved, and is enough for the next allocation of that size."""
    device = runtime.device
    (await device.alloc(64 << 20)).free()
    await until(lambda: device.statistics().live_memory_bytes == 0)
    kept = device.statistics().reserved_memory_bytes
    buffer = await device.alloc(64 << 20)

    assert kept >= 64 << 20
    assert device.statistics().reserved_memory_bytes == kept
    buffer.free()
