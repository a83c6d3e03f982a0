// The 1x1 convolutions of large_kernel_attention on a block of pixels, as matrix products with what comes after them.
//
// A tile of sums stays in registers: 8 rows x 3 vectors (4 rows where there are 16 registers); each step adds one
// number of each row, spread, times one vector of each column group. In NCHW rows are output channels and columns
// pixels, in channels_last rows are pixels and columns output channels, so results are stored as they lie in memory in
// both. The bound is C multiply-adds a result; 11 loads for 24 of them. The sums pass through a tile in the L1 cache on
// their way to the bias, the gate and the rounding.
#pragma once

#include "cpu_field.h"

namespace lightsr::attention {

constexpr int mix_rows = level::registers >= 32 ? 8 : 4;
constexpr int mix_vectors = 3;

// sum over k of rows(r, k) columns(k, c), rows(r, k) at data + r * row + k * step, columns(k, c) at data + k * step +
// c.
template <class S>
struct Product {
  const S* rows;
  int64_t row, row_step;
  const S* columns;
  int64_t column_step;
  int64_t depth;
};

// What becomes of the sums s: (s + bias) * gate + residual; gate, residual and out lie `step` numbers a row apart.
template <class T, class S>
struct Finish {
  const S* bias;  // or null; one for each row, or one for each column
  bool bias_by_row;
  const T* gate;      // or null
  const T* residual;  // or null
  int64_t step;
  T* out;  // or null, and then the result goes here:
  S* block;
  int64_t block_step;
};

template <class S, int rows, int vectors>
__attribute__((noinline)) void mix_tile(const Product<S>& product, int64_t row, int64_t column, S* tile) {
  Vec<S> sums[rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[r][v] = Vec<S>::fill(0);
  }
  const S* a = product.rows + row * product.row;
  const S* b = product.columns + column;
  const int64_t next = product.row;
  for (int64_t k = product.depth; k > 0; --k, a += product.row_step, b += product.column_step) {
    Vec<S> values[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      values[v] = Vec<S>::load(b + v * Vec<S>::size).kept();
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const Vec<S> number = Vec<S>::fill(a[r * next]).kept();
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[r][v] = fma(number, values[v], sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[r][v].store(tile + (r * vectors + v) * Vec<S>::size);
  }
}

// One vector of the sums, or its first `part` numbers.
template <class T, class S, class... Part>
inline void finish_vector(const Finish<T, S>& finish, Vec<S> value, int64_t row, int64_t column, Part... part) {
  const int64_t at = row * finish.step + column;
  if (finish.bias) {
    value = value + (finish.bias_by_row ? Vec<S>::fill(finish.bias[row]) : Vec<S>::load(finish.bias + column, part...));
  }
  if (finish.gate) value = value * Vec<S>::load(finish.gate + at, part...);
  if (finish.residual) value = value + Vec<S>::load(finish.residual + at, part...);
  if (finish.out) {
    value.store(finish.out + at, part...);
  } else {
    value.store(finish.block + row * finish.block_step + column, part...);
  }
}

// Rows from `row` on, `many` of them, and columns from `column` on, `count` of them, of the sums in `tile`.
template <class T, class S>
void finish_tile(const Finish<T, S> finish, const S* tile, int64_t row, int64_t many, int64_t column, int64_t count,
                 int vectors) {
  constexpr int size = Vec<S>::size;
  for (int64_t r = 0; r < many; ++r, tile += vectors * size) {
    int64_t done = 0;
    for (; done + size <= count; done += size) finish_vector(finish, Vec<S>::load(tile + done), row + r, column + done);
    if (done == count) continue;
    const int part = static_cast<int>(count - done);
    finish_vector(finish, Vec<S>::load(tile + done), row + r, column + done, part);
  }
}

// Reads as many rows and columns more as fill the last tile; whatever is there does not get into a result.
template <class T, class S>
void multiply(const Product<S>& product, const Finish<T, S>& finish, int64_t rows, int64_t columns) {
  constexpr int size = Vec<S>::size;
  alignas(64) S tile[mix_rows * mix_vectors * size];
  const int64_t vectors = (columns + size - 1) / size, groups = (vectors + mix_vectors - 1) / mix_vectors;
  for (int64_t row = 0; row < rows; row += mix_rows) {
    const int64_t many = std::min<int64_t>(mix_rows, rows - row);
    const bool half = many <= mix_rows / 2;
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t begin = vectors * group / groups, end = vectors * (group + 1) / groups, column = begin * size;
      const int wide = static_cast<int>(end - begin);
      // clang-format off
      switch (2 * wide + half) {
        case 2: mix_tile<S, mix_rows, 1>(product, row, column, tile); break;
        case 3: mix_tile<S, mix_rows / 2, 1>(product, row, column, tile); break;
        case 4: mix_tile<S, mix_rows, 2>(product, row, column, tile); break;
        case 5: mix_tile<S, mix_rows / 2, 2>(product, row, column, tile); break;
        case 6: mix_tile<S, mix_rows, 3>(product, row, column, tile); break;
        case 7: mix_tile<S, mix_rows / 2, 3>(product, row, column, tile); break;
      }
      // clang-format on
      finish_tile(finish, tile, row, many, column, std::min(columns, end * size) - column, wide);
    }
  }
}

}  // namespace lightsr::attention
