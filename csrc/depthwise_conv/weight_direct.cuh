// The gradient of a depthwise convolution's weights and bias on CUDA cores, for every type, layout, size and dilation.
//
//   grad_weight[i, j] = sum over n, y, x of grad[y, x] x[y + (i - kh/2) dh, x + (j - kw/2) dw],  grad_bias = sum of
//   grad
//
// Floor: that of direct.cuh, for both read as many bytes as the forward pass reads and writes, and multiply as often.
//
// Plan: a block goes through a run of tiles of some channels, x with its halo and grad, brought into shared memory
// dilation undone (tile.cuh). A thread owns a share of the taps, rows x columns of them, as sums in registers, and a
// strip of the tile's pixels 8 columns wide. It goes through the strip's input rows: the window of x that the 8 pixels
// and its tap columns touch comes in once and meets the grad row of each of its tap rows, 8 x rows x columns FMA (216
// for 3 x 9, 392 for 7 x 7) for 10 or 18 16-byte loads. After its last tile the block adds up the threads of a share in
// the order of their strips, writes its part of the workspace [parts, C, kh, kw] (and [parts, C]), and a second kernel
// adds the parts in their order: no atomics, and the same bits in every run.
#pragma once

#include "../common/launch.cuh"
#include "arguments.h"
#include "weight_again.cuh"
#include "weight_plan.h"

