// C[rows][FEATURES] = A[rows][HIDDEN] B[HIDDEN][FEATURES], row-major. A TILE x TILE block computes
// as many elements from tiles in shared memory, summing in float32.
// Specialised by ELEMENT, HIDDEN, FEATURES and TILE.
#include "device.cuh"

extern "C" __global__ void __launch_bounds__(TILE * TILE)
matmul(ELEMENT* __restrict__ c, const ELEMENT* __restrict__ a, const ELEMENT* __restrict__ b,
       int rows) {
  __shared__ float a_tile[TILE][TILE];
  __shared__ float b_tile[TILE][TILE];
  const int row = blockIdx.y * TILE + threadIdx.y;
  const int column = blockIdx.x * TILE + threadIdx.x;

  float sum = 0.0f;
  for (int k = 0; k < HIDDEN; k += TILE) {
    const int a_column = k + threadIdx.x;
    const int b_row = k + threadIdx.y;
    const bool in_a = row < rows && a_column < HIDDEN;
    const bool in_b = b_row < HIDDEN && column < FEATURES;
    a_tile[threadIdx.y][threadIdx.x] = in_a ? load(a + row * HIDDEN + a_column) : 0.0f;
    b_tile[threadIdx.y][threadIdx.x] = in_b ? load(b + b_row * FEATURES + column) : 0.0f;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < TILE; ++i) {
      sum = fmaf(a_tile[threadIdx.y][i], b_tile[i][threadIdx.x], sum);
    }
    __syncthreads();  // no thread may overwrite a tile that another one still reads
  }
  if (row < rows && column < FEATURES) store(c + row * FEATURES + column, sum);
}
