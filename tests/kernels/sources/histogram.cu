// Counts of token or byte values: each block counts into shared memory first, so that the threads
// of the whole grid do not meet on the same few global addresses. `counts` starts at 0; values
// outside [0, BINS) are not counted. Specialised by BINS.
extern "C" __global__ void histogram(unsigned int* __restrict__ counts,
                                     const int* __restrict__ values, int count) {
  __shared__ unsigned int local[BINS];
  for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x) local[bin] = 0;
  __syncthreads();

  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    const int value = values[i];
    if (value >= 0 && value < BINS) atomicAdd(&local[value], 1u);
  }
  __syncthreads();

  for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x) {
    if (local[bin] != 0) atomicAdd(&counts[bin], local[bin]);
  }
}
