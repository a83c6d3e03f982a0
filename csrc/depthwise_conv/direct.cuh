// Depthwise convolution on CUDA cores, for every type, layout, size and dilation.
//
//   out[y, x] = act(sum over i, j of weight[i, j] x[y + (i - kh/2) dh, x + (j - kw/2) dw] + bias) gate + residual
//
// Floor: 2 kh kw operations a number against 2 sizeof(T) bytes: float32 waits for memory up to k = 7 and for the FMA
// units from k = 9 on ((1, 64, 360, 640) on an H200: 25 us of memory; 22, 53, 127, 424 us of FMA for k = 7, 11, 17,
// 31).
//
// Plan: a block brings a tile of its planes, with the halo, into shared memory as sums' type, dilation undone
// (tile.cuh). A thread makes 5 rows x 8 columns. It goes through the 5 + kh - 1 input rows, and in each through the
// taps by 8 and a tail: 16 or 20 input columns come in by 16-byte loads, and for each of its 5 rows that the input row
// touches 8 taps by loads that all lanes share: 320 FMA for some 14 loads. Registers depend on neither kh nor kw. Eight
// lanes of a load, four across and two down, fall into different banks, since 5 rows are an odd number of 16 bytes. The
// results go out by 16 bytes where rows allow it; else, as channels_last and dilation need, back through shared memory,
// so that neighbouring lanes write neighbouring addresses. No block depends on another; plane offsets are 64 bits wide.
#pragma once

#include "../common/activation.cuh"
#include "../common/launch.cuh"
#include "arguments.h"
#include "direct_plan.h"

namespace lightsr {

// Where a slot's plane begins, in elements of x and out, and which channel it is; channel -1 past the last plane.
struct DirectPlane {
  int64_t offset, row_phase, channel;
};

__host__ __device__ inline DirectPlane direct_plane(const DepthwiseConv& call, const DirectPlan& plan, int64_t block,
                                                    int slot) {
  DirectPlane plane;
  if (call.channels_last) {
    int64_t channel_block;
    const int64_t rest = plan.by_channels.split(block, channel_block);
    plane.channel = channel_block * plan.slots + slot;
    plane.offset = plan.by_row_phases.split(rest, plane.row_phase) * call.h * call.w * call.c + plane.channel;
    if (plane.channel >= call.c) plane.channel = -1;
    return plane;
  }
  const int64_t number = plan.by_row_phases.split(block * plan.slots + slot, plane.row_phase);
  plane.offset = number * call.h * call.w;
  plan.by_channels.split(number, plane.channel);
  if (number >= call.n * call.c) plane.channel = -1;
  return plane;
}

// Adds `taps` taps of an input row to the rows of sums that it touches; `weights` are those of the filter's row of the
// same number, which may lie past its last.
template <int taps, int tail, int weight_pitch, class S>
__device__ __forceinline__ void direct_taps(S (&sums)[direct_rows][direct_columns], const S* row, const S* weights,
                                            int input_row, int kh) {
  constexpr int skip = direct_skip(tail), wide = direct_window(taps, tail), padded = round_up(taps, 4);
  S window[wide];
  load_run(window, row);
#pragma unroll
  for (int out_row = 0; out_row < direct_rows; ++out_row) {
    const int tap_row = input_row - out_row;
    if (tap_row >= 0 && tap_row < kh) {
      S tap[padded];
      load_run(tap, weights - out_row * weight_pitch);
#pragma unroll
      for (int j = 0; j < taps; ++j) {
#pragma unroll
        for (int x = 0; x < direct_columns; ++x) sums[out_row][x] += tap[j] * window[skip + j + x];
      }
    }
  }
}

// Finishes `many` neighbouring results, of which the first lies at out[at].
template <class T, int many>
__device__ __forceinline__ void direct_finish(const DepthwiseConv& call, Sum<T> (&sums)[many], Sum<T> bias,
                                              int64_t at) {
  const auto slope = static_cast<Sum<T>>(call.negative_slope);
  T *const out = static_cast<T*>(call.out) + at, results[many];
#pragma unroll
  for (int i = 0; i < many; ++i) sums[i] += bias;
  if (call.activation != Activation::none) {
#pragma unroll 1
    for (int i = 0; i < many; ++i) {  // one copy of the activations' code: the numbers go round in a ring
      const Sum<T> first = activate(sums[0], call.activation, slope);
#pragma unroll
      for (int j = 1; j < many; ++j) sums[j - 1] = sums[j];
      sums[many - 1] = first;
    }
  }
#pragma unroll
  for (int i = 0; i < many; ++i) {
    if (call.gate != nullptr) sums[i] *= to_sum(static_cast<const T*>(call.gate)[at + i]);
    if (call.residual != nullptr) sums[i] += to_sum(static_cast<const T*>(call.residual)[at + i]);
    results[i] = from_sum<T>(sums[i]);
  }
  if constexpr (many == 4) {
    store_four(out, results);
  } else {
    out[0] = results[0];
  }
}

// Who a thread is: for moving, the `own`-th of the slots and every `slot_step`-th after it, one of `walkers`; for the
// sums, in `slot` the thread of 5 rows and 8 columns at (row, column), the latter the `group` of a column phase.
struct DirectThread {
  int own, slot_step, walker, walkers;
  int slot, row, column, phase, group;

