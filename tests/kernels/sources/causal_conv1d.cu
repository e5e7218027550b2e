// A short depthwise causal convolution along the sequence, as state-space models use before their
// scan: out[t][c] = bias[c] + sum over j of weight[c][j] * in[t - WIDTH + 1 + j][c], in = 0 before
// the start. A block takes blockDim.x channels and `steps` time steps; its inputs and the
// WIDTH - 1 steps before them wait in dynamic shared memory of
// (steps + WIDTH - 1) * blockDim.x floats. Specialised by WIDTH.
extern "C" __global__ void causal_conv1d(float* __restrict__ out, const float* __restrict__ in,
                                         const float* __restrict__ weight,
                                         const float* __restrict__ bias, int length, int channels,
                                         int steps) {
  extern __shared__ float window[];
  const int channel = blockIdx.x * blockDim.x + threadIdx.x;
  const int start = blockIdx.y * steps;
  const int rows = steps + WIDTH - 1;

  for (int row = threadIdx.y; row < rows; row += blockDim.y) {
    const int time = start - (WIDTH - 1) + row;
    const bool inside = time >= 0 && time < length && channel < channels;
    window[row * blockDim.x + threadIdx.x] = inside ? in[time * channels + channel] : 0.0f;
  }
  __syncthreads();
  if (channel >= channels) return;

  for (int step = threadIdx.y; step < steps && start + step < length; step += blockDim.y) {
    float sum = bias[channel];
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
      sum = fmaf(weight[channel * WIDTH + j], window[(step + j) * blockDim.x + threadIdx.x], sum);
    }
    out[(start + step) * channels + channel] = sum;
  }
}
