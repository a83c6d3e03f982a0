// Depthwise convolution of padded rows, for the near and the far filter of large_kernel_attention.
//
// A tile of sums stays in registers: 4 rows, up to 4 vectors of columns (3 where there are 16 registers). Each vector
// of the input is loaded once and meets the filter rows of all 4; a filter number is spread once for all columns. A
// dilated filter is a dense one on every d-th row (a phase) whose columns lie d apart. The bound is one multiply-add a
// tap; at the sizes everybody uses (5 x 5 and 7 x 7, dilation 3) a column of the filter is straight code of nothing
// else but loads (of all columns it would be more than the processor keeps decoded), at others a choice for each input
// row by the rows that it meets. Both add in the same order, however the work is cut: the bias, then the taps column by
// column.
#pragma once

#include <algorithm>
#include <utility>

#include "../common/pixels.h"
#include "../common/tap_column.h"

namespace lightsr::attention {

// One channel's filter.
template <class S>
struct Filter {
  int kh, kw;
  int64_t dilation;
  const S* taps;  // [kh, kw]
  S bias;
};

constexpr int field_rows = 4;
constexpr int field_vectors = level::registers >= 32 ? 4 : 3;

template <class S, int vectors>
using FieldSums = Vec<S>[field_rows][vectors];

// One column of one input row: tile row `first` meets `tap`, each following one the filter row before.
template <class S, int vectors, int first, int last>
__attribute__((always_inline)) inline void field_column(FieldSums<S, vectors>& sums, const S* in, const S* tap,
                                                        int kw) {
  Vec<S> values[vectors];
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    values[v] = Vec<S>::load(in + v * Vec<S>::size).kept();
  }
#pragma GCC unroll 4
  for (int r = first; r <= last; ++r) {
    const Vec<S> weight = Vec<S>::fill(tap[-(r - first) * kw]).kept();
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[r][v] = fma(weight, values[v], sums[r][v]);
  }
}

template <class S, int vectors>
__attribute__((always_inline)) inline void field_any(FieldSums<S, vectors>& sums, Rows<const S> in,
                                                     const Filter<S>& filter, int rows) {
  for (int kw = filter.kw, x = 0; x < kw; ++x) {
    for (int row = 0; row < rows + filter.kh - 1; ++row) {
      const int first = std::max(0, row - filter.kh + 1), last = std::min(row, rows - 1);
      const S* tap = filter.taps + (row - first) * kw + x;
      const S* from = in.at(row, x * filter.dilation);
      // clang-format off
      switch (first * field_rows + last) {
        case 0: field_column<S, vectors, 0, 0>(sums, from, tap, kw); break;
        case 1: field_column<S, vectors, 0, 1>(sums, from, tap, kw); break;
        case 2: field_column<S, vectors, 0, 2>(sums, from, tap, kw); break;
        case 3: field_column<S, vectors, 0, 3>(sums, from, tap, kw); break;
        case 5: field_column<S, vectors, 1, 1>(sums, from, tap, kw); break;
        case 6: field_column<S, vectors, 1, 2>(sums, from, tap, kw); break;
        case 7: field_column<S, vectors, 1, 3>(sums, from, tap, kw); break;
        case 10: field_column<S, vectors, 2, 2>(sums, from, tap, kw); break;
        case 11: field_column<S, vectors, 2, 3>(sums, from, tap, kw); break;
        case 15: field_column<S, vectors, 3, 3>(sums, from, tap, kw); break;
      }
      // clang-format on
    }
  }
}

// One column of all input rows from `row` on, with numbers spread where they are met.
template <class S, int vectors, int k, int row>
__attribute__((always_inline)) inline void fixed_column(FieldSums<S, vectors>& sums, const S* in, int64_t step,
                                                        const S* tap) {
  if constexpr (row < k + field_rows - 1) {
    constexpr int first = std::max(0, row - k + 1), last = std::min(row, field_rows - 1);
    field_column<S, vectors, first, last>(sums, in, tap + (row - first) * k, k);
    fixed_column<S, vectors, k, row + 1>(sums, in + step, step, tap);
  }
}

template <class S, int vectors, int k, int dilation, int... i>
__attribute__((always_inline)) inline void field_fixed(FieldSums<S, vectors>& sums, Rows<const S> in, const S* tap,
                                                       std::integer_sequence<int, i...>) {
  const S* from = in.at(0, 0);
  for (int x = 0; x < k; ++x, from += dilation, ++tap) {
    if constexpr (level::registers >= 32) {
      const Vec<S> taps[k] = {Vec<S>::fill(tap[i * k]).kept()...};
      add_tap_column<0>(sums, from, in.step, taps, std::make_integer_sequence<int, vectors>{});
    } else {
      fixed_column<S, vectors, k, 0>(sums, from, in.step, tap);
    }
  }
}

