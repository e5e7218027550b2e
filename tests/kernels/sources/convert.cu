// Conversions between float32, float16 and bfloat16, rounding to nearest even.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

extern "C" __global__ void float_to_half(__half* __restrict__ out, const float* __restrict__ in,
                                         int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) out[i] = __float2half_rn(in[i]);
}

extern "C" __global__ void half_to_float(float* __restrict__ out, const __half* __restrict__ in,
                                         int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) out[i] = __half2float(in[i]);
}

extern "C" __global__ void float_to_bfloat16(__nv_bfloat16* __restrict__ out,
                                             const float* __restrict__ in, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) out[i] = __float2bfloat16_rn(in[i]);
}

extern "C" __global__ void half_to_bfloat16(__nv_bfloat16* __restrict__ out,
                                            const __half* __restrict__ in, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) out[i] = __float2bfloat16_rn(__half2float(in[i]));
}
