// Both depthwise convolutions of large_kernel_attention in one pass over NCHW planes:
//
//   t = conv(conv(x, weight1) + bias1, weight2, dilation) + bias2, what lies between zero outside the picture.
//
// Floor: kh1 kw1 + kh2 kw2 FMA a number against 2 sizeof(T) bytes: bound by the FMA units ((1, 64, 360, 640), 5 x 5 and
// 7 x 7: 33 us of FMA on an H200; 14 us of memory for 16-bit types, 27 us for float32; two passes would move 27 and
// 55).
//
// Plan: a block makes a tile of one plane. It brings the pixels that the tile sees, 11 more on each side for 5 x 5 and
// 7 x 7 with dilation 3, into shared memory in sums' type, makes there what lies between the convolutions, 9 more on
// each side, and from that its part of t. At 60 x 64 the near convolution is made 1.8 times, 95 FMA a number in all.
// A thread makes 5 rows x 8 columns of either; the rows of the far one lie `dilation` apart. For each input row it has
// 16 or 28 columns in registers and for each of the 5 rows a row of the filter by loads that all lanes share: 280 FMA
// for 17 loads. Eight lanes of a load, four across and two down, fall into different banks: the two begin an odd number
// of rows apart, and a row is an odd number of 16 bytes. Other sizes go by field_any: 4 x 4 numbers a thread, each load
// of the picture used 4 times; where the halo is too much for that too, cuda.cu takes two passes.
#pragma once

#include "../common/launch.cuh"
#include "../depthwise_conv/tile.cuh"
#include "arguments.h"

