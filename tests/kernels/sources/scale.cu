// y = factor * x with VECTOR elements a load: a template whose instance a name expression picks,
// for example scale<float, 4>. There is no extern "C": only the lowered name is in the module.
#include "element.cuh"

template <typename T, int VECTOR>
struct alignas(sizeof(T) * VECTOR) Pack {
  T item[VECTOR];
};

template <typename T, int VECTOR>
__global__ void scale(T* __restrict__ out, const T* __restrict__ in, float factor, int count) {
  using Vector = Pack<T, VECTOR>;
  const int pack = blockIdx.x * blockDim.x + threadIdx.x;
  const int first = pack * VECTOR;
  if (first + VECTOR <= count) {
    Vector values = reinterpret_cast<const Vector*>(in)[pack];
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
      values.item[i] = from_float<T>(to_float(values.item[i]) * factor);
    }
    reinterpret_cast<Vector*>(out)[pack] = values;
  } else {
    for (int i = first; i < count; ++i) out[i] = from_float<T>(to_float(in[i]) * factor);
  }
}
