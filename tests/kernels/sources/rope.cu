// Rotary position embedding, in place, on queries and keys at once (the "NeoX" pairing: element i
// of a head goes with element i + HEAD_SIZE / 2). One block per token.
// Specialised by HEAD_SIZE. The table has one row [cos..., sin...] of HEAD_SIZE floats a position.
#include <cuda_fp16.h>

__device__ __forceinline__ void rotate(__half* head, const float* __restrict__ table, int i) {
  constexpr int kHalf = HEAD_SIZE / 2;
  const float x = __half2float(head[i]);
  const float y = __half2float(head[i + kHalf]);
  const float cosine = __ldg(table + i);
  const float sine = __ldg(table + kHalf + i);
  head[i] = __float2half_rn(x * cosine - y * sine);
  head[i + kHalf] = __float2half_rn(y * cosine + x * sine);
}

extern "C" __global__ void rope(__half* __restrict__ queries, __half* __restrict__ keys,
                                const float* __restrict__ cos_sin,
                                const long long* __restrict__ positions, int query_heads,
                                int key_heads) {
  constexpr int kHalf = HEAD_SIZE / 2;
  const long long token = blockIdx.x;
  const float* table = cos_sin + positions[token] * HEAD_SIZE;
  __half* query = queries + token * query_heads * HEAD_SIZE;
  __half* key = keys + token * key_heads * HEAD_SIZE;

  for (int n = threadIdx.x; n < query_heads * kHalf; n += blockDim.x) {
    rotate(query + n / kHalf * HEAD_SIZE, table, n % kHalf);
  }
  for (int n = threadIdx.x; n < key_heads * kHalf; n += blockDim.x) {
    rotate(key + n / kHalf * HEAD_SIZE, table, n % kHalf);
  }
}
