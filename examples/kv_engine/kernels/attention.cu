// Paged attention: each query over all keys and values up to its own position, in the pages.
// Specialised by DIM (a multiple of 8), HEADS, KV_HEADS (a divisor of HEADS) and PAGE_TOKENS.
//
//   out      [rows][HEADS][DIM]
//   qkv      [rows][HEADS + 2 KV_HEADS][DIM], queries first, rotated; only these are read
//   cache    [2][pages][PAGE_TOKENS][KV_HEADS][DIM], of one layer: keys, values
//   table    number of the page of each PAGE_TOKENS tokens of the sequence
//   first    position of row 0; row r is at first + r
//
// A thread has one query of one head, and goes through the pages in their order with a running
// maximum (Milakov and Gimelshein 2018, arXiv:1805.02867). So the bits of a result depend on the
// sequence up to there and on nothing else: not on how many rows there are, which pages they are
// in, or whether a key was computed here or loaded. It is no fast kernel of a GPU: for one token it
// has HEADS threads.
#define LANES 8

__device__ __forceinline__ float dot(const float* __restrict__ x, const float* __restrict__ y) {
  float sum[LANES] = {};
  for (int d = 0; d < DIM; d += LANES) {
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) sum[lane] += x[d + lane] * y[d + lane];
  }
  return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

extern "C" __global__ void attention(float* __restrict__ out, const float* __restrict__ qkv,
                                     const float* __restrict__ cache,
                                     const int* __restrict__ table, int rows, int first, int pages,
                                     float scale) {
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  const int head = blockIdx.y;
  if (row >= rows) return;
  const float* q = qkv + (static_cast<long long>(row) * (HEADS + 2 * KV_HEADS) + head) * DIM;
  float query[DIM], sum[DIM] = {};
  for (int d = 0; d < DIM; ++d) query[d] = q[d] * scale;

  const int kv_head = head / (HEADS / KV_HEADS);
  const int count = first + row + 1;
  const long long token = static_cast<long long>(KV_HEADS) * DIM;
  const long long plane = token * PAGE_TOKENS * pages;
  float largest = __int_as_float(0xff800000), weights = 0.0f;  // minus infinity
  for (int begin = 0; begin < count; begin += PAGE_TOKENS) {
    const long long page = static_cast<long long>(table[begin / PAGE_TOKENS]) * PAGE_TOKENS;
    const float* keys = cache + page * token + kv_head * DIM;
    const float* values = keys + plane;
    const int here = min(PAGE_TOKENS, count - begin);
    float score[PAGE_TOKENS];
    float top = largest;
    for (int t = 0; t < here; ++t) {
      score[t] = dot(query, keys + t * token);
      top = fmaxf(top, score[t]);
    }
    const float shrink = expf(largest - top);
    largest = top;
    weights *= shrink;
    for (int d = 0; d < DIM; ++d) sum[d] *= shrink;
    for (int t = 0; t < here; ++t) {
      const float weight = expf(score[t] - top);
      const float* value = values + t * token;
      weights += weight;
      for (int d = 0; d < DIM; ++d) sum[d] += weight * value[d];
    }
  }
  float* y = out + (static_cast<long long>(row) * HEADS + head) * DIM;
  for (int d = 0; d < DIM; ++d) y[d] = sum[d] / weights;
}
