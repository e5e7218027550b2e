// The sum of each row by CUB's block reduction. Specialised by THREADS and ITEMS (per thread).
#include <cub/block/block_load.cuh>
#include <cub/block/block_reduce.cuh>

extern "C" __global__ void __launch_bounds__(THREADS)
cub_block_sum(float* __restrict__ sums, const float* __restrict__ in, int columns) {
  using Load = cub::BlockLoad<float, THREADS, ITEMS, cub::BLOCK_LOAD_TRANSPOSE>;
  using Reduce = cub::BlockReduce<float, THREADS>;
  __shared__ union {
    typename Load::TempStorage load;
    typename Reduce::TempStorage reduce;
  } shared;

  const float* row = in + static_cast<long long>(blockIdx.x) * columns;
  float total = 0.0f;
  for (int first = 0; first < columns; first += THREADS * ITEMS) {
    float items[ITEMS];
    Load(shared.load).Load(row + first, items, columns - first, 0.0f);
    __syncthreads();
    total += Reduce(shared.reduce).Sum(items);
    __syncthreads();
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}
