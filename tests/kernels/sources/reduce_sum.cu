// The sum of a vector: a grid-stride loop, warp shuffles, one atomic a block. `total` starts at 0.
// Specialised by THREADS.
#include "block_reduce.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
reduce_sum(float* __restrict__ total, const float* __restrict__ values, unsigned int count) {
  float sum = 0.0f;
  for (unsigned int i = blockIdx.x * THREADS + threadIdx.x; i < count; i += gridDim.x * THREADS) {
    sum += values[i];
  }
  sum = block_reduce<THREADS>(sum, 0.0f, Sum());
  if (threadIdx.x == 0) atomicAdd(total, sum);
}
