// The gate of a tile of pixels: sigmoid(conv(pooled, weight)), from 2 maps to 1, K x K.
//
// Plan: the block brings the tile of both maps with K / 2 pixels around it, zeros outside the picture, into shared
// memory, and the filter. A thread makes four neighbouring pixels and slides along the 2 K rows of taps: two loads for
// four multiply-adds. Where a tile has fewer fours than the block has threads, groups of threads share out the rows of
// taps and add up in shared memory, in their order. Filters so wide that this does not fit read the maps where they
// lie.
#pragma once

#include "../common/activation.cuh"
#include "every_number.cuh"

namespace lightsr::norm {

struct GatePlan {
  bool staged;
  int k, groups;
  int pitch, plane;  // numbers from row to row and from map to map
  size_t shared_bytes;
};

// In shared memory: the gates [pixels], then [groups, pixels] sums, the filter [2, k, k] and the tile [2, rows, pitch].
template <class S>
GatePlan gate_plan(const EveryPlan& tile, int k) {
  constexpr int64_t limit = 96 * 1024;
  GatePlan plan{};
  plan.k = k;
  plan.groups = larger(1, smaller(block_threads * 4 / tile.pixels, 2 * k));
  const int64_t pitch = (int64_t(tile.columns) + k - 1) | 1;  // rows begin in different banks
  const int64_t plane = (tile.pixels / tile.columns + k - 1) * pitch;
  const int64_t numbers = (1 + plan.groups) * int64_t(tile.pixels) + 2 * int64_t(k) * k + 2 * plane;
  plan.staged = numbers * static_cast<int64_t>(sizeof(S)) <= limit;
  plan.pitch = plan.staged ? static_cast<int>(pitch) : 0, plan.plane = plan.staged ? static_cast<int>(plane) : 0;
  plan.shared_bytes = sizeof(S) * static_cast<size_t>(plan.staged ? numbers : tile.pixels);
  return plan;
}

// What comes before the sigmoid, for every pixel of the tile, into `sums` [groups, pixels].
template <class S>
__device__ __forceinline__ void gate_sums(S* sums, const S* filter, const S* maps, const EveryPlan& tile,
                                          const GatePlan& plan) {
  const int quads = tile.pixels / 4, k = plan.k;
  for (int item = static_cast<int>(threadIdx.x); item < quads * plan.groups; item += block_threads) {
    const int p = item % quads * 4, group = item / quads;
    const S* const corner = maps + (p >> tile.column_bits) * plan.pitch + (p & (tile.columns - 1));
    S four[4] = {};
    for (int row = group; row < 2 * k; row += plan.groups) {
      const S* from = corner + (row < k ? row * plan.pitch : plan.plane + (row - k) * plan.pitch);
      const S* const weights = filter + row * k;
      S a = from[0], b = from[1], c = from[2];
      from += 3;
#pragma unroll 4
      for (int j = 0; j < k; ++j) {
        const S d = from[j], weight = weights[j];
        four[0] += weight * a, four[1] += weight * b, four[2] += weight * c, four[3] += weight * d;
        a = b, b = c, c = d;
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[group * tile.pixels + p + i] = four[i];
  }
}

// The same number for one pixel, from where the maps lie.
template <class T>
__device__ __forceinline__ Sum<T> gate_sum_far(const GatedAffine& call, const Sum<T>* maps, int64_t pixel) {
  using S = Sum<T>;
  const int64_t y = pixel / call.w, x = pixel % call.w, reach = call.k / 2;
  const int64_t top = larger<int64_t>(0, y - reach), bottom = smaller(call.h - 1, y + reach);
  const int64_t left = larger<int64_t>(0, x - reach), right = smaller(call.w - 1, x + reach);
  const T* const filter = static_cast<const T*>(call.spatial_weight);
  S sum = S(0);
  for (int map = 0; map < 2; ++map) {
    for (int64_t v = top; v <= bottom; ++v) {
      const T* const weights = filter + (map * call.k + v - y + reach) * call.k + reach - x;
      const S* const from = maps + (map * call.h + v) * call.w;
      for (int64_t u = left; u <= right; ++u) sum += to_sum(weights[u]) * from[u];
    }
  }
  return sum;
}

// Into `gates` [pixels] of shared memory, for the whole block, and where `write` says so into the picture's.
template <class T>
__device__ __forceinline__ void gate_map(Sum<T>* gates, const GatedAffine& call, const EveryPlan& tile,
                                         const GatePlan& plan, const EveryPlace& place, bool write) {
  using S = Sum<T>;
  S *const sums = gates + tile.pixels, *const filter = sums + plan.groups * tile.pixels;
  S* const maps = filter + 2 * plan.k * plan.k;
  const int thread = static_cast<int>(threadIdx.x);
  const S* const pooled = static_cast<const S*>(call.pooled) + 2 * place.n * call.h * call.w;
  if (plan.staged) {
    for (int i = thread; i < 2 * plan.k * plan.k; i += block_threads) {
      filter[i] = to_sum(static_cast<const T*>(call.spatial_weight)[i]);
    }
    const int across = tile.columns + plan.k - 1, rows = plan.plane / plan.pitch;
    for (int i = thread; i < 2 * rows * across; i += block_threads) {
      const int line = i / across, column = i % across, map = line < rows ? 0 : 1, row = line - map * rows;
      const int64_t y = place.y - plan.k / 2 + row, x = place.x - plan.k / 2 + column;
      const bool inside = y >= 0 && y < call.h && x >= 0 && x < call.w;
      maps[map * plan.plane + row * plan.pitch + column] = inside ? pooled[(map * call.h + y) * call.w + x] : S(0);
    }
    sync_threads();
    gate_sums(sums, filter, maps, tile, plan);
    sync_threads();
  }
  for (int p = thread; p < tile.pixels; p += block_threads) {
    const int64_t pixel = place.pixel(tile, p);
    if (pixel < 0) continue;
    S sum;
    if (plan.staged) {
      sum = sums[p];
      for (int group = 1; group < plan.groups; ++group) sum += sums[group * tile.pixels + p];
    } else {
      sum = gate_sum_far<T>(call, pooled, pixel);
    }
    const S gate = S(1) / (S(1) + exponential(-sum));
    gates[p] = gate;
    if (write) static_cast<S*>(call.gate)[place.n * call.h * call.w + pixel] = gate;
  }
  sync_threads();
}

}  // namespace lightsr::norm
