// Products of filters with pixels where they lie: as common/product.h has them, but with a table that tells where each
// step's numbers stand. A sum over many steps is one of sums over so many each, which rounds less.
#pragma once

#include "../common/product.h"

namespace lightsr::dense {

// sum over k of rows(r, k) columns(k, c). Rows are output channels and columns pixels: rows(r, k) = rows[k * step + r],
// columns(k, c) = columns[table[k] + c]. Or `last`: rows are pixels and columns output channels, rows(r, k) =
// rows[r * step + table[k]], columns(k, c) = columns[k * column_step + c].
template <class E>
struct Taps {
  const E* rows;
  const E* columns;
  int64_t step, column_step;
  const int64_t* table;
  int64_t depth;
};

// To tile[r * vectors + v], each a vector; with `more` added to what is there.
template <class E, bool last, int rows, int vectors>
__attribute__((noinline)) void taps_tile(const Taps<E>& taps, bool more, E* tile, Ahead& ahead) {
  using V = Vec<E>;
  V sums[rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[r][v] = V::fill(0);
  }
  const int64_t step = taps.step;
  const E *a = taps.rows, *b = taps.columns;
  const int64_t* table = taps.table;
  for (int64_t left = taps.depth; left > 0;) {
    Ahead::Run soon = ahead.next(left);
    left -= soon.steps;
    for (int64_t k = soon.steps; k > 0; --k, soon.at += soon.step) {
      __builtin_prefetch(soon.at, 0, 3);
      const int64_t place = *table++;
      const E* row = last ? a + place : a;
      const E* column = last ? b : b + place;
      V values[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) values[v] = V::load(column + v * V::size).kept();
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const V number = V::fill(last ? row[r * step] : row[r]).kept();
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sums[r][v] = fma(number, values[v], sums[r][v]);
      }
      if (last) {
        b += taps.column_step;
      } else {
        a += step;
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      E* to = tile + (r * vectors + v) * V::size;
      (more ? V::load(to) + sums[r][v] : sums[r][v]).store(to);
    }
  }
}

template <class E, bool last>
void taps_tile(const Taps<E>& all, bool half, int vectors, E* tile, Ahead& ahead) {
  constexpr int rows = product_rows;
  constexpr int64_t most = 144;
  int64_t k = 0;
  do {
    Taps<E> taps = all;
    taps.rows += last ? 0 : k * all.step;
    taps.columns += last ? k * all.column_step : 0;
    taps.table += k;
    taps.depth = std::min(most, all.depth - k);
    // clang-format off
    switch (2 * vectors + half) {
      case 2: taps_tile<E, last, rows, 1>(taps, k > 0, tile, ahead); break;
      case 3: taps_tile<E, last, rows / 2, 1>(taps, k > 0, tile, ahead); break;
      case 4: taps_tile<E, last, rows, 2>(taps, k > 0, tile, ahead); break;
      case 5: taps_tile<E, last, rows / 2, 2>(taps, k > 0, tile, ahead); break;
      case 6: taps_tile<E, last, rows, 3>(taps, k > 0, tile, ahead); break;
      case 7: taps_tile<E, last, rows / 2, 3>(taps, k > 0, tile, ahead); break;
    }
    // clang-format on
    k += most;
  } while (k < all.depth);
}

}  // namespace lightsr::dense
