// SiLU-and-multiply, the gate of a gated MLP: out = silu(in[:, :WIDTH]) * in[:, WIDTH:], two
// bfloat16 values at a time. One block per token. Specialised by WIDTH.
#include <cuda_bf16.h>

__device__ __forceinline__ float silu(float x) { return x / (1.0f + __expf(-x)); }

extern "C" __global__ void silu_and_mul(__nv_bfloat162* __restrict__ out,
                                        const __nv_bfloat162* __restrict__ in) {
  static_assert(WIDTH % 2 == 0, "two values at a time");
  constexpr int kPairs = WIDTH / 2;
  const __nv_bfloat162* gate = in + static_cast<long long>(blockIdx.x) * 2 * kPairs;
  const __nv_bfloat162* up = gate + kPairs;
  __nv_bfloat162* row = out + static_cast<long long>(blockIdx.x) * kPairs;

  for (int i = threadIdx.x; i < kPairs; i += blockDim.x) {
    const float2 g = __bfloat1622float2(gate[i]);
    const float2 u = __bfloat1622float2(up[i]);
    row[i] = __floats2bfloat162_rn(silu(g.x) * u.x, silu(g.y) * u.y);
  }
}