// `rows` rows (all 4 where k is known) and `vectors` vectors of the output, of the last one `rest` columns. k 0: any
// filter.
template <class S, int vectors, int k, int dilation>
__attribute__((noinline)) void field_tile(Rows<const S> in, const Filter<S>& filter, Rows<S> out, int rows, int rest) {
  FieldSums<S, vectors> sums;
#pragma GCC unroll 4
  for (int r = 0; r < field_rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[r][v] = Vec<S>::fill(filter.bias);
  }
  if constexpr (k == 0) {
    field_any<S, vectors>(sums, in, filter, rows);
  } else {
    field_fixed<S, vectors, k, dilation>(sums, in, filter.taps, std::make_integer_sequence<int, k>{});
  }
  constexpr int size = Vec<S>::size;
#pragma GCC unroll 4
  for (int r = 0; r < field_rows; ++r) {
    if (r >= rows) break;
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      if (v < vectors - 1 || rest == size) {
        sums[r][v].store(out.at(r, v * size));
      } else {
        sums[r][v].store(out.at(r, v * size), rest);
      }
    }
  }
}

// What will be read soon, to be asked for while sums are computed: as much for each tile as the tile has. Bytes from
// row to row and from vector to vector; addresses that nothing stands at do no harm.
struct Soon {
  const char* data = nullptr;
  int64_t row = 0, vector = 0;
};

template <class S, int k, int dilation>
void field_phase(Rows<const S> in, const Filter<S>& filter, Rows<S> out, int64_t rows, int64_t columns,
                 const Soon& soon) {
  const int64_t size = Vec<S>::size, vectors = (columns + size - 1) / size;
  const int64_t tiles = (vectors + field_vectors - 1) / field_vectors;
  for (int64_t row = 0; row < rows; row += field_rows) {
    // The last rows lie over the ones before where there are fewer than a tile has.
    const int64_t top = k != 0 ? std::min(row, rows - field_rows) : row;
    const int many = static_cast<int>(std::min<int64_t>(field_rows, rows - top));
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t begin = vectors * tile / tiles, end = vectors * (tile + 1) / tiles;
      const Rows<const S> from{in.at(top, begin * size), in.step};
      const Rows<S> to{out.at(top, begin * size), out.step};
      const int rest = static_cast<int>(std::min(columns, end * size) - (end - 1) * size);
      for (int64_t r = row; soon.data && r < row + field_rows; ++r) {
        for (int64_t v = begin; v < end; ++v) __builtin_prefetch(soon.data + r * soon.row + v * soon.vector, 0, 2);
      }
      // clang-format off
      switch (end - begin) {
        case 1: field_tile<S, 1, k, dilation>(from, filter, to, many, rest); break;
        case 2: field_tile<S, 2, k, dilation>(from, filter, to, many, rest); break;
        case 3: field_tile<S, 3, k, dilation>(from, filter, to, many, rest); break;
        default: field_tile<S, field_vectors, k, dilation>(from, filter, to, many, rest); break;
      }
      // clang-format on
    }
  }
}

// out[y, x] = bias + sum of taps[i, j] in[y + i dilation, x + j dilation]. Rows of `in` go on for a vector and the
// filter's reach behind the last column; whatever numbers are there, none of them gets into `out`.
template <class S>
void convolve_rows(Rows<const S> in, const Filter<S>& filter, Rows<S> out, int64_t rows, int64_t columns,
                   const Soon& soon = {}) {
  const int64_t d = filter.kh == 1 ? 1 : filter.dilation;
  for (int64_t phase = 0; phase < std::min(d, rows); ++phase) {
    const Rows<const S> from{in.at(phase, 0), in.step * d};
    const Rows<S> to{out.at(phase, 0), out.step * d};
    const int64_t count = (rows - phase + d - 1) / d;
    const bool full = count >= field_rows && filter.kh == filter.kw;
    if (full && filter.kh == 5 && filter.dilation == 1) {
      field_phase<S, 5, 1>(from, filter, to, count, columns, soon);
    } else if (full && filter.kh == 7 && filter.dilation == 3) {
      field_phase<S, 7, 3>(from, filter, to, count, columns, soon);
    } else {
      field_phase<S, 0, 0>(from, filter, to, count, columns, soon);
    }
  }
}

}  // namespace lightsr::attention
