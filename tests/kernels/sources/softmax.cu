// Softmax of each row, any number of columns, one block per row. The maximum and the sum are found
// together in one pass (online softmax, Milakov and Gimelshein 2018, arXiv:1805.02867).
// Specialised by ELEMENT and THREADS.
#include "block_reduce.cuh"
#include "element.cuh"

struct Running {
  float maximum;
  float sum;  // of exp(x - maximum) over what has been seen
};

__device__ __forceinline__ Running merge(Running a, Running b) {
  const Running high = a.maximum >= b.maximum ? a : b;
  const Running low = a.maximum >= b.maximum ? b : a;
  // Without this, masked elements would make a NaN of -inf - -inf.
  if (low.maximum == high.maximum) return {high.maximum, high.sum + low.sum};
  return {high.maximum, high.sum + low.sum * expf(low.maximum - high.maximum)};
}

__device__ __forceinline__ Running warp_merge(Running value) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    const Running other = {__shfl_xor_sync(kFullMask, value.maximum, distance),
                           __shfl_xor_sync(kFullMask, value.sum, distance)};
    value = merge(value, other);
  }
  return value;
}

extern "C" __global__ void __launch_bounds__(THREADS)
softmax(ELEMENT* __restrict__ out, const ELEMENT* __restrict__ in, int columns) {
  constexpr int kWarps = THREADS / kWarpSize;
  __shared__ Running partial[kWarps];
  const long long first = static_cast<long long>(blockIdx.x) * columns;
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const Running nothing = {__int_as_float(0xff800000), 0.0f};  // minus infinity

  Running seen = nothing;
  for (int column = threadIdx.x; column < columns; column += THREADS) {
    seen = merge(seen, {to_float(in[first + column]), 1.0f});
  }
  seen = warp_merge(seen);
  if (lane == 0) partial[warp] = seen;
  __syncthreads();
  seen = warp_merge(lane < kWarps ? partial[lane] : nothing);

  const float scale = 1.0f / seen.sum;
  for (int column = threadIdx.x; column < columns; column += THREADS) {
    const float y = expf(to_float(in[first + column]) - seen.maximum) * scale;
    out[first + column] = from_float<ELEMENT>(y);
  }
}