namespace lightsr::attention {

struct FieldPlan {
  bool fixed;         // 5 x 5, then 7 x 7 with dilation 3
  bool fours;         // x and t by four numbers at once
  int rows, columns;  // of t, that a block makes
  int above, left;    // of t, that the far convolution sees beyond, and that is made between
  int above1, left1;  // and the near one beyond that
  int first;          // columns of the x tile before the first one needed, so that it begins at a multiple of 4
  int x_pitch, x_rows, x_columns, between_pitch, between_rows;
  unsigned row_tiles, column_tiles, blocks, threads;
  size_t shared_bytes;  // 0: the tile does not fit, or its halo is too much
};

constexpr int field_tile_rows = 5, field_tile_columns = 8;  // of a thread, where the sizes are known

template <class S>
constexpr int odd_pitch(int columns) {
  constexpr int by = 16 / static_cast<int>(sizeof(S));
  return (ceil_div(columns, by) | 1) * by;
}

template <class T>
FieldPlan field_plan(const LargeKernelAttention& call) {
  using S = Sum<T>;
  constexpr int64_t limit = 100 * 1024;
  FieldPlan plan{};
  const int64_t above = call.kh2 / 2 * call.dilation, left = call.kw2 / 2 * call.dilation;
  if (larger(above, left) > 64) return plan;
  plan.above = static_cast<int>(above), plan.left = static_cast<int>(left);
  plan.above1 = call.kh1 / 2, plan.left1 = call.kw1 / 2;
  plan.fixed = call.kh1 == 5 && call.kw1 == 5 && call.kh2 == 7 && call.kw2 == 7 && call.dilation == 3;
  const int row_unit = plan.fixed ? 3 * field_tile_rows : 4;
  const int most_rows = plan.fixed ? (sizeof(S) == 8 ? 45 : 60) : 48, most_columns = sizeof(S) == 8 ? 32 : 64;
  const auto cut = [](int64_t length, int most, int unit) {  // evenly, by whole units
    const int64_t tiles = ceil_div<int64_t>(length, most);
    return static_cast<int>(round_up<int64_t>(ceil_div(length, tiles), unit));
  };
  plan.rows = cut(call.h, most_rows, row_unit);
  plan.columns = cut(call.w, most_columns, 8);
  plan.first = (4 - (plan.left + plan.left1) % 4) % 4;
  const int between_columns = plan.columns + 2 * plan.left;
  plan.between_rows = plan.rows + 2 * plan.above;
  plan.x_columns = round_up(plan.first + between_columns + 2 * plan.left1, 4);
  int items;
  if (plan.fixed) {
    const int groups = ceil_div(between_columns, 8);
    plan.x_pitch = odd_pitch<S>(larger(8 * (groups - 1) + 16, plan.x_columns));
    plan.between_pitch = odd_pitch<S>(larger(8 * groups, plan.columns - 8 + 28));
    plan.between_rows = round_up(plan.between_rows, field_tile_rows);
    items = round_up(plan.columns / 8, 4) * round_up(plan.rows / field_tile_rows, 2);
  } else {
    plan.x_pitch = odd_pitch<S>(plan.x_columns);
    plan.between_pitch = odd_pitch<S>(between_columns);
    items = plan.rows / 4 * (plan.columns / 4);
  }
  plan.x_rows = plan.between_rows + 2 * plan.above1;
  plan.threads = static_cast<unsigned>(smaller(256, round_up(items, 32)));
  const int64_t numbers = int64_t(plan.x_rows) * plan.x_pitch + int64_t(plan.between_rows) * plan.between_pitch +
                          (plan.fixed ? 5 * 8 + 7 * 8 : call.kh1 * call.kw1 + call.kh2 * call.kw2);
  const int64_t bytes = numbers * static_cast<int64_t>(sizeof(S));
  const int64_t work = int64_t(plan.between_rows) * between_columns * call.kh1 * call.kw1;
  const int64_t needed = int64_t(plan.rows) * plan.columns * (call.kh1 * call.kw1 + call.kh2 * call.kw2);
  plan.row_tiles = static_cast<unsigned>(ceil_div<int64_t>(call.h, plan.rows));
  plan.column_tiles = static_cast<unsigned>(ceil_div<int64_t>(call.w, plan.columns));
  const double blocks = double(call.n) * double(call.c) * plan.row_tiles * plan.column_tiles;
  plan.blocks = blocks < 2147483648.0 ? static_cast<unsigned>(blocks) : 0;
  plan.fours = call.w % 4 == 0 && aligned_by_fours<T>(call.x) && aligned_by_fours<T>(call.workspace);
  if (bytes <= limit && work <= 2 * needed && plan.blocks != 0) plan.shared_bytes = static_cast<size_t>(bytes);
  return plan;
}

// A tile's place, the same for all threads of a block.
struct FieldPlace {
  int64_t plane, channel;
  int64_t y, x;  // the first row and column of t
};

__device__ __forceinline__ FieldPlace field_place(const LargeKernelAttention& call, const FieldPlan& plan) {
  unsigned rest = blockIdx.x;
  FieldPlace place;
  place.x = int64_t(rest % plan.column_tiles) * plan.columns;
  rest /= plan.column_tiles;
  place.y = int64_t(rest % plan.row_tiles) * plan.rows;
  place.plane = rest / plan.row_tiles;
  place.channel = place.plane % call.c;
  return place;
}

template <class T>
__device__ __forceinline__ void field_load(Sum<T>* tile, const LargeKernelAttention& call, const FieldPlan& plan,
                                           const FieldPlace& place) {
  const T* plane = static_cast<const T*>(call.x) + place.plane * call.h * call.w;
  const int64_t y = place.y - plan.above - plan.above1, x = place.x - plan.left - plan.left1 - plan.first;
  const int by = plan.fours ? 4 : 1, across = plan.x_columns / by, step = static_cast<int>(blockDim.x);
  const int rows = plan.rows + 2 * (plan.above + plan.above1);
  int row = static_cast<int>(threadIdx.x) / across, column = static_cast<int>(threadIdx.x) % across;
  const int row_step = step / across, column_step = step % across;
  while (row < rows) {
    const int64_t from_y = y + row, from_x = x + column * by;
    const bool real = from_y >= 0 && from_y < call.h && from_x >= 0 && from_x < call.w;
    const T* from = real ? plane + from_y * call.w + from_x : plane;
    Sum<T>* to = tile + row * plan.x_pitch + column * by;
    if (plan.fours) {
      copy_four(to, from, real);
    } else {
      copy_number(to, from, real);
    }
    row += row_step, column += column_step;
    if (column >= across) column -= across, ++row;
  }
}

// A filter into shared memory, its rows `pitch` apart.
template <class T>
__device__ __forceinline__ void field_weights(Sum<T>* to, const void* weight, int64_t channel, int kh, int kw,
                                              int pitch) {
  const T* from = static_cast<const T*>(weight) + channel * kh * kw;
  for (int tap = static_cast<int>(threadIdx.x); tap < kh * kw; tap += static_cast<int>(blockDim.x)) {
    to[tap / kw * pitch + tap % kw] = to_sum(from[tap]);
  }
}

template <class T>
__device__ __forceinline__ Sum<T> field_bias(const void* bias, int64_t channel) {
  return bias != nullptr ? to_sum(static_cast<const T*>(bias)[channel]) : Sum<T>(0);
}

template <class S>
__device__ __forceinline__ void field_begin(S (&sums)[field_tile_rows][field_tile_columns], S bias) {
#pragma unroll
  for (int i = 0; i < field_tile_rows; ++i) {
#pragma unroll
    for (int j = 0; j < field_tile_columns; ++j) sums[i][j] = bias;
  }
}

// Adds the k taps that lie on one input row, the first `skip` numbers on, to the rows of sums that it touches.
template <int k, int dilation, int skip, class S>
__device__ __forceinline__ void field_taps(S (&sums)[field_tile_rows][field_tile_columns], const S* row,
                                           const S* weights, int input_row) {
  constexpr int by = 16 / sizeof(S), wide = round_up(skip + field_tile_columns + (k - 1) * dilation, by);
  S window[wide];
#pragma unroll
  for (int i = 0; i < wide; i += by) {
    const auto some = load_vector<by>(row + i);
#pragma unroll
    for (int j = 0; j < by; ++j) window[i + j] = some[j];
  }
#pragma unroll
  for (int i = 0; i < field_tile_rows; ++i) {
    const int tap_row = input_row - i;
    if (tap_row >= 0 && tap_row < k) {
      S tap[8];
#pragma unroll
      for (int j = 0; j < round_up(k, by); j += by) {
        const auto some = load_vector<by>(weights + tap_row * 8 + j);
#pragma unroll
        for (int l = 0; l < by; ++l) tap[j + l] = some[l];
      }
#pragma unroll
      for (int j = 0; j < k; ++j) {
#pragma unroll
        for (int x = 0; x < field_tile_columns; ++x) sums[i][x] += tap[j] * window[skip + j * dilation + x];
      }
    }
  }
}

// Which of a tile's row groups and column groups is item `item`: four across, two down, then on across.
struct FieldItem {
  __device__ FieldItem(int item, int quads)
      : column(item / 8 % quads * 4 + item % 4), row(item / 8 / quads * 2 + item % 8 / 4) {}
  int column, row;
};

// Stores eight results of a row of t, those that lie in the picture.
template <class T>
__device__ __forceinline__ void field_store(const LargeKernelAttention& call, bool fours, const FieldPlace& place,
                                            int row, int column, const Sum<T> (&sums)[field_tile_columns]) {
  const int64_t y = place.y + row, x = place.x + column;
  if (y >= call.h) return;
  T* to = static_cast<T*>(call.workspace) + (place.plane * call.h + y) * call.w + x;
#pragma unroll
  for (int i = 0; i < field_tile_columns; i += 4) {
    if (fours) {
      T four[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) four[j] = from_sum<T>(sums[i + j]);
      if (x + i < call.w) store_four(to + i, four);
    } else {
#pragma unroll
      for (int j = i; j < i + 4; ++j) {
        if (x + j < call.w) to[j] = from_sum<T>(sums[j]);
      }
    }
  }
}

// 5 x 5, then 7 x 7 with dilation 3.
template <class T>
__global__ void __launch_bounds__(128) field_fixed(const LargeKernelAttention call, const FieldPlan plan) {
  using S = Sum<T>;
  S* const x = shared_memory<S>();
  S* const between = x + plan.x_rows * plan.x_pitch;
  S *const near = between + plan.between_rows * plan.between_pitch, *const far = near + 5 * 8;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const FieldPlace place = field_place(call, plan);
  field_load<T>(x, call, plan, place);
  copy_commit();
  field_weights<T>(near, call.weight1, place.channel, 5, 5, 8);
  field_weights<T>(far, call.weight2, place.channel, 7, 7, 8);
  copy_wait<0>();
  sync_threads();

  const int groups = (plan.columns + 18 + 7) / 8, quads = (groups + 3) / 4;
  const int row_groups = plan.between_rows / field_tile_rows;
  const S bias1 = field_bias<T>(call.bias1, place.channel);
  for (int item = thread; item < quads * round_up(row_groups, 2) * 4; item += threads) {
    const FieldItem at(item, quads);
    if (at.column >= groups || at.row >= row_groups) continue;
    const int top = field_tile_rows * at.row, column = field_tile_columns * at.column;
    S sums[field_tile_rows][field_tile_columns];
    field_begin(sums, bias1);
#pragma unroll 1
    for (int row = 0; row < field_tile_rows + 4; ++row) {
      field_taps<5, 1, 1>(sums, x + (top + row) * plan.x_pitch + column, near, row);
    }
#pragma unroll
    for (int i = 0; i < field_tile_rows; ++i) {
      const int64_t y = place.y - 9 + top + i;
#pragma unroll
      for (int j = 0; j < field_tile_columns; ++j) {
        const int64_t z = place.x - 9 + column + j;
        const bool inside = y >= 0 && y < call.h && z >= 0 && z < call.w;
        sums[i][j] = inside ? sums[i][j] : S(0);
      }
      constexpr int by = 16 / sizeof(S);
#pragma unroll
      for (int j = 0; j < field_tile_columns; j += by) {
        Vector<S, by> some;
#pragma unroll
        for (int l = 0; l < by; ++l) some[l] = sums[i][j + l];
        store_vector(between + (top + i) * plan.between_pitch + column + j, some);
      }
    }
  }
  sync_threads();

  const int far_quads = (plan.columns / 8 + 3) / 4, far_groups = plan.rows / field_tile_rows;
  const S bias2 = field_bias<T>(call.bias2, place.channel);
  for (int item = thread; item < far_quads * round_up(far_groups, 2) * 4; item += threads) {
    const FieldItem at(item, far_quads);
    if (at.column >= plan.columns / 8 || at.row >= far_groups) continue;
    const int top = at.row / 3 * (3 * field_tile_rows) + at.row % 3, column = field_tile_columns * at.column;
    S sums[field_tile_rows][field_tile_columns];
    field_begin(sums, bias2);
#pragma unroll 1
    for (int row = 0; row < field_tile_rows + 6; ++row) {
      field_taps<7, 3, 0>(sums, between + (top + 3 * row) * plan.between_pitch + column, far, row);
    }
#pragma unroll
    for (int i = 0; i < field_tile_rows; ++i) field_store<T>(call, plan.fours, place, top + 3 * i, column, sums[i]);
  }
}

}  // namespace lightsr::attention
