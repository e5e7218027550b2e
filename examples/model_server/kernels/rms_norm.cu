// y = x / sqrt(mean(x^2) + epsilon) * weight, one block per token.
// Specialised by ELEMENT, HIDDEN and THREADS.
#include "device.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
rms_norm(ELEMENT* __restrict__ y, const ELEMENT* __restrict__ x,
         const ELEMENT* __restrict__ weight, float epsilon) {
  const long long first = static_cast<long long>(blockIdx.x) * HIDDEN;
  float squares = 0.0f;
  for (int i = threadIdx.x; i < HIDDEN; i += THREADS) {
    const float value = load(x + first + i);
    squares = fmaf(value, value, squares);
  }
  const float scale = rsqrtf(block_reduce<Sum, THREADS>(squares) / HIDDEN + epsilon);
  for (int i = threadIdx.x; i < HIDDEN; i += THREADS) {
    store(y + first + i, load(x + first + i) * scale * load(weight + i));
  }
}
