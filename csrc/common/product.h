// Matrix products in registers, for the CPU's 1x1 convolutions on blocks of pixels.
//
// A tile of sums stays in registers: 8 rows x 3 vectors, for some callers 6 or 9 (4 where there are 16 registers); each
// step adds one number of each row, spread, times one vector of each column group. In NCHW rows are output channels and
// columns pixels, in channels_last rows are pixels and columns output channels, so results are stored as they lie in
// memory in both. The bound is one multiply-add for each step of the depth; 11 loads for 24 of them. Sums of which
// something becomes pass through a tile in the L1 cache on their way. With Pair for numbers a step is two bfloat16
// products. Products leave the memory idle, so each step may ask for a cache line of what is read after them.
#pragma once

#include <algorithm>
#include <type_traits>

#include "simd.h"

namespace lightsr {

constexpr int product_rows = level::registers >= 32 ? 8 : 4;
constexpr int product_vectors = 3;

// sum over k of rows(r, k) columns(k, c), rows(r, k) at data + r * row + k * row_step, columns(k, c) at
// data + k * column_step + c.
template <class E>
struct Product {
  const E* rows;
  int64_t row, row_step;
  const E* columns;
  int64_t column_step;
  int64_t depth;
};

// Memory to be asked for while products are computed, a cache line at each of their steps, as long as there are any.
class Ahead {
 public:
  Ahead() {}
  // Rows of so many bytes, `step` bytes apart.
  void add(const void* from, int64_t step, int64_t bytes, int64_t rows) {
    if (from && bytes > 0 && count_ < most) pieces_[count_++] = {static_cast<const char*>(from), step, bytes, rows};
  }

  // How many lines there are at the most.
  int64_t lines() const {
    int64_t lines = 0;
    for (int i = 0; i < count_; ++i) lines += (pieces_[i].bytes + 2 * 63) / 64 * pieces_[i].rows;
    return lines;
  }

  struct Run {
    const char* at;
    int64_t step, steps;
  };
  // The lines for up to so many steps, all of one row.
  Run next(int64_t steps) {
    for (; first_ < count_; ++first_) {
      Piece& piece = pieces_[first_];
      if (piece.rows <= 0) continue;
      const int64_t before = reinterpret_cast<uintptr_t>(piece.from) % 64;  // of the row's first line
      const Run run{piece.from - before + at_, 64, std::min((before + piece.bytes - at_ + 63) / 64, steps)};
      at_ += run.steps * 64;
      if (at_ >= before + piece.bytes) at_ = 0, piece.from += piece.step, --piece.rows;
      return run;
    }
    return {reinterpret_cast<const char*>(this), 0, steps};  // no line more
  }

 private:
  struct Piece {
    const char* from;
    int64_t step, bytes, rows;
  };
  static constexpr int most = 64;
  Piece pieces_[most];
  int count_ = 0, first_ = 0;
  int64_t at_ = 0;
};

template <class E, int rows, int vectors, class To>
__attribute__((noinline)) void product_tile(const Product<E>& product, int64_t row, int64_t column, To* to,
                                            int64_t step, Ahead* ahead) {
  using S = Sum<E>;
  Vec<S> sums[rows][vectors];
#pragma GCC unroll 9
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[r][v] = Vec<S>::fill(0);
  }
  const E* a = product.rows + row * product.row;
  const E* b = product.columns + column;
  const int64_t next = product.row;
  for (int64_t left = product.depth; left > 0;) {
    Ahead::Run soon = ahead ? ahead->next(left) : Ahead::Run{reinterpret_cast<const char*>(to), 0, left};
    left -= soon.steps;
    for (int64_t k = soon.steps; k > 0; --k, a += product.row_step, b += product.column_step, soon.at += soon.step) {
      __builtin_prefetch(soon.at, 0, 3);
      Vec<E> values[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        values[v] = Vec<E>::load(b + v * Vec<E>::size).kept();
      }
#pragma GCC unroll 9
      for (int r = 0; r < rows; ++r) {
        const Vec<E> number = Vec<E>::fill(a[r * next]).kept();
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
          if constexpr (std::is_same_v<E, Pair>) {
            Vec<S> sum = sums[r][v];  // the array itself would be kept in memory
            add_product(sum, number, values[v]);
            sums[r][v] = sum;
          } else {
            sums[r][v] = fma(number, values[v], sums[r][v]);
          }
        }
      }
    }
  }
