// split_distillation's gradients, from its inputs alone: h and d are made again.
//
//   g = grad_distilled; with a gate, s = sigmoid(gate_weight d + gate_bias):
//     logit = g d s (1 - s), grad_gate_weight = logit d', g = g s + gate_weight' logit
//   with a weight, b = weight h + weight_bias: g = g act_distilled'(b), grad_weight = g h', g = weight' g
//   grad_x = (g + grad_remaining) act'(pre), where pre = x + bias + residual; grad_bias its sum over pixels.
//
// Floor: x, residual and both gradients read, grad_x written, once; up to six products of the forward pass's size.
// Bound by memory as that is.
//
// Plan: one pass over the tiles of forward.cuh, in shared memory, 16-bit ones rounded where eager code rounds them. A
// block takes a run of tiles; sums over pixels are products of two tiles along the pixels, which each thread adds to
// its own places of the block's part: in shared memory where it fits, else in the workspace. A second kernel adds the
// parts in their order, in float64: no atomics, and the same bits in every run.
#pragma once

#include "forward.cuh"

namespace lightsr::distillation {

// What the steps of a block share.
template <class T, bool last, class Units>
struct SplitBackward {
  using S = Sum<T>;
  const SplitDistillation& call;
  const SplitPlan& plan;
  const T *weight, *gate;
  T* shared;
  S* sums;
  int split, distilled;

  __device__ __forceinline__ T* at(const Place& place) const { return shared + place.at; }
  __device__ __forceinline__ static int offset(const Place& place, int channel, int pixel) {
    return last ? pixel * place.pitch + channel : channel * place.pitch + pixel;
  }

  // Adds left right' to the sums from `first` on: [rows, columns] of their channels, over the pixels of the tile.
  __device__ __forceinline__ void add_products(int64_t first, const Place& left, int rows, int padded_rows,
                                               const Place& right, int columns, int padded_columns) const {
    if (first < 0) return;
    S* const to = sums + first;
    const auto put = [&](int row, int column, const auto& some) {
      constexpr int many = sizeof(some) / sizeof(S);
      if (row >= rows) return;
#pragma unroll
      for (int i = 0; i < many; ++i) {
        if (column + i < columns) to[int64_t(row) * columns + column + i] += some[i];
      }
    };
    multiply<Units, last, !last>(
        Operands<T>{at(left), left.pitch, at(right), right.pitch, plan.pixels, padded_rows, padded_columns}, put);
  }

  // Adds the pixels of each channel to the sums from `first` on.
  __device__ __forceinline__ void add_pixels(int64_t first, const Place& place, int channels, int count) const {
    if (first < 0) return;
    const T* from = at(place);
    sum_lines<S>(
        channels, count, [&](int channel, int pixel) { return to_sum(from[offset(place, channel, pixel)]); },
        [&](int channel, S sum) { sums[first + channel] += sum; });
  }

  // b and d, of h.
  __device__ __forceinline__ void distil(int count) const {
    const S slope = static_cast<S>(call.negative_slope);
    const auto put = [&](int row, int column, const auto& some) {
      constexpr int many = sizeof(some) / sizeof(S);
      S before[many], d[many];
#pragma unroll
      for (int i = 0; i < many; ++i) {
        const int channel = last ? column + i : row, pixel = last ? row : column + i;
        before[i] = d[i] = S(0);
        if (channel >= distilled || pixel >= count) continue;
        before[i] = some[i] + parameter<T>(call.weight_bias, channel);
        if (plan.gate) d[i] = activate(before[i], call.distilled_activation, slope);
      }
      put_run(at(plan.before) + row * plan.before.pitch + column, before);
      if (plan.gate) put_run(at(plan.d) + row * plan.d.pitch + column, d);
    };
    channel_product<T, last, Units, false>(weight, plan.weight_at.pitch, plan.distilled_padded, plan.split_padded,
                                           at(plan.h), plan.h.pitch, plan.pixels, put);
  }

  // The gate's logit, and what of the gradient goes past it.
  __device__ __forceinline__ void open_gate(int count) const {
    const auto put = [&](int row, int column, const auto& some) {
      constexpr int many = sizeof(some) / sizeof(S);
      S d[many], grad[many], logit[many];
      get_run(at(plan.d) + row * plan.d.pitch + column, d);
      get_run(at(plan.grad) + row * plan.grad.pitch + column, grad);
#pragma unroll
      for (int i = 0; i < many; ++i) {
        const int channel = last ? column + i : row, pixel = last ? row : column + i;
        logit[i] = S(0);
        if (channel >= distilled || pixel >= count) continue;
        const S share = activate(some[i] + parameter<T>(call.gate_bias, channel), Activation::sigmoid, S(0));
        logit[i] = grad[i] * d[i] * (S(1) - share) * share;
        grad[i] *= share;
      }
      put_run(at(plan.logit) + row * plan.logit.pitch + column, logit);
      put_run(at(plan.grad) + row * plan.grad.pitch + column, grad);
    };
    channel_product<T, last, Units, false>(gate, plan.gate_at.pitch, plan.distilled_padded, plan.distilled_padded,
                                           at(plan.d), plan.d.pitch, plan.pixels, put);
  }

