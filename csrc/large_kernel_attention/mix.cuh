// The 1x1 convolutions of large_kernel_attention, the gate between them and the residual, in one pass:
//
//   y = x (mix_weight t + mix_bias), out = out_weight y + out_bias + residual, or y + residual.
//
// Floor: t, x, residual read and out written, 4 sizeof(T) bytes a number, against 2 C FMA a number: bound by memory for
// 16-bit types on tensor cores ((1, 64, 360, 640) on an H200: 27 us), even for float32 (55 us of both at C = 64).
//
// Plan: a block takes all channels of up to 128 neighbouring pixels. The tiles of t, x and residual and both matrices
// come into shared memory by asynchronous copies, the last two while the first product is under way. y is written over
// x, where the second product reads it, and out over t; from there it goes out by 16 bytes, as the tiles came in. In
// NCHW rows of the products are channels and columns are pixels, in channels_last rows are pixels and columns channels:
// a tile lies in shared memory as it does in the picture. Where two matrices are too much, the second one takes the
// first one's place; where C is too much for that, mix_part.cuh takes two launches. No block depends on another.
#pragma once

#include <initializer_list>

#include "../common/block_tile.cuh"
#include "../common/launch.cuh"
#include "../common/product.cuh"
#include "arguments.h"

namespace lightsr::attention {

struct MixPlan {
  int pixels;         // a block's
  int padded, depth;  // channels, up to whole units of the product's rows or columns and of its depth
  int rows, columns;  // of a tile, whole units
  int pitch, tile;    // of a tile: from row to row; numbers in all
  int weight_pitch, weight;
  bool both;     // matrices at once
  bool vectors;  // pictures by 16 bytes
  bool weight_vectors;
  unsigned tiles, blocks, threads;  // tiles of one picture
  size_t shared_bytes;              // 0: it does not fit
};

template <class T>
MixPlan mix_plan(const LargeKernelAttention& call) {
  using Units = Product<T>;
  constexpr int64_t limit = 160 * 1024;
  MixPlan plan{};
  if (call.c > 1024) return plan;
  const bool last = call.channels_last;
  const int c = static_cast<int>(call.c), unit = last ? Units::columns : Units::rows;
  const int64_t area = call.h * call.w;
  plan.depth = round_up(c, Units::step);
  plan.padded = round_up(c, larger(unit, Units::step));
  plan.weight_pitch = odd_row<T>(plan.depth);
  plan.weight = plan.padded * plan.weight_pitch;
  const int weights = call.out_weight != nullptr ? 2 : 1, tiles = call.residual != nullptr ? 3 : 2;
  // As many pixels as fit and still give each multiprocessor a block.
  for (plan.pixels = sizeof(T) == 2 ? 128 : 64; plan.pixels >= 32; plan.pixels /= 2) {
    plan.rows = last ? plan.pixels : plan.padded;
    plan.columns = last ? plan.padded : plan.pixels;
    plan.pitch = odd_row<T>(plan.columns);
    plan.tile = plan.rows * plan.pitch;
    const double blocks = double(call.n) * double(ceil_div<int64_t>(area, plan.pixels));
    for (const int kept : {weights, 1}) {
      const int64_t bytes = (int64_t(tiles) * plan.tile + int64_t(kept) * plan.weight) * int64_t(sizeof(T));
      if (bytes > limit || blocks >= 2147483648.0) continue;
      plan.both = kept == weights;
      plan.shared_bytes = static_cast<size_t>(bytes);
      plan.blocks = static_cast<unsigned>(blocks);
      plan.tiles = static_cast<unsigned>(ceil_div<int64_t>(area, plan.pixels));
      break;
    }
    if (plan.shared_bytes != 0 && (blocks >= multiprocessors() || plan.pixels == 32)) break;
  }
  if (plan.pixels < 32) plan.pixels = 32;
  const int items = plan.rows / Units::rows * (plan.columns / Units::columns) * Units::lanes;
  plan.threads = static_cast<unsigned>(smaller(256, round_up(items, 32)));
  const int64_t bytes = (last ? call.c : area) * int64_t(sizeof(T));
  plan.vectors = bytes % 16 == 0 && at_16(call.x) && at_16(call.residual) && at_16(call.out) && at_16(call.workspace);
  plan.weight_vectors = call.c * int64_t(sizeof(T)) % 16 == 0 && at_16(call.mix_weight) && at_16(call.out_weight);
  return plan;
}

// The bytes of a run.
template <class T>
__device__ __forceinline__ int mix_run(bool vectors) {
  return vectors ? 16 : static_cast<int>(sizeof(T));
}

// A matrix with zeros around it up to whole units.
template <class T>
__device__ __forceinline__ void mix_weights(T* to, const MixPlan& plan, const void* weight, int c) {
  load_tile(to, plan.weight_pitch, static_cast<const T*>(weight), c, c, c, mix_run<T>(plan.weight_vectors));
  clear_around(to, plan.weight_pitch, c, c, plan.padded, plan.depth);
}

// All items of one product; `put` gets the sums as (row, column, sums).
template <class T, bool last, class Put>
__device__ __forceinline__ void mix_multiply(const MixPlan& plan, const T* weight, const T* picture, const Put& put) {
  const Operands<T> from =
      last ? Operands<T>{picture, plan.pitch, weight, plan.weight_pitch, plan.depth, plan.rows, plan.columns}
           : Operands<T>{weight, plan.weight_pitch, picture, plan.pitch, plan.depth, plan.rows, plan.columns};
  multiply<Product<T>, false, last>(from, put);
}

template <class T>
__device__ __forceinline__ Sum<T> mix_bias(const void* bias, int channel) {
  return bias != nullptr ? to_sum(static_cast<const T*>(bias)[channel]) : Sum<T>(0);
}

// The numbers of a tile and its residual on their way through a product, by runs of neighbours.
template <class T, bool last>
struct MixFinish {
  const MixPlan& plan;
  const void* bias;
  int c;
  const T* gate;      // or null
  const T* residual;  // or null
  T* to;              // may be the gate