#pragma GCC unroll 9
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[r][v].store(to + r * step + v * Vec<S>::size);
  }
}

// What a product is computed in: `vectors` vectors of columns from `column` on, `columns` of which there are, in `rows`
// rows from `row` on; in registers are product_rows of them, or half as many.
struct ProductTile {
  int64_t row, rows;
  bool half;
  int64_t column, vectors, columns;
};

// Inlined, so that what `use` holds stays in registers.
template <class S, class Use>
__attribute__((always_inline)) inline void every_tile(int64_t rows, int64_t columns, const Use& use) {
  constexpr int size = Vec<S>::size;
  const int64_t vectors = (columns + size - 1) / size, groups = (vectors + product_vectors - 1) / product_vectors;
  for (int64_t row = 0; row < rows; row += product_rows) {
    const int64_t many = std::min<int64_t>(product_rows, rows - row);
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t begin = vectors * group / groups, end = vectors * (group + 1) / groups, column = begin * size;
      use(ProductTile{row, many, many <= product_rows / 2, column, end - begin,
                      std::min(columns, end * size) - column});
    }
  }
}

// All sums of a tile of so many rows, whether the product has them or not; rows of them lie `step` numbers apart.
template <int rows = product_rows, class E, class To>
void multiply_tile(const Product<E>& product, int64_t row, int64_t column, bool half, int64_t vectors, To* to,
                   int64_t step, Ahead* ahead) {
  switch (2 * vectors + half) {
    case 2:
      return product_tile<E, rows, 1>(product, row, column, to, step, ahead);
    case 3:
      return product_tile<E, rows / 2, 1>(product, row, column, to, step, ahead);
    case 4:
      return product_tile<E, rows, 2>(product, row, column, to, step, ahead);
    case 5:
      return product_tile<E, rows / 2, 2>(product, row, column, to, step, ahead);
    case 6:
      return product_tile<E, rows, 3>(product, row, column, to, step, ahead);
    case 7:
      return product_tile<E, rows / 2, 3>(product, row, column, to, step, ahead);
  }
}

// Calls each(sums, row, column) for each vector of sums and each(sums, row, column, part) for the first `part` of them
// at the end of a row. Reads as many rows and columns more as fill the last tile; whatever is there does not get into
// a result.
template <class E, class Each>
void multiply(const Product<E>& product, int64_t rows, int64_t columns, const Each& given, Ahead* ahead = nullptr) {
  const Each each = given;  // a copy that nothing else points to, so what it holds stays in registers
  using S = Sum<E>;
  constexpr int size = Vec<S>::size;
  alignas(64) S sums[product_rows * product_vectors * size];
  every_tile<S>(rows, columns, [&](const ProductTile& tile) __attribute__((always_inline)) {
    const int64_t step = tile.vectors * size, column = tile.column, count = tile.columns;
    multiply_tile(product, tile.row, column, tile.half, tile.vectors, sums, step, ahead);
    const S* from = sums;
    for (int64_t row = tile.row; row < tile.row + tile.rows; ++row, from += step) {
      int64_t at = 0;
      for (; at + size <= count; at += size) each(Vec<S>::load(from + at), row, column + at);
      if (at < count) each(Vec<S>::load(from + at), row, column + at, static_cast<int>(count - at));
    }
  });
}

// The sums as they are, rows of them `step` numbers apart: whole tiles go there from registers.
template <class E, class To>
void multiply_to(const Product<E>& product, int64_t rows, int64_t columns, To* to, int64_t step,
                 Ahead* ahead = nullptr) {
  using S = Sum<E>;
  constexpr int size = Vec<S>::size;
  alignas(64) To sums[product_rows * product_vectors * size];
  every_tile<S>(rows, columns, [&](const ProductTile& tile) {
    To* const at = to + tile.row * step + tile.column;
    const int64_t wide = tile.vectors * size;
    const bool whole = tile.columns == wide && tile.rows == (tile.half ? product_rows / 2 : product_rows);
    multiply_tile(product, tile.row, tile.column, tile.half, tile.vectors, whole ? at : sums, whole ? step : wide,
                  ahead);
    if (whole) return;
    for (int64_t row = 0; row < tile.rows; ++row) std::copy_n(sums + row * wide, tile.columns, at + row * step);
  });
}

}  // namespace lightsr
