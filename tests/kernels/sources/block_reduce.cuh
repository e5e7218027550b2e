// Reductions over a warp and over a block, by warp shuffles.
#pragma once

constexpr int kWarpSize = 32;
constexpr unsigned kFullMask = 0xffffffffu;

struct Sum {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
};

struct Max {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const { return a > b ? a : b; }
};

// A butterfly, so that every lane ends with the same result. All 32 lanes must take part.
template <typename T, typename Combine>
__device__ __forceinline__ T warp_reduce(T value, Combine combine) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(kFullMask, value, distance));
  }
  return value;
}

// Every thread gets the result. All kThreads threads of a one-dimensional block must take part.
template <int kThreads, typename T, typename Combine>
__device__ __forceinline__ T block_reduce(T value, T identity, Combine combine) {
  static_assert(kThreads % kWarpSize == 0 && kThreads <= 1024, "a block of whole warps");
  constexpr int kWarps = kThreads / kWarpSize;
  __shared__ T partial[kWarps];

  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  value = warp_reduce(value, combine);
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  value = warp_reduce(lane < kWarps ? partial[lane] : identity, combine);
  __syncthreads();  // a second call may overwrite `partial` only when all have read it
  return value;
}