  template <class S, int many>
  __device__ __forceinline__ void operator()(int row, int column, const S (&sums)[many]) const {
    const int at = row * plan.pitch + column;
    S factor[many], addend[many], results[many];
    if (gate != nullptr) get_run(gate + at, factor);
    if (residual != nullptr) get_run(residual + at, addend);
#pragma unroll
    for (int i = 0; i < many; ++i) {
      const int channel = last ? column + i : row;
      results[i] = sums[i] + (channel < c ? mix_bias<T>(bias, channel) : S(0));
      if (gate != nullptr) results[i] *= factor[i];
      if (residual != nullptr) results[i] += addend[i];
      if (channel >= c) results[i] = S(0);  // what is beyond the channels goes into the second product
    }
    put_run(to + at, results);
  }
};

template <class T, bool last>
__global__ void __launch_bounds__(256, sizeof(T) == 8 ? 1 : 2)
    mix_whole(const LargeKernelAttention call, const MixPlan plan) {
  T* const t = shared_memory<T>();
  T* const x = t + plan.tile;
  T* const residual = call.residual != nullptr ? x + plan.tile : nullptr;
  T* const weight1 = x + (residual != nullptr ? 2 : 1) * plan.tile;
  const bool second = call.out_weight != nullptr, both = second && plan.both;
  T* const weight2 = both ? weight1 + plan.weight : weight1;

  const int c = static_cast<int>(call.c);
  const int64_t area = call.h * call.w, picture = blockIdx.x / plan.tiles;
  const int64_t pixel = int64_t(blockIdx.x % plan.tiles) * plan.pixels;
  const int count = static_cast<int>(smaller<int64_t>(plan.pixels, area - pixel));
  const int64_t step = last ? call.c : area, start = picture * call.c * area + (last ? pixel * call.c : pixel);
  const int rows = last ? count : c, columns = last ? c : count;
  const auto load = [&](T* tile, const void* from) {
    load_tile(tile, plan.pitch, static_cast<const T*>(from) + start, step, rows, columns, mix_run<T>(plan.vectors));
  };
  load(t, call.workspace);
  load(x, call.x);
  mix_weights(weight1, plan, call.mix_weight, c);
  if (last) {
    clear_tile(t, plan.pitch, 0, plan.rows, c, plan.depth);
  } else {
    clear_tile(t, plan.pitch, c, plan.depth, 0, plan.columns);
  }
  copy_commit();
  if (residual != nullptr) load(residual, call.residual);
  if (both) mix_weights(weight2, plan, call.out_weight, c);
  copy_commit();
  if (second) {
    copy_wait<1>();
  } else {
    copy_wait<0>();
  }
  sync_threads();

  mix_multiply<T, last>(plan, weight1, t,
                        MixFinish<T, last>{plan, call.mix_bias, c, x, second ? nullptr : residual, x});
  copy_wait<0>();
  sync_threads();
  if (second) {
    if (!both) {
      mix_weights(weight2, plan, call.out_weight, c);
      copy_commit();
      copy_wait<0>();
      sync_threads();
    }
    mix_multiply<T, last>(plan, weight2, x, MixFinish<T, last>{plan, call.out_bias, c, nullptr, residual, t});
    sync_threads();
  }

  store_tile(static_cast<T*>(call.out) + start, step, second ? t : x, plan.pitch, rows, columns,
             mix_run<T>(plan.vectors));
}

}  // namespace lightsr::attention
