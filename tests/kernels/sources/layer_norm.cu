// LayerNorm: y = (x - mean) / sqrt(variance + epsilon) * gamma + beta. One block per row.
// The variance is taken around the mean in a second pass over registers: E[x^2] - E[x]^2 would
// cancel for rows whose mean is large beside their spread.
// Specialised by ELEMENT, HIDDEN and THREADS.
#include "block_reduce.cuh"
#include "element.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
layer_norm(ELEMENT* __restrict__ out, const ELEMENT* __restrict__ in,
           const ELEMENT* __restrict__ gamma, const ELEMENT* __restrict__ beta, float epsilon) {
  static_assert(HIDDEN % THREADS == 0, "each thread owns the same number of columns");
  constexpr int kPerThread = HIDDEN / THREADS;
  const long long first = static_cast<long long>(blockIdx.x) * HIDDEN;

  float x[kPerThread];
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    x[i] = to_float(in[first + i * THREADS + threadIdx.x]);
    sum += x[i];
  }
  const float mean = block_reduce<THREADS>(sum, 0.0f, Sum()) / HIDDEN;

  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    x[i] -= mean;
    squares = fmaf(x[i], x[i], squares);
  }
  const float scale = rsqrtf(block_reduce<THREADS>(squares, 0.0f, Sum()) / HIDDEN + epsilon);

#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int column = i * THREADS + threadIdx.x;
    const float y = fmaf(x[i] * scale, to_float(gamma[column]), to_float(beta[column]));
    out[first + column] = from_float<ELEMENT>(y);
  }
}
