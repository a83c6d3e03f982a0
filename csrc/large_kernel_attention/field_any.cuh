// Both depthwise convolutions in one pass, for filters of any size: the plan is that of field.cuh, but a thread makes 4
// rows, `dilation` apart, of 4 columns, a quarter of the tile apart, so that neighbouring lanes read neighbouring
// numbers. Four loads of the picture and up to four of the filter make up to 16 FMA.
#pragma once

#include "field.cuh"

namespace lightsr::attention {

template <class S>
struct FieldFilter {
  const S* taps;
  int kh, kw, dilation;
  S bias;
};

// Convolves `rows` x `columns` numbers out of a tile that begins with what the first tap of the first one meets; gives
// each to `put` as (row, column, sum).
template <class S, class Put>
__device__ __forceinline__ void field_convolve(const S* tile, int pitch, const FieldFilter<S>& filter, int rows,
                                               int columns, const Put& put) {
  const int dilation = filter.dilation, quarter = ceil_div(columns, 4),
            last_row = rows - 1 + (filter.kh - 1) * dilation;
  const int items = ceil_div(rows, 4 * dilation) * dilation * quarter;
#pragma unroll 1
  for (int item = static_cast<int>(threadIdx.x); item < items; item += static_cast<int>(blockDim.x)) {
    const int group = item / quarter, top = group / dilation * 4 * dilation + group % dilation;
    int column[4];
    S sums[4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      column[i] = smaller(item % quarter + i * quarter, columns - 1);
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[i][j] = filter.bias;
    }
#pragma unroll 1
    for (int row = 0; row < filter.kh + 3; ++row) {
      if (top + row * dilation > last_row) break;
      const S* from = tile + (top + row * dilation) * pitch;
#pragma unroll 1
      for (int tap = 0; tap < filter.kw; ++tap) {
        S values[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) values[j] = from[column[j] + tap * dilation];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int tap_row = row - i;
          if (tap_row >= 0 && tap_row < filter.kh) {
            const S weight = filter.taps[tap_row * filter.kw + tap];
#pragma unroll
            for (int j = 0; j < 4; ++j) sums[i][j] += weight * values[j];
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const bool real = top + i * dilation < rows && item % quarter + j * quarter < columns;
        if (real) put(top + i * dilation, column[j], sums[i][j]);
      }
    }
  }
}

template <class T>
__global__ void __launch_bounds__(256) field_any(const LargeKernelAttention call, const FieldPlan plan) {
  using S = Sum<T>;
  S* const x = shared_memory<S>();
  S* const between = x + plan.x_rows * plan.x_pitch;
  S *const near = between + plan.between_rows * plan.between_pitch, *const far = near + call.kh1 * call.kw1;
  const FieldPlace place = field_place(call, plan);
  field_load<T>(x, call, plan, place);
  copy_commit();
  field_weights<T>(near, call.weight1, place.channel, call.kh1, call.kw1, call.kw1);
  field_weights<T>(far, call.weight2, place.channel, call.kh2, call.kw2, call.kw2);
  copy_wait<0>();
  sync_threads();

  const FieldFilter<S> filter1 = {near, call.kh1, call.kw1, 1, field_bias<T>(call.bias1, place.channel)};
  const int64_t y = place.y - plan.above, z = place.x - plan.left;
  field_convolve(x + plan.first, plan.x_pitch, filter1, plan.rows + 2 * plan.above, plan.columns + 2 * plan.left,
                 [&](int row, int column, S sum) {
                   const bool inside = y + row >= 0 && y + row < call.h && z + column >= 0 && z + column < call.w;
                   between[row * plan.between_pitch + column] = inside ? sum : S(0);
                 });
  sync_threads();

  const int dilation = call.kh2 * call.kw2 == 1 ? 1 : static_cast<int>(call.dilation);
  const FieldFilter<S> filter2 = {far, call.kh2, call.kw2, dilation, field_bias<T>(call.bias2, place.channel)};
  T* const t = static_cast<T*>(call.workspace) + place.plane * call.h * call.w;
  field_convolve(between, plan.between_pitch, filter2, plan.rows, plan.columns, [&](int row, int column, S sum) {
    const int64_t to_y = place.y + row, to_x = place.x + column;
    if (to_y < call.h && to_x < call.w) t[to_y * call.w + to_x] = from_sum<T>(sum);
  });
}

template <class T>
int field_launch(const LargeKernelAttention& call, const FieldPlan& plan, void* stream) {
  if (plan.fixed) {
    return LIGHTSR_LAUNCH(field_fixed<T>, plan.blocks, plan.threads, plan.shared_bytes, stream, call, plan);
  }
  return LIGHTSR_LAUNCH(field_any<T>, plan.blocks, plan.threads, plan.shared_bytes, stream, call, plan);
}

}  // namespace lightsr::attention
