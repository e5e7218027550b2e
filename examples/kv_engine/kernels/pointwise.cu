// What each token has for itself: embedding, RMSNorm, SiLU with its gate.
#define LANES 8

// x[rows][width] = table[tokens[row]]; a thread has an element.
extern "C" __global__ void embed(float* __restrict__ x, const float* __restrict__ table,
                                 const int* __restrict__ tokens, int rows, int width) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= rows * width) return;
  x[i] = table[static_cast<long long>(tokens[i / width]) * width + i % width];
}

// y = x / sqrt(mean(x^2) + epsilon) * weight (Zhang and Sennrich 2019, arXiv:1910.07467). A thread
// has a row: its sum is one of LANES sums in a fixed order. width is a multiple of LANES.
extern "C" __global__ void rms_norm(float* __restrict__ y, const float* __restrict__ x,
                                    const float* __restrict__ weight, int rows, int width,
                                    float epsilon) {
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  const float* in = x + static_cast<long long>(row) * width;
  float* out = y + static_cast<long long>(row) * width;
  float sum[LANES] = {};
  for (int i = 0; i < width; i += LANES) {
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) sum[lane] += in[i + lane] * in[i + lane];
  }
  float squares = 0.0f;
  for (int lane = 0; lane < LANES; ++lane) squares += sum[lane];
  const float scale = 1.0f / sqrtf(squares / width + epsilon);
  for (int i = 0; i < width; ++i) out[i] = in[i] * scale * weight[i];
}

// y[rows][width] = silu(gate) * up, where x[rows][2 width] has gate and up (Shazeer 2020,
// arXiv:2002.05202); a thread has an element.
extern "C" __global__ void silu_gate(float* __restrict__ y, const float* __restrict__ x, int rows,
                                     int width) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= rows * width) return;
  const float* in = x + static_cast<long long>(i / width) * 2 * width + i % width;
  y[i] = in[0] / (1.0f + expf(-in[0])) * in[width];
}
