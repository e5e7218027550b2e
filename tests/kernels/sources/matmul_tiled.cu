// C = A B, row-major, with tiles of A and B in shared memory and float32 accumulation. Each thread
// of a TILE x TILE block computes one element; edges are padded with zeros.
// Specialised by ELEMENT, TILE and the shape M, N, K, as shape-specialising servers do.
#include "element.cuh"

extern "C" __global__ void __launch_bounds__(TILE * TILE)
matmul(ELEMENT* __restrict__ c, const ELEMENT* __restrict__ a, const ELEMENT* __restrict__ b) {
  __shared__ float a_tile[TILE][TILE];
  __shared__ float b_tile[TILE][TILE + 1];  // padded: a column must not fall into one bank

  const int row = blockIdx.y * TILE + threadIdx.y;
  const int column = blockIdx.x * TILE + threadIdx.x;
  float sum = 0.0f;
  for (int k = 0; k < K; k += TILE) {
    const int a_column = k + threadIdx.x;
    const int b_row = k + threadIdx.y;
    a_tile[threadIdx.y][threadIdx.x] =
        row < M && a_column < K ? to_float(a[row * K + a_column]) : 0.0f;
    b_tile[threadIdx.y][threadIdx.x] =
        b_row < K && column < N ? to_float(b[b_row * N + column]) : 0.0f;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < TILE; ++i) {
      sum = fmaf(a_tile[threadIdx.y][i], b_tile[i][threadIdx.x], sum);
    }
    __syncthreads();  // no thread may overwrite a tile that another still reads
  }
  if (row < M && column < N) c[row * N + column] = from_float<ELEMENT>(sum);
}
