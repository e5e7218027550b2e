// A paged KV cache [slots][heads * head size]: tokens are scattered into and gathered from slots
// (page * page size + offset) by a slot mapping. A negative slot marks a padding token: scatter
// skips it, gather writes zeros. One block per token, 16 bytes a thread and step.
// Specialised by ROW_BYTES, a token's bytes in one of the two planes.
constexpr int kVectors = ROW_BYTES / sizeof(uint4);

__device__ __forceinline__ void copy_row(uint4* __restrict__ to, const uint4* __restrict__ from) {
  for (int i = threadIdx.x; i < kVectors; i += blockDim.x) to[i] = from[i];
}

__device__ __forceinline__ void clear_row(uint4* to) {
  for (int i = threadIdx.x; i < kVectors; i += blockDim.x) to[i] = make_uint4(0, 0, 0, 0);
}

extern "C" __global__ void kv_scatter(uint4* __restrict__ key_cache, uint4* __restrict__ value_cache,
                                      const uint4* __restrict__ keys,
                                      const uint4* __restrict__ values,
                                      const long long* __restrict__ slot_mapping) {
  static_assert(ROW_BYTES % sizeof(uint4) == 0, "rows are copied in 16-byte steps");
  const long long token = blockIdx.x;
  const long long slot = slot_mapping[token];
  if (slot < 0) return;
  copy_row(key_cache + slot * kVectors, keys + token * kVectors);
  copy_row(value_cache + slot * kVectors, values + token * kVectors);
}

extern "C" __global__ void kv_gather(uint4* __restrict__ keys, uint4* __restrict__ values,
                                     const uint4* __restrict__ key_cache,
                                     const uint4* __restrict__ value_cache,
                                     const long long* __restrict__ slot_mapping) {
  const long long token = blockIdx.x;
  const long long slot = slot_mapping[token];
  if (slot < 0) {
    clear_row(keys + token * kVectors);
    clear_row(values + token * kVectors);
    return;
  }
  copy_row(keys + token * kVectors, key_cache + slot * kVectors);
  copy_row(values + token * kVectors, value_cache + slot * kVectors);
}
