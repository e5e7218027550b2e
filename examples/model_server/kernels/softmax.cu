// The softmax of each row, one block per row. Specialised by ELEMENT, FEATURES and THREADS.
#include "device.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
softmax(ELEMENT* __restrict__ y, const ELEMENT* __restrict__ x) {
  constexpr int kPerThread = (FEATURES + THREADS - 1) / THREADS;
  const long long first = static_cast<long long>(blockIdx.x) * FEATURES;

  float power[kPerThread];  // the row waits in registers between the two reductions
  float largest = Max::identity();
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    const int i = k * THREADS + threadIdx.x;
    power[k] = i < FEATURES ? load(x + first + i) : Max::identity();
    largest = fmaxf(largest, power[k]);
  }
  largest = block_reduce<Max, THREADS>(largest);

  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    power[k] = expf(power[k] - largest);
    sum += power[k];
  }
  sum = block_reduce<Sum, THREADS>(sum);
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    const int i = k * THREADS + threadIdx.x;
    if (i < FEATURES) store(y + first + i, power[k] / sum);
  }
}
