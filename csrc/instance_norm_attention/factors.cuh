// Scale and shift of every plane from its moments and the parameters: arguments.h has the formulas.
//
// Floor: nothing to speak of: 2 C hidden multiplications a picture. What counts is that it is one launch.
//
// Plan: one block a picture, all in float64. The statistics of up to 4096 channels and 1024 hidden numbers lie in
// shared memory: a warp makes a hidden number, a thread a channel's gate. Beyond 4096 channels statistics are made
// again where they are read; beyond 1024 hidden numbers these come in chunks, made again for every 256 channels.
#pragma once

#include "affine.cuh"

namespace lightsr::norm {

constexpr int64_t most_statistics = 4096, most_hidden = 1024;

template <class T>
__device__ __forceinline__ double parameter(const void* from, int64_t at, double otherwise) {
  return from != nullptr ? static_cast<double>(to_sum(static_cast<const T*>(from)[at])) : otherwise;
}

template <class T>
__global__ void __launch_bounds__(block_threads) factors_kernel(const Factors call) {
  using S = Sum<T>;
  const bool gated = call.down_weight != nullptr, kept = call.c <= most_statistics;
  double* const hidden = shared_memory<double>();
  double* const statistics = hidden + smaller(call.hidden, most_hidden);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % warp_size, warp = thread / warp_size;
  const double* const mean = call.mean + blockIdx.x * call.c;
  const double* const variance = call.variance + blockIdx.x * call.c;
  const auto statistic = [&](int64_t c) {
    const bool deviates = call.statistic == Statistic::mean_and_deviation && variance[c] > 0;
    return deviates ? mean[c] + sqrt(variance[c]) : mean[c];
  };
  if (gated && kept) {
    for (int64_t c = thread; c < call.c; c += block_threads) statistics[c] = statistic(c);
  }
  for (int64_t base = 0; base < call.c; base += block_threads) {
    const int64_t c = base + thread;
    double logit = c < call.c ? parameter<T>(call.up_bias, c, 0) : 0;
    for (int64_t first = 0; gated && first < call.hidden; first += most_hidden) {
      const int64_t many = smaller(most_hidden, call.hidden - first);
      if (base == 0 || call.hidden > most_hidden) {
        sync_threads();
        for (int64_t unit = warp; unit < many; unit += block_threads / warp_size) {
          double sum = 0;
          for (int64_t from = lane; from < call.c; from += warp_size) {
            const double weight = parameter<T>(call.down_weight, (first + unit) * call.c + from, 0);
            sum += weight * (kept ? statistics[from] : statistic(from));
          }
#pragma unroll
          for (int mask = warp_size / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
          sum += parameter<T>(call.down_bias, first + unit, 0);
          if (lane == 0) hidden[unit] = sum < 0 ? 0 : sum;
        }
        sync_threads();
      }
      if (c >= call.c) continue;
      for (int64_t unit = 0; unit < many; ++unit) {
        logit += parameter<T>(call.up_weight, c * call.hidden + first + unit, 0) * hidden[unit];
      }
    }
    if (c >= call.c) continue;
    const double gate = gated ? 1 / (1 + exp(-logit)) : 1;
    double scale = gate, shift = 0;
    S centre = S(0);
    if (call.norm) {
      scale = gate * parameter<T>(call.norm_weight, c, 1) / sqrt(variance[c] + call.eps);
      centre = static_cast<S>(mean[c]);
      // By the scale as it is stored, so that y at the mean is the bias.
      shift = gate * parameter<T>(call.norm_bias, c, 0) - static_cast<S>(scale) * (mean[c] - centre);
    }
    const int64_t at = blockIdx.x * call.c + c;
    static_cast<S*>(call.scale)[at] = static_cast<S>(scale);
    if (call.centre != nullptr) static_cast<S*>(call.centre)[at] = centre;
    if (call.shift != nullptr) static_cast<S*>(call.shift)[at] = static_cast<S>(shift);
  }
}

template <class T>
int factors_launch(const Factors& call, void* stream) {
  const unsigned blocks = blocks_or_none(static_cast<double>(call.n));
  if (blocks == 0) return invalid_configuration;
  const int64_t kept =
      call.down_weight == nullptr ? 0 : smaller(call.hidden, most_hidden) + (call.c <= most_statistics ? call.c : 0);
  const size_t bytes = static_cast<size_t>(kept) * sizeof(double);
  return LIGHTSR_LAUNCH(factors_kernel<T>, blocks, block_threads, bytes, stream, call);
}

}  // namespace lightsr::norm