  __device__ __forceinline__ void through_gate() const {
    const auto put = [&](int row, int column, const auto& some) {
      constexpr int many = sizeof(some) / sizeof(S);
      T* const to = at(plan.grad) + row * plan.grad.pitch + column;
      S grad[many];
      get_run(to, grad);
#pragma unroll
      for (int i = 0; i < many; ++i) grad[i] += some[i];
      put_run(to, grad);
    };
    channel_product<T, last, Units, true>(gate, plan.gate_at.pitch, plan.distilled_padded, plan.distilled_padded,
                                          at(plan.logit), plan.logit.pitch, plan.pixels, put);
  }

  __device__ __forceinline__ void through_activation(int count) const {
    const S slope = static_cast<S>(call.negative_slope);
    T* const grad = at(plan.grad);
    const T* before = at(plan.before);
    const int rows = last ? count : distilled, columns = last ? distilled : count;
    each_run_of<1>(rows, columns, [&](int row, int column, auto) {
      T& each = grad[row * plan.grad.pitch + column];
      const S x = to_sum(before[row * plan.before.pitch + column]);
      each = from_sum<T>(activation_gradient(to_sum(each), x, call.distilled_activation, slope));
    });
  }

  __device__ __forceinline__ void through_weight() const {
    const auto put = [&](int row, int column, const auto& some) {
      put_run(at(plan.h) + row * plan.h.pitch + column, some);
    };
    channel_product<T, last, Units, true>(weight, plan.weight_at.pitch, plan.distilled_padded, plan.split_padded,
                                          at(plan.grad), plan.grad.pitch, plan.pixels, put);
  }
};

template <class T, bool last, class Units>
__global__ void __launch_bounds__(threads, sizeof(T) == 8 ? 1 : 2)
    split_backward(const SplitDistillationBackward all, const SplitPlan plan) {
  using S = Sum<T>;
  const SplitDistillation& call = all.call;
  T* const shared = shared_memory<T>();
  S* const part = static_cast<S*>(all.workspace) + (plan.part_size > 0 ? blockIdx.x * plan.part_size : 0);
  S* const sums = plan.sums_at >= 0 ? shared_memory<S>() + plan.sums_at : part;
  const int split = static_cast<int>(call.split), distilled = static_cast<int>(call.distilled);
  const int c = static_cast<int>(call.c), rest = call.whole ? c : c - split, rest_from = call.whole ? 0 : split;
  const S slope = static_cast<S>(call.negative_slope);
  const bool products = plan.weight || plan.gate;
  const bool pictures = all.grad_x != nullptr || all.grad_residual != nullptr || all.grad_bias != nullptr;

  for (int64_t i = threadIdx.x; i < plan.part_size; i += threads) sums[i] = S(0);
  const T *weight = nullptr, *gate = nullptr;
  if (plan.weight) {
    weight = load_weights<T, Units>(shared, plan.weight_at, call.weight, distilled, split, plan.distilled_padded,
                                    plan.split_padded, plan.weight_bytes);
  }
  if (plan.gate) {
    gate = load_weights<T, Units>(shared, plan.gate_at, call.gate_weight, distilled, distilled, plan.distilled_padded,
                                  plan.distilled_padded, plan.gate_bytes);
  }
  const SplitBackward<T, last, Units> steps{call, plan, weight, gate, shared, sums, split, distilled};
  T *const pre = shared + plan.pre.at, *const h = shared + plan.h.at, *const grad = shared + plan.grad.at;

  const int64_t tiles = call.n * plan.tiles, end = tiles * (blockIdx.x + 1) / gridDim.x;
#pragma unroll 1
  for (int64_t tile = tiles * blockIdx.x / gridDim.x; tile < end; ++tile) {
    sync_threads();
    const Pixels pixels = block_pixels(call, plan, tile);
    const int count = pixels.count;
    const T* from = dense_at<const T, last>(call, const_cast<void*>(all.grad_distilled), distilled, pixels);
    load_tile(grad, plan.grad.pitch, from, last ? distilled : call.pixels, last ? count : distilled,
              last ? distilled : count, plan.distilled_bytes);
    copy_commit();
    clear_around(grad, plan.grad.pitch, last ? count : distilled, last ? distilled : count,
                 last ? plan.pixels : plan.distilled_padded, last ? plan.distilled_padded : plan.pixels);
    const T *x = slice_at<T, last>(call.x, pixels), *residual = slice_at<T, last>(call.residual, pixels);
    const int rows = last ? count : c, columns = last ? c : count;
    each_run<T>(rows, columns, plan.bytes, [&](int row, int column, auto number) {
      constexpr int many = decltype(number)::value;
      S values[many];
      get_pre<T, last>(call, x, residual, row, column, values);
      put_run(pre + row * plan.pre.pitch + column, values);
      if (!products || (last ? column : row) >= split) return;
      activate_run(values, call.activation, slope);
      put_run(h + row * plan.h.pitch + column, values);
    });
    clear_around(h, plan.h.pitch, last ? count : split, last ? split : count, last ? plan.pixels : plan.split_padded,
                 last ? plan.split_padded : plan.pixels);
    copy_wait<0>();
    sync_threads();

    if (plan.weight && (plan.gate || call.distilled_activation != Activation::none)) {
      steps.distil(count);
      sync_threads();
    }
    if (plan.gate) {
      steps.open_gate(count);
      sync_threads();
      steps.add_products(plan.gate_sums, plan.logit, distilled, plan.distilled_padded, plan.d, distilled,
                         plan.distilled_padded);
      steps.add_pixels(plan.gate_bias_sums, plan.logit, distilled, count);
      steps.through_gate();
      sync_threads();
    }
    if (plan.weight) {
      if (call.distilled_activation != Activation::none) {
        steps.through_activation(count);
        sync_threads();
      }
      steps.add_products(plan.weight_sums, plan.grad, distilled, plan.distilled_padded, plan.h, split,
                         plan.split_padded);
      steps.add_pixels(plan.weight_bias_sums, plan.grad, distilled, count);
      sync_threads();
      if (pictures) {
        steps.through_weight();
        sync_threads();
      }
    }
    if (!pictures) continue;

    const Place& back_at = plan.weight ? plan.h : plan.grad;
    const T *back = shared + back_at.at,
            *rest_grad = dense_at<const T, last>(call, const_cast<void*>(all.grad_remaining), rest, pixels);
    T* const grad_x = dense_at<T, last>(call, all.grad_x, c, pixels);
    T* const grad_residual = dense_at<T, last>(call, all.grad_residual, c, pixels);
    const int64_t step = last ? c : call.pixels, rest_step = last ? rest : call.pixels;
    each_run<T>(rows, columns, plan.bytes, [&](int row, int column, auto number) {
      constexpr int many = decltype(number)::value;
      S values[many], before[many], more[many];
      const int channel = last ? column : row;
#pragma unroll
      for (int i = 0; i < many; ++i) values[i] = S(0);
      if (channel < split) get_run(back + row * back_at.pitch + column, values);
      if (channel >= rest_from && rest_grad != nullptr) {
        get_run(rest_grad + (last ? row : row - rest_from) * rest_step + (last ? column - rest_from : column), more);
#pragma unroll
        for (int i = 0; i < many; ++i) values[i] += more[i];
      }
      get_run(pre + row * plan.pre.pitch + column, before);
      activation_gradient_run(values, before, call.activation, slope);
      if (grad_x != nullptr) put_run(grad_x + row * step + column, values);
      if (grad_residual != nullptr) put_run(grad_residual + row * step + column, values);
      if (plan.bias_sums >= 0) put_run(pre + row * plan.pre.pitch + column, values);
    });
    if (plan.bias_sums >= 0) {
      sync_threads();
      steps.add_pixels(plan.bias_sums, plan.pre, c, count);
    }
  }
  if (plan.sums_at < 0) return;
  sync_threads();
  for (int64_t i = threadIdx.x; i < plan.part_size; i += threads) part[i] = sums[i];
}

// 32 neighbouring numbers a block; of each, 8 threads add up every eighth part, then the eight in their order.
template <class T>
__global__ void __launch_bounds__(threads)
    split_sums(const SplitDistillationBackward all, const SplitPlan plan, unsigned parts) {
  const auto* workspace = static_cast<const Sum<T>*>(all.workspace);
  auto* const sums = shared_memory<double>();
  const unsigned number = threadIdx.x % 32, eighth = threadIdx.x / 32;
  const int64_t at = int64_t(blockIdx.x) * 32 + number;
  double sum = 0;
  if (at < plan.part_size) {
#pragma unroll 4
    for (unsigned part = eighth; part < parts; part += 8) sum += double(workspace[part * plan.part_size + at]);
  }
  sums[threadIdx.x] = sum;
  sync_threads();
  if (eighth != 0 || at >= plan.part_size) return;
  for (unsigned other = 1; other < 8; ++other) sum += sums[other * 32 + number];
  const auto put = [&](int64_t first, void* to) {
    if (first < 0 || at < first) return false;
    static_cast<T*>(to)[at - first] = from_sum<T>(static_cast<Sum<T>>(sum));
    return true;
  };
  // The last of the groups that begin before it.
  put(plan.bias_sums, all.grad_bias) || put(plan.gate_bias_sums, all.grad_gate_bias) ||
      put(plan.gate_sums, all.grad_gate_weight) || put(plan.weight_bias_sums, all.grad_weight_bias) ||
      put(plan.weight_sums, all.grad_weight);
}

}  // namespace lightsr::distillation
