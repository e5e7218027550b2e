// RMSNorm: y = x / sqrt(mean(x^2) + epsilon) * weight. One block per row.
// Specialised by ELEMENT (float, __half, __nv_bfloat16), HIDDEN and THREADS.
#include "block_reduce.cuh"
#include "element.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
rms_norm(ELEMENT* __restrict__ out, const ELEMENT* __restrict__ in,
         const ELEMENT* __restrict__ weight, float epsilon) {
  constexpr int kPerThread = (HIDDEN + THREADS - 1) / THREADS;
  const ELEMENT* row = in + static_cast<long long>(blockIdx.x) * HIDDEN;
  ELEMENT* out_row = out + static_cast<long long>(blockIdx.x) * HIDDEN;

  float x[kPerThread];  // the row is read once and stays in registers
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int column = i * THREADS + threadIdx.x;
    x[i] = column < HIDDEN ? to_float(row[column]) : 0.0f;
    squares += x[i] * x[i];
  }
  const float scale = rsqrtf(block_reduce<THREADS>(squares, 0.0f, Sum()) / HIDDEN + epsilon);
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int column = i * THREADS + threadIdx.x;
    if (column < HIDDEN) {
      out_row[column] = from_float<ELEMENT>(x[i] * scale * to_float(weight[column]));
    }
  }
}
