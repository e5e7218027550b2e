// x = gelu(x + bias) in place, with the tanh form of GELU (Hendrycks and Gimpel 2016,
// arXiv:1606.08415). Specialised by ELEMENT and FEATURES.
#include "device.cuh"

__device__ __forceinline__ float gelu(float x) {
  const float inner = 0.7978845608f * fmaf(0.044715f * x * x, x, x);  // sqrt(2 / pi)
  return 0.5f * x * (1.0f + tanhf(inner));
}

extern "C" __global__ void bias_gelu(ELEMENT* __restrict__ x, const ELEMENT* __restrict__ bias,
                                     int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) store(x + i, gelu(load(x + i) + load(bias + i % FEATURES)));
}
