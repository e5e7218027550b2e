// Symmetric int8 quantisation with one scale a row: scale = max|x| / 127, q = round(x / scale) to
// nearest even, saturated. A row of zeros gets scale 1, so that dequantising never divides by or
// multiplies with 0. One block per row. Specialised by ELEMENT and THREADS.
#include "block_reduce.cuh"
#include "element.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
quantize_int8(signed char* __restrict__ quantized, float* __restrict__ scales,
              const ELEMENT* __restrict__ in, int columns) {
  const long long first = static_cast<long long>(blockIdx.x) * columns;
  float largest = 0.0f;
  for (int column = threadIdx.x; column < columns; column += THREADS) {
    largest = fmaxf(largest, fabsf(to_float(in[first + column])));
  }
  largest = block_reduce<THREADS>(largest, 0.0f, Max());

  const float scale = largest > 0.0f ? largest / 127.0f : 1.0f;
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
  for (int column = threadIdx.x; column < columns; column += THREADS) {
    const int q = __float2int_rn(to_float(in[first + column]) / scale);
    quantized[first + column] = static_cast<signed char>(min(127, max(-127, q)));
  }
}
