// out[rows][columns] = in[rows][inner] weight[inner][columns], all row-major; matmul_add adds to out.
//
// A thread computes a tile of ROWS x COLUMNS elements in registers, and sums each of them from the
// first to the last product. So an element has the same bits whatever rows are computed beside it:
// a row beyond the last one is computed as a copy of that one, by the same instructions, and not
// written.
//
// columns is a multiple of COLUMNS. Specialised by ROWS and COLUMNS.

// By name, so that no compiler can round the product in one row of a tile, and not in another.
__device__ __forceinline__ float multiply_add(float x, float y, float sum) {
#ifdef __AJIT_CPU__
  return sum + x * y;  // which is never contracted there; fmaf is a call
#else
  return fmaf(x, y, sum);
#endif
}

template <bool kAdd>
__device__ __forceinline__ void product(float* __restrict__ out, const float* __restrict__ in,
                                        const float* __restrict__ weight, int rows, int inner,
                                        int columns) {
  const int column = (blockIdx.x * blockDim.x + threadIdx.x) * COLUMNS;
  const int row = blockIdx.y * ROWS;
  if (column >= columns) return;
  const float* x[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; ++r) x[r] = in + static_cast<long long>(min(row + r, rows - 1)) * inner;

  float sum[ROWS][COLUMNS] = {};
  for (int k = 0; k < inner; ++k) {
    const float* w = weight + static_cast<long long>(k) * columns + column;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const float value = x[r][k];
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) sum[r][c] = multiply_add(value, w[c], sum[r][c]);
    }
  }
  for (int r = 0; r < ROWS && row + r < rows; ++r) {
    float* y = out + static_cast<long long>(row + r) * columns + column;
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) y[c] = kAdd ? y[c] + sum[r][c] : sum[r][c];
  }
}

extern "C" __global__ void matmul(float* out, const float* in, const float* weight, int rows,
                                  int inner, int columns) {
  product<false>(out, in, weight, rows, inner, columns);
}

extern "C" __global__ void matmul_add(float* out, const float* in, const float* weight, int rows,
                                      int inner, int columns) {
  product<true>(out, in, weight, rows, inner, columns);
}
