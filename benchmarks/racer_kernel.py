"""The kernel of the cold race: blocks of CUB that NVRTC needs seconds for."""

from __future__ import annotations

__all__ = ["ARCH", "SOURCE"]

SOURCE = """
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#include <cub/block/block_radix_sort.cuh>

extern "C" __global__ void crunch(const float* in, float* out, int n) {
    using Reduce = cub::BlockReduce<float, 256>;
    using Scan = cub::BlockScan<float, 256>;
    using Sort = cub::BlockRadixSort<float, 256, 4>;
    __shared__ union {
        typename Reduce::TempStorage reduce;
        typename Scan::TempStorage scan;
        typename Sort::TempStorage sort;
    } storage;
    float items[4];
    for (int i = 0; i < 4; ++i) items[i] = in[blockIdx.x * 1024 + threadIdx.x * 4 + i];
    Sort(storage.sort).Sort(items);
    __syncthreads();
    float total = Reduce(storage.reduce).Sum(items[0] + items[1] + items[2] + items[3]);
    __syncthreads();
    float prefix;
    Scan(storage.scan).ExclusiveSum(items[0], prefix);
    if (threadIdx.x == 0) out[blockIdx.x] = total;
    out[n + blockIdx.x * 256 + threadIdx.x] = prefix;
}
"""
ARCH = "sm_90a"
