// split_distillation's forward pass: bias, residual, activation, split, and what happens to the distilled part.
//
// Floor: x and residual read, both results written, once: sizeof(T) (C (1 + residual) + D + remaining) bytes a pixel,
// and D (split + D) FMA: bound by memory ((1, 64, 180, 320) with 16 of 64 channels and a residual, 16-bit: 22 MB, 4.6
// us on an H200), in float32 too (1.9 GFLOP at D = split = 16: 0.5 us).
//
// Plan: a block takes all channels of up to 128 neighbouring pixels, in one pass. A thread takes 16 bytes of x and
// residual, makes h in registers and stores what remains at once; what is distilled goes into shared memory as operand
// of the products: weight h, activated, is the operand of the gate's; the result goes out by 16 bytes. In NCHW rows of
// a tile are channels and columns are pixels, in channels_last rows are pixels: a tile lies in shared memory as in the
// picture. The matrices come in by asynchronous copies while h is made. Where they and the tiles do not fit, the same
// kernel runs with PlainProduct: few pixels, matrices read where they are. No block depends on another.
#pragma once

#include "../common/activation.cuh"
#include "plan.cuh"

namespace lightsr::distillation {

// The tile of a block: where it starts and how many pixels of it are there.
struct Pixels {
  int64_t picture, first;
  int count;
};

__device__ __forceinline__ Pixels block_pixels(const SplitDistillation& call, const SplitPlan& plan, int64_t tile) {
  const int64_t picture = tile / plan.tiles, first = tile % plan.tiles * plan.pixels;
  return {picture, first, static_cast<int>(smaller<int64_t>(plan.pixels, call.pixels - first))};
}

// A slice's first number of these pixels, and that of a dense picture of so many channels.
template <class T, bool last>
__device__ __forceinline__ const T* slice_at(const Slice& slice, const Pixels& pixels) {
  if (slice.data == nullptr) return nullptr;
  return static_cast<const T*>(slice.data) + pixels.picture * slice.picture + pixels.first * (last ? slice.step : 1);
}

template <class T, bool last>
__device__ __forceinline__ T* dense_at(const SplitDistillation& call, void* data, int64_t channels,
                                       const Pixels& pixels) {
  if (data == nullptr) return nullptr;
  return static_cast<T*>(data) + pixels.picture * channels * call.pixels + pixels.first * (last ? channels : 1);
}

template <class T>
__device__ __forceinline__ Sum<T> parameter(const void* from, int channel) {
  return from != nullptr ? to_sum(static_cast<const T*>(from)[channel]) : Sum<T>(0);
}

// x + bias + residual, a run of a tile's row.
template <class T, bool last, int many>
__device__ __forceinline__ void get_pre(const SplitDistillation& call, const T* x, const T* residual, int row,
                                        int column, Sum<T> (&to)[many]) {
  get_run(x + row * call.x.step + column, to);
  if (call.bias != nullptr) {
#pragma unroll
    for (int i = 0; i < many; ++i) to[i] += parameter<T>(call.bias, last ? column + i : row);
  }
  if (call.residual.data == nullptr) return;
  Sum<T> more[many];
  get_run(residual + row * call.residual.step + column, more);
#pragma unroll
  for (int i = 0; i < many; ++i) to[i] += more[i];
}

// A matrix with zeros around it up to whole units, or where it is.
template <class T, class Units>
__device__ __forceinline__ const T* load_weights(T* shared, const Place& place, const void* weight, int64_t rows,
                                                 int64_t columns, int padded_rows, int padded_columns, int bytes) {
  const T* from = static_cast<const T*>(weight);
  if constexpr (is_plain<Units>()) return from;
  T* to = shared + place.at;
  load_tile(to, place.pitch, from, columns, int(rows), int(columns), bytes);
  clear_around(to, place.pitch, int(rows), int(columns), padded_rows, padded_columns);
  return to;
}

// weight tile, or where `back` the turned weight's: `weight` is [rows, columns] as it stands, `put` gets (row, column,
// sums) of the resulting tile.
template <class T, bool last, class Units, bool back, class Put>
__device__ __forceinline__ void channel_product(const T* weight, int weight_pitch, int rows, int columns, const T* tile,
                                                int tile_pitch, int pixels, const Put& put) {
  const int outs = back ? columns : rows, ins = back ? rows : columns;
  if constexpr (last) {
    multiply<Units, false, !back>(Operands<T>{tile, tile_pitch, weight, weight_pitch, ins, pixels, outs}, put);
  } else {
    multiply<Units, back, false>(Operands<T>{weight, weight_pitch, tile, tile_pitch, ins, outs, pixels}, put);
  }
}

template <class T, bool last, class Units>
__global__ void __launch_bounds__(threads) split_forward(const SplitDistillation call, const SplitPlan plan) {
  using S = Sum<T>;
  T* const shared = shared_memory<T>();
  const Pixels pixels = block_pixels(call, plan, blockIdx.x);
  const int split = static_cast<int>(call.split), distilled = static_cast<int>(call.distilled);
  const int c = static_cast<int>(call.c), rest = call.whole ? c : c - split, rest_from = call.whole ? 0 : split;
  const S slope = static_cast<S>(call.negative_slope);
  const bool products = plan.weight || plan.gate;
  T* const h = shared + plan.h.at;

  const T *weight = nullptr, *gate = nullptr;
  if (plan.weight) {
    weight = load_weights<T, Units>(shared, plan.weight_at, call.weight, distilled, split, plan.distilled_padded,
                                    plan.split_padded, plan.weight_bytes);
  }
  if (plan.gate) {
    gate = load_weights<T, Units>(shared, plan.gate_at, call.gate_weight, distilled, distilled, plan.distilled_padded,
                                  plan.distilled_padded, plan.gate_bytes);
  }
  if (products) copy_commit();

  const T *x = slice_at<T, last>(call.x, pixels), *residual = slice_at<T, last>(call.residual, pixels);
  T* const remaining = dense_at<T, last>(call, call.remaining, rest, pixels);
  T* const out = dense_at<T, last>(call, call.distilled_out, distilled, pixels);
  const int64_t rest_step = last ? rest : call.pixels, out_step = last ? distilled : call.pixels;
  const auto make = [&](int row, int column, auto count) {
    constexpr int many = decltype(count)::value;
    S values[many];
    get_pre<T, last>(call, x, residual, row, column, values);
    activate_run(values, call.activation, slope);
    const int channel = last ? column : row;
    if (channel < split) {
      if (products) {
        put_run(h + row * plan.h.pitch + column, values);
      } else {
        put_run(out + row * out_step + column, values);
      }
    }
    if (channel >= rest_from && remaining != nullptr) {
      put_run(remaining + (last ? row : row - rest_from) * rest_step + (last ? column - rest_from : column), values);
    }
  };
  each_run<T>(last ? pixels.count : c, last ? c : pixels.count, plan.bytes, make);
  if (!products) return;
  clear_tile(h, plan.h.pitch, last ? 0 : split, last ? plan.pixels : plan.split_padded, last ? split : 0,
             last ? plan.split_padded : plan.pixels);
  copy_wait<0>();
  sync_threads();

  T *const d = shared + plan.d.at, *const result = shared + plan.result.at;
  if (plan.weight) {
    const auto put = [&](int row, int column, const auto& sums) {
      constexpr int many = sizeof(sums) / sizeof(S);
      S values[many];
#pragma unroll
      for (int i = 0; i < many; ++i) {
        const int channel = last ? column + i : row;
        values[i] = S(0);  // beyond the channels: it goes into the second product
        if (channel >= distilled) continue;
        values[i] = activate(sums[i] + parameter<T>(call.weight_bias, channel), call.distilled_activation, slope);
      }
      put_run(d + row * plan.d.pitch + column, values);
    };
    channel_product<T, last, Units, false>(weight, plan.weight_at.pitch, plan.distilled_padded, plan.split_padded, h,
                                           plan.h.pitch, plan.pixels, put);
    sync_threads();
  }
  if (plan.gate) {
    const auto put = [&](int row, int column, const auto& sums) {
      constexpr int many = sizeof(sums) / sizeof(S);
      S values[many];
      get_run(d + row * plan.d.pitch + column, values);
#pragma unroll
      for (int i = 0; i < many; ++i) {
        const int channel = last ? column + i : row;
        if (channel >= distilled) continue;
        values[i] *= activate(sums[i] + parameter<T>(call.gate_bias, channel), Activation::sigmoid, S(0));
      }
      put_run(result + row * plan.result.pitch + column, values);
    };
    channel_product<T, last, Units, false>(gate, plan.gate_at.pitch, plan.distilled_padded, plan.distilled_padded, d,
                                           plan.d.pitch, plan.pixels, put);
    sync_threads();
  }
  store_tile(out, out_step, result, plan.result.pitch, last ? pixels.count : distilled, last ? distilled : pixels.count,
             plan.distilled_bytes);
}

}  // namespace lightsr::distillation
