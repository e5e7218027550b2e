// The K largest of each row with their columns, in falling order; of equal values the lower column
// comes first (the order of expert routing). One warp per row, the row in registers: K rounds, each
// finds the best that is left. Specialised by COLUMNS (at most 1024) and K.
constexpr int kWarpSize = 32;
// The column of a place that holds nothing (any more): it loses against every candidate.
constexpr int kNoColumn = 0x7fffffff;

struct Candidate {
  float value;
  int column;
};

__device__ __forceinline__ Candidate nothing() { return {__int_as_float(0xff800000), kNoColumn}; }

__device__ __forceinline__ bool better(Candidate a, Candidate b) {
  return a.value > b.value || (a.value == b.value && a.column < b.column);
}

__device__ __forceinline__ Candidate warp_best(Candidate mine) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    const Candidate other = {__shfl_xor_sync(0xffffffffu, mine.value, distance),
                             __shfl_xor_sync(0xffffffffu, mine.column, distance)};
    if (better(other, mine)) mine = other;
  }
  return mine;
}

extern "C" __global__ void top_k(float* __restrict__ values, int* __restrict__ columns,
                                 const float* __restrict__ scores, int rows) {
  constexpr int kPerLane = (COLUMNS + kWarpSize - 1) / kWarpSize;
  static_assert(K <= COLUMNS && COLUMNS <= 1024, "a row must fit into the registers of a warp");
  const int lane = threadIdx.x % kWarpSize;
  const int row = (blockIdx.x * blockDim.x + threadIdx.x) / kWarpSize;
  if (row >= rows) return;  // whole warps leave, so the shuffles below stay full

  Candidate place[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int column = i * kWarpSize + lane;
    place[i] = nothing();
    if (column < COLUMNS) place[i] = {scores[row * COLUMNS + column], column};
  }
  for (int k = 0; k < K; ++k) {
    Candidate best = place[0];
#pragma unroll
    for (int i = 1; i < kPerLane; ++i) {
      if (better(place[i], best)) best = place[i];
    }
    best = warp_best(best);
    if (lane == 0) {
      values[row * K + k] = best.value;
      columns[row * K + k] = best.column;
    }
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (place[i].column == best.column) place[i] = nothing();
    }
  }
}
