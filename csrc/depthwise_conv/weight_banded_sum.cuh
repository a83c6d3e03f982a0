// Adds the parts of a workspace [parts, C, taps + 1] in a fixed order, for weight_banded.cuh.
#pragma once

#include "../common/numbers.cuh"
#include "weight_again.cuh"

namespace lightsr {

constexpr int weight_banded_sum_rows = 8;  // threads that share a sum

template <class T>
__global__ __launch_bounds__(warp_size* weight_banded_sum_rows) void weight_banded_sum_kernel(
    const DepthwiseConvWeight call, const float* sums, int parts) {
  const int taps = call.kh * call.kw;
  auto* rows = shared_memory<float>();  // [weight_banded_sum_rows, 32]
  const int lane = static_cast<int>(threadIdx.x) % warp_size, row = static_cast<int>(threadIdx.x) / warp_size;
  const int64_t all = call.c * (taps + 1), index = static_cast<int64_t>(blockIdx.x) * warp_size + lane;
  const int end = parts * (row + 1) / weight_banded_sum_rows;
  float sum = 0.0f;
  if (index < all) {
    for (int part = parts * row / weight_banded_sum_rows; part < end; ++part) sum += sums[part * all + index];
  }
  rows[threadIdx.x] = sum;
  sync_threads();
  if (row > 0 || index >= all) return;
  for (int i = 1; i < weight_banded_sum_rows; ++i) sum += rows[i * warp_size + lane];
  const int64_t channel = index / (taps + 1);
  const int tap = static_cast<int>(index - channel * (taps + 1));
  if (tap < taps) {
    if (!is_finite(sum)) sum = weight_again<T>(call, channel, tap);
    static_cast<T*>(call.grad_weight)[channel * taps + tap] = from_sum<T>(sum);
  } else if (call.grad_bias != nullptr) {
    static_cast<T*>(call.grad_bias)[channel] = from_sum<T>(sum);
  }
}

}  // namespace lightsr
