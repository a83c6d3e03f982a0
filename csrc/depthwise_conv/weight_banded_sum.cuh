// Adds the parts of a workspace [parts, C, taps + 1] in a fixed order, for weight_banded.cuh.
#pragma once

#include "../common/numbers.cuh"

namespace lightsr {

constexpr int weight_banded_sum_rows = 8;  // threads that share a sum

template <class T>
__global__ __launch_bounds__(warp_size* weight_banded_sum_rows) void weight_banded_sum_kernel(
    const float* sums, int parts, int64_t channels, int taps, T* grad_weight, T* grad_bias) {
  auto* rows = shared_memory<float>();  // [weight_banded_sum_rows, 32]
  const int lane = static_cast<int>(threadIdx.x) % warp_size, row = static_cast<int>(threadIdx.x) / warp_size;
  const int64_t all = channels * (taps + 1), index = static_cast<int64_t>(blockIdx.x) * warp_size + lane;
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
    grad_weight[channel * taps + tap] = from_sum<T>(sum);
  } else if (grad_bias != nullptr) {
    grad_bias[channel] = from_sum<T>(sum);
  }
}

}  // namespace lightsr