  __device__ explicit DirectThread(const DirectPlan& plan) {
    const int thread = static_cast<int>(threadIdx.x);
    // In channels_last neighbouring threads move neighbouring channels; else all move one plane after another.
    walker = plan.by_slots.split(thread, own);
    slot_step = static_cast<int>(plan.by_slots.by());
    walkers = static_cast<int>(blockDim.x) / slot_step;
    int lane;
    slot = plan.by_lanes.split(thread, lane);
    row = plan.by_across.split(lane, column);
    const int across = static_cast<int>(plan.by_across.by());
    if (across % 4 == 0 && (row | 1) < plan.thread_rows) {  // four lanes across, two down, and so on, for the banks
      row &= ~1;
      const int within = lane - row * across;
      column = within / 8 * 4 + within % 4;
      row += within / 4 % 2;
    }
    phase = plan.by_groups.split(column, group);
  }
};

template <class T>
__device__ __forceinline__ void direct_load(Sum<T>* tiles, const DepthwiseConv& call, const DirectPlan& plan,
                                            const DirectThread& me, int slot_block, const Corner& corner) {
  for (int slot = me.own; slot < plan.slots; slot += me.slot_step) {
    const DirectPlane plane = direct_plane(call, plan, slot_block, slot);
    if (plane.channel < 0) break;
    const Corner first = {corner.v - call.kh / 2, corner.u - plan.margin, plane.row_phase, corner.column_phase};
    const Reach reach(plan.lattice, first);
    const T* from = static_cast<const T*>(call.x) + plane.offset;
    Sum<T>* tile = tiles + slot * plan.plane_pitch;
    if (plan.fours_in) {
      load_fours(tile, plan.tile, from, reach, me.walker, me.walkers);
    } else {
      load_pixels(tile, plan.tile, from, reach, me.walker, me.walkers);
    }
  }
}

template <class T>
__device__ __forceinline__ void direct_weights(Sum<T>* weights, const DepthwiseConv& call, const DirectPlan& plan,
                                               int slot_block, int kw) {
  const int taps = call.kh * kw;
  for (int slot = 0; slot < plan.slots; ++slot) {
    const int64_t channel = direct_plane(call, plan, slot_block, slot).channel;
    if (channel < 0) break;
    const T* from = static_cast<const T*>(call.weight) + channel * taps;
    Sum<T>* to = weights + slot * plan.weight_rows * plan.weight_pitch;
    for (int tap = static_cast<int>(threadIdx.x); tap < taps; tap += static_cast<int>(blockDim.x)) {
      to[tap / kw * plan.weight_pitch + tap % kw] = to_sum(from[call.flip ? taps - 1 - tap : tap]);
    }
  }
}

template <class T>
__device__ __forceinline__ Sum<T> direct_bias(const DepthwiseConv& call, int64_t channel) {
  return call.bias != nullptr ? to_sum(static_cast<const T*>(call.bias)[channel]) : Sum<T>(0);
}

// The results straight from the registers, with nothing but a bias to be added.
template <class T>
__device__ __forceinline__ void direct_store(const Sum<T> (&sums)[direct_rows][direct_columns],
                                             const DepthwiseConv& call, const DirectPlan& plan,
                                             const DirectPlane& plane, const Corner& corner) {
  const Sum<T> bias = direct_bias<T>(call, plane.channel);
  const Reach reach(plan.lattice, corner);
#pragma unroll
  for (int row = 0; row < direct_rows; ++row) {
#pragma unroll
    for (int x = 0; x < direct_columns; x += 4) {
      if (!reach.inside(row, x, 0)) continue;
      T four[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) four[i] = from_sum<T>(sums[row][x + i] + bias);
      store_four(static_cast<T*>(call.out) + plane.offset + reach.place(row, x, 0), four);
    }
  }
}

// The results that the block has put where its tiles were.
template <class T>
__device__ __forceinline__ void direct_finish_tiles(const Sum<T>* tiles, const DepthwiseConv& call,
                                                    const DirectPlan& plan, const DirectThread& me, int slot_block,
                                                    Corner corner) {
  const int rows = plan.thread_rows * direct_rows, columns = plan.groups * direct_columns;
  for (int slot = me.own; slot < plan.slots; slot += me.slot_step) {
    const DirectPlane plane = direct_plane(call, plan, slot_block, slot);
    if (plane.channel < 0) break;
    const Sum<T> bias = direct_bias<T>(call, plane.channel);
    const Sum<T>* results = tiles + slot * plan.plane_pitch;
    corner.row_phase = plane.row_phase;
    const Reach reach(plan.lattice, corner);
    if (plan.fours_out) {
#pragma unroll 1
      for (Walk at(rows, columns / 4, 1, me.walker, me.walkers); at.inside(); at.next()) {
        if (!reach.inside(at.row, 4 * at.u, 0)) continue;
        Sum<T> four[4];
        load_run(four, results + at.row * plan.tile.pitch + 4 * at.u);
        direct_finish<T>(call, four, bias, plane.offset + reach.place(at.row, 4 * at.u, 0));
      }
    } else {
#pragma unroll 1
      for (Walk at(rows, columns, plan.tile.phases, me.walker, me.walkers); at.inside(); at.next()) {
        if (!reach.inside(at.row, at.u, at.phase)) continue;
        Sum<T> one[1] = {results[at.row * plan.tile.pitch + at.phase * plan.tile.phase_pitch + at.u]};
        direct_finish<T>(call, one, bias, plane.offset + reach.place(at.row, at.u, at.phase));
      }
    }
  }
}

// tail: kw mod 8. chunks: kw / 8, or -1 to take the plan's.
template <class T, int chunks, int tail>
__global__ void __launch_bounds__(256, sizeof(Sum<T>) < 8 ? 2 : 1)
    direct_forward(const DepthwiseConv call, const DirectPlan plan) {
  using S = Sum<T>;
  S* const tiles = shared_memory<S>();
  S* const weights = tiles + plan.slots * plan.plane_pitch;
  int slot_block, row_tile, phase_block, column_tile;
  int rest = plan.by_slot_blocks.split(static_cast<int>(blockIdx.x), slot_block);
  rest = plan.by_column_tiles.split(rest, column_tile);
  rest = plan.by_phase_blocks.split(rest, phase_block);
  rest = plan.by_row_tiles.split(rest, row_tile);
  if (!call.channels_last) slot_block = rest;
  const Corner corner = {int64_t(row_tile) * (plan.thread_rows * direct_rows),
                         int64_t(column_tile) * (plan.groups * direct_columns), 0,
                         int64_t(phase_block) * plan.tile.phases};
  const DirectThread me(plan);
  direct_load<T>(tiles, call, plan, me, slot_block, corner);
  copy_commit();
  direct_weights<T>(weights, call, plan, slot_block, chunks >= 0 ? 8 * chunks + tail : call.kw);
  copy_wait<0>();
  sync_threads();

  const DirectPlane plane = direct_plane(call, plan, slot_block, me.slot < plan.slots ? me.slot : 0);
  const bool busy = me.slot < plan.slots && plane.channel >= 0;
  S* const place = tiles + me.slot * plan.plane_pitch + me.row * direct_rows * plan.tile.pitch +
                   me.phase * plan.tile.phase_pitch + me.group * direct_columns;
  S sums[direct_rows][direct_columns] = {};
  if (busy) {
    const S *input = place, *taps = weights + me.slot * plan.weight_rows * plan.weight_pitch;
    const int many = chunks >= 0 ? chunks : plan.chunks;
    constexpr int pitch = direct_weight_pitch(chunks, tail);
#pragma unroll 1
    for (int input_row = 0; input_row < direct_rows + call.kh - 1; ++input_row) {
      if constexpr (chunks == 1) {
        direct_taps<8, tail, pitch>(sums, input, taps, input_row, call.kh);
      } else if constexpr (chunks < 0) {
#pragma unroll 1
        for (int chunk = 0; chunk < many; ++chunk) {
          direct_taps<8, tail, pitch>(sums, input + 8 * chunk, taps + 8 * chunk, input_row, call.kh);
        }
      }
      direct_taps<tail, tail, pitch>(sums, input + 8 * many, taps + 8 * many, input_row, call.kh);
      input += plan.tile.pitch;
      taps += pitch;
    }
  }

  if (plan.from_registers) {
    const Corner mine = {corner.v + me.row * direct_rows, corner.u + me.column * direct_columns, plane.row_phase, 0};
    if (busy) direct_store<T>(sums, call, plan, plane, mine);
    return;
  }
  sync_threads();
  if (busy) {
#pragma unroll
    for (int row = 0; row < direct_rows; ++row) store_run(place + row * plan.tile.pitch, sums[row]);
  }
  sync_threads();
  direct_finish_tiles<T>(tiles, call, plan, me, slot_block, corner);
}

template <class T, int chunks>
int direct_launch(const DepthwiseConv& call, const DirectPlan& plan, void* stream) {
  const int tail = call.kw % 8;
  const auto kernel = tail == 1   ? direct_forward<T, chunks, 1>
                      : tail == 3 ? direct_forward<T, chunks, 3>
                      : tail == 5 ? direct_forward<T, chunks, 5>
                                  : direct_forward<T, chunks, 7>;
  return LIGHTSR_LAUNCH(kernel, plan.blocks, plan.threads, plan.shared_bytes, stream, call, plan);
}

}  // namespace lightsr