namespace lightsr {

// One row of x against one row of grad, for one of the share's tap rows.
template <class Shape, class S>
__device__ __forceinline__ void weight_row(S (&sums)[Shape::columns], const S (&grad)[direct_columns],
                                           const S (&window)[Shape::window]) {
#pragma unroll
  for (int u = 0; u < direct_columns; ++u) {
#pragma unroll
    for (int j = 0; j < Shape::columns; ++j) sums[j] += grad[u] * window[Shape::skip + u + j];
  }
}

// The last rows of grad, one for each of the share's tap rows, stay in registers: the loop's body stands there once for
// each place in that ring.
template <class Shape, class S>
__device__ __forceinline__ void weight_strip_ring(S (&sums)[Shape::rows][Shape::columns], const S* x_row,
                                                  const S* grad_row, const WeightPlan& plan) {
  constexpr int rows = Shape::rows;
  S grad[rows][direct_columns];
#pragma unroll 1
  for (int first = 0; first < plan.strip_rows + rows - 1; first += rows) {
#pragma unroll
    for (int newest = 0; newest < rows; ++newest, x_row += plan.x.pitch, grad_row += plan.grad.pitch) {
      const int row = first + newest;
      if (row >= plan.strip_rows + rows - 1) break;
      if (row < plan.strip_rows) load_run(grad[newest], grad_row);
      S window[Shape::window];
      load_run(window, x_row);
#pragma unroll
      for (int i = 0; i < rows; ++i) {
        if (row < i || row - i >= plan.strip_rows) continue;
        weight_row<Shape>(sums[i], grad[(newest - i + rows) % rows], window);
      }
    }
  }
}

// The same where a ring does not fit the registers: the rows of grad come in again for each tap row.
template <class Shape, class S>
__device__ __forceinline__ void weight_strip(S (&sums)[Shape::rows][Shape::columns], const S* x_row, const S* grad_row,
                                             const WeightPlan& plan) {
#pragma unroll 1
  for (int row = 0; row < plan.strip_rows + Shape::rows - 1; ++row) {
    S window[Shape::window];
    load_run(window, x_row);
#pragma unroll
    for (int i = 0; i < Shape::rows; ++i) {
      if (row < i || row - i >= plan.strip_rows) continue;
      S grad[direct_columns];
      load_run(grad, grad_row - i * plan.grad.pitch);
      weight_row<Shape>(sums[i], grad, window);
    }
    x_row += plan.x.pitch;
    grad_row += plan.grad.pitch;
  }
}

template <class T, class Shape>
__global__ void __launch_bounds__(256, Shape::blocks(sizeof(Sum<T>)))
    weight_direct_parts(const DepthwiseConvWeight call, const WeightPlan plan) {
  using S = Sum<T>;
  constexpr int taps = Shape::rows * Shape::columns;
  S* const x_tiles = shared_memory<S>();
  S* const grad_tiles = x_tiles + plan.slots * plan.x_pitch;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const unsigned slot_block = blockIdx.x % plan.slot_blocks, part = blockIdx.x / plan.slot_blocks;
  const int64_t first_channel = int64_t(slot_block) * plan.slots;

  // Within a share's threads four lanes across, two down: eight lanes of a load fall into different banks.
  const int across = plan.grad.phases * plan.groups, pixels = across * plan.strips;
  const int shares = plan.tap_rows * plan.tap_columns, lanes = pixels * shares;
  const int slot = thread / lanes, share = thread % lanes / pixels, lane = thread % pixels;
  int column = lane % across, strip = lane / across;
  if (across % 4 == 0 && (strip | 1) < plan.strips) {
    const int within = lane % (2 * across);
    column = within / 8 * 4 + within % 4;
    strip = lane / (2 * across) * 2 + within / 4 % 2;
  }
  const bool busy = slot < plan.slots && first_channel + slot < call.c;
  const int phase = column / plan.groups, group = column % plan.groups;
  const int share_row = share / plan.tap_columns * Shape::rows,
            share_column = share % plan.tap_columns * Shape::columns;
  const S* x = x_tiles + slot * plan.x_pitch + (strip * plan.strip_rows + share_row) * plan.x.pitch +
               phase * plan.x.phase_pitch + group * direct_columns + share_column;
  const S* grad = grad_tiles + slot * plan.grad_pitch + strip * plan.strip_rows * plan.grad.pitch +
                  phase * plan.grad.phase_pitch + group * direct_columns;
  S sums[Shape::rows][Shape::columns] = {}, bias = S(0);

  int own;
  const int walker = plan.by_slots.split(thread, own);
  const int slot_step = static_cast<int>(plan.by_slots.by()), walkers = threads / slot_step;
  const int64_t last_tile = plan.tiles * (part + 1) / plan.parts;
  for (int64_t tile = plan.tiles * part / plan.parts; tile < last_tile; ++tile) {
    Corner corner;
    int64_t row_tile;
    int64_t rest = plan.by_column_tiles.split(tile, corner.u);
    rest = plan.by_phase_blocks.split(rest, corner.column_phase);
    rest = plan.by_row_tiles.split(rest, row_tile);
    const int64_t n = plan.by_row_phases.split(rest, corner.row_phase);
    corner.u *= plan.grad.columns;
    corner.column_phase *= plan.grad.phases;
    corner.v = row_tile * plan.grad.rows;
    const Corner around = {corner.v - call.kh / 2, corner.u - plan.margin, corner.row_phase, corner.column_phase};
    for (int each = own; each < plan.slots; each += slot_step) {
      const int64_t channel = first_channel + each;
      if (channel >= call.c) break;
      const int64_t plane =
          call.channels_last ? n * call.h * call.w * call.c + channel : (n * call.c + channel) * call.h * call.w;
      const T* from_x = static_cast<const T*>(call.x) + plane;
      const T* from_grad = static_cast<const T*>(call.grad) + plane;
      S* to_x = x_tiles + each * plan.x_pitch;
      S* to_grad = grad_tiles + each * plan.grad_pitch;
      const Reach reach_x(plan.lattice, around), reach_grad(plan.lattice, corner);
      if (plan.fours) {
        load_fours(to_x, plan.x, from_x, reach_x, walker, walkers);
        load_fours(to_grad, plan.grad, from_grad, reach_grad, walker, walkers);
      } else {
        load_pixels(to_x, plan.x, from_x, reach_x, walker, walkers);
        load_pixels(to_grad, plan.grad, from_grad, reach_grad, walker, walkers);
      }
    }
    copy_commit();
    copy_wait<0>();
    sync_threads();
    if (busy) {
      if constexpr (Shape::ring) {
        weight_strip_ring<Shape>(sums, x, grad, plan);
      } else {
        weight_strip<Shape>(sums, x, grad, plan);
      }
    }
    if (busy && share == 0 && call.grad_bias != nullptr) {
#pragma unroll 1
      for (int row = 0; row < plan.strip_rows; ++row) {
        S some[direct_columns];
        load_run(some, grad + row * plan.grad.pitch);
#pragma unroll
        for (int u = 0; u < direct_columns; ++u) bias += some[u];
      }
    }
    sync_threads();
  }

  // [slot][lane][share][taps], then [slot][lane] for the bias: the tiles are done with.
  S* const results = shared_memory<S>();
  S* const biases = results + plan.slots * lanes * taps;
  if (busy) {
    S* to = results + ((slot * pixels + lane) * shares + share) * taps;
#pragma unroll
    for (int i = 0; i < Shape::rows; ++i) {
#pragma unroll
      for (int j = 0; j < Shape::columns; ++j) to[i * Shape::columns + j] = sums[i][j];
    }
    if (share == 0) biases[slot * pixels + lane] = bias;
  }
  sync_threads();
  S* const workspace = static_cast<S*>(call.workspace) + part * plan.part_size;
  for (int each = 0; each < plan.slots && first_channel + each < call.c; ++each) {
    for (int tap = thread; tap < shares * taps; tap += threads) {
      const int i = tap / taps / plan.tap_columns * Shape::rows + tap % taps / Shape::columns;
      const int j = tap / taps % plan.tap_columns * Shape::columns + tap % taps % Shape::columns;
      if (i >= call.kh || j >= call.kw) continue;
      S sum = S(0);
      for (int from = 0; from < pixels; ++from) sum += results[(each * pixels + from) * shares * taps + tap];
      workspace[((first_channel + each) * call.kh + i) * call.kw + j] = sum;
    }
    if (call.grad_bias != nullptr && thread == 0) {
      S sum = S(0);
      for (int from = 0; from < pixels; ++from) sum += biases[each * pixels + from];
      workspace[call.c * call.kh * call.kw + first_channel + each] = sum;
    }
  }
}

// 32 neighbouring numbers a block; of each, 8 threads add up every eighth part, then the eight in their order.
template <class T>
__global__ void __launch_bounds__(256)
    weight_direct_sum(const DepthwiseConvWeight call, unsigned parts, int64_t part_size) {
  using S = Sum<T>;
  const auto* workspace = static_cast<const S*>(call.workspace);
  S* const sums = shared_memory<S>();
  const unsigned number = threadIdx.x % 32, eighth = threadIdx.x / 32;
  const int64_t at = int64_t(blockIdx.x) * 32 + number, weights = call.c * call.kh * call.kw;
  const bool wanted = at < (call.grad_bias != nullptr ? part_size : weights);
  S sum = S(0);
  if (wanted) {
#pragma unroll 4
    for (unsigned part = eighth; part < parts; part += 8) sum += workspace[part * part_size + at];
  }
  sums[threadIdx.x] = sum;
  sync_threads();
  if (eighth != 0 || !wanted) return;
  for (unsigned other = 1; other < 8; ++other) sum += sums[other * 32 + number];
  const int taps = call.kh * call.kw;
  if (at < weights && !is_finite(sum)) sum = weight_again<T>(call, at / taps, static_cast<int>(at % taps));
  T* const to = static_cast<T*>(at < weights ? call.grad_weight : call.grad_bias);
  to[at < weights ? at : at - weights] = from_sum<T>(sum);
}

// The bytes of workspace where `launch` is false; else launches and gives 0 or the number of an error.
template <class T, class Shape>
int64_t weight_direct_shape(const DepthwiseConvWeight& call, bool launch, void* stream) {
  const WeightPlan plan = weight_plan<T, Shape>(call);
  if (!launch) return plan.parts * plan.part_size * static_cast<int64_t>(sizeof(Sum<T>));
  const unsigned blocks = plan.slot_blocks * plan.parts;
  const int error =
      LIGHTSR_LAUNCH((weight_direct_parts<T, Shape>), blocks, plan.threads, plan.shared_bytes, stream, call, plan);
  if (error != 0) return error;
  const auto blocks_of_32 = static_cast<unsigned>(ceil_div<int64_t>(plan.part_size, 32));
  const size_t bytes = 256 * sizeof(Sum<T>);
  return LIGHTSR_LAUNCH(weight_direct_sum<T>, blocks_of_32, 256, bytes, stream, call, plan.parts, plan.part_size);
}

// For any size: the columns of a share are a multiple of 4 where there is more than one share in a row.
template <class T>
int64_t weight_direct_any(const DepthwiseConvWeight& call, bool launch, void* stream) {
  switch (call.kw % 8) {
    case 1:
      return weight_direct_shape<T, WeightShape<5, 4, direct_skip(1)>>(call, launch, stream);
    case 3:
      return weight_direct_shape<T, WeightShape<5, 4, direct_skip(3)>>(call, launch, stream);
    case 5:
      return weight_direct_shape<T, WeightShape<3, 8, direct_skip(5)>>(call, launch, stream);
    default:
      return weight_direct_shape<T, WeightShape<3, 8, direct_skip(7)>>(call, launch, stream);
  }
}

template <class T>
int64_t weight_direct(const DepthwiseConvWeight& call, bool launch, void* stream) {
  if constexpr (sizeof(T) == 4) {
    switch (call.kw) {
      case 1:
        return weight_direct_shape<T, WeightShape<5, 1, direct_skip(1)>>(call, launch, stream);
      case 3:
        return weight_direct_shape<T, WeightShape<3, 3, direct_skip(3)>>(call, launch, stream);
      case 5:
        return weight_direct_shape<T, WeightShape<5, 5, direct_skip(5)>>(call, launch, stream);
      case 7:
        return weight_direct_shape<T, WeightShape<7, 7, direct_skip(7)>>(call, launch, stream);
      case 9:
        return weight_direct_shape<T, WeightShape<3, 9, direct_skip(1)>>(call, launch, stream);
      case 11:
        return weight_direct_shape<T, WeightShape<4, 11, direct_skip(3)>>(call, launch, stream);
      case 13:
        return weight_direct_shape<T, WeightShape<3, 13, direct_skip(5)>>(call, launch, stream);
      case 15:
        return weight_direct_shape<T, WeightShape<3, 15, direct_skip(7)>>(call, launch, stream);
      case 17:
        return weight_direct_shape<T, WeightShape<2, 17, direct_skip(1)>>(call, launch, stream);
      case 19:
        return weight_direct_shape<T, WeightShape<2, 19, direct_skip(3)>>(call, launch, stream);
      case 21:
        return weight_direct_shape<T, WeightShape<2, 21, direct_skip(5)>>(call, launch, stream);
      case 23:
        return weight_direct_shape<T, WeightShape<2, 23, direct_skip(7)>>(call, launch, stream);
      case 25:
        return weight_direct_shape<T, WeightShape<1, 25, direct_skip(1)>>(call, launch, stream);
      case 27:
        return weight_direct_shape<T, WeightShape<1, 27, direct_skip(3)>>(call, launch, stream);
      case 29:
        return weight_direct_shape<T, WeightShape<1, 29, direct_skip(5)>>(call, launch, stream);
      default:
        return weight_direct_shape<T, WeightShape<1, 31, direct_skip(7)>>(call, launch, stream);
    }
  } else {
    return weight_direct_any<T>(call, launch, stream);
  }
}

}  // namespace lightsr
