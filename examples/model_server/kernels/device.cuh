// What the four kernels share: float32 and float16 elements, and sums and maxima of a block.
#pragma once

#include <cuda_fp16.h>

constexpr int kWarpSize = 32;

__device__ __forceinline__ float load(const float* p) { return *p; }
__device__ __forceinline__ float load(const __half* p) { return __half2float(*p); }
__device__ __forceinline__ void store(float* p, float value) { *p = value; }
__device__ __forceinline__ void store(__half* p, float value) { *p = __float2half_rn(value); }

struct Sum {
  static __device__ __forceinline__ float identity() { return 0.0f; }
  static __device__ __forceinline__ float combine(float a, float b) { return a + b; }
};

struct Max {
  static __device__ __forceinline__ float identity() { return __int_as_float(0xff800000); }  // -inf
  static __device__ __forceinline__ float combine(float a, float b) { return fmaxf(a, b); }
};

template <typename Op>
__device__ __forceinline__ float warp_reduce(float value) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    value = Op::combine(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  return value;
}

// Every thread of the block gets the result; every thread must take part.
template <typename Op, int kThreads>
__device__ __forceinline__ float block_reduce(float value) {
  constexpr int kWarps = kThreads / kWarpSize;
  __shared__ float partial[kWarps];
  const int lane = threadIdx.x % kWarpSize;
  value = warp_reduce<Op>(value);
  if (lane == 0) partial[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  value = warp_reduce<Op>(lane < kWarps ? partial[lane] : Op::identity());
  __syncthreads();  // the next reduction overwrites `partial`: all must have read it
  return value;
}
