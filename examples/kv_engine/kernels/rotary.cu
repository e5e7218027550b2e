// Rotary position embedding (Su et al. 2021, arXiv:2104.09864), and the way into the pages.
// Specialised by DIM, HEADS, KV_HEADS and PAGE_TOKENS; see attention.cu for the shapes.
//
// Queries are rotated where they are. Keys are rotated on their way to the pages, values are copied.
//
//   turns    [positions][DIM / 2][2], cosines and sines, made on the host
extern "C" __global__ void rotate_and_store(float* __restrict__ qkv, float* __restrict__ cache,
                                            const int* __restrict__ table,
                                            const float* __restrict__ turns, int rows, int first,
                                            int pages) {
  constexpr int kHalf = DIM / 2;
  const int pair = blockIdx.x * blockDim.x + threadIdx.x;
  const int head = pair / kHalf % (HEADS + 2 * KV_HEADS);
  const int row = pair / (kHalf * (HEADS + 2 * KV_HEADS));
  const int d = pair % kHalf;
  if (row >= rows) return;

  const int position = first + row;
  float* x = qkv + (static_cast<long long>(row) * (HEADS + 2 * KV_HEADS) + head) * DIM;
  float low = x[d], high = x[d + kHalf];
  if (head < HEADS + KV_HEADS) {
    const float* turn = turns + (static_cast<long long>(position) * kHalf + d) * 2;
    const float rotated = low * turn[0] - high * turn[1];
    high = high * turn[0] + low * turn[1];
    low = rotated;
  }
  if (head >= HEADS) {
    const int plane = head >= HEADS + KV_HEADS;
    const int kv_head = head - HEADS - plane * KV_HEADS;
    const long long page = static_cast<long long>(plane) * pages + table[position / PAGE_TOKENS];
    const long long token = page * PAGE_TOKENS + position % PAGE_TOKENS;
    x = cache + (token * KV_HEADS + kv_head) * DIM;
  }
  x[d] = low;
  x[d + kHalf] = high;
}
