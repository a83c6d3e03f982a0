// Sums over pixels of products of two buffers, for a tile of filters and numbers of a window in registers.
//
// Buffers hold the channels of a pixel one behind the other, and pixels so too: the window of KW pixels that a row of a
// filter sees is then one run of KW times C numbers. Vectors lie along that run; a step takes one pixel, of it one
// number of each filter's gradient, spread, and up to three vectors of the window: 24 multiply-adds for 11 loads.
#pragma once

#include <array>
#include <utility>

#include "../common/simd.h"

namespace lightsr::dense_weight {

constexpr int tile_rows = level::registers >= 32 ? 8 : 4;
constexpr int tile_vectors = 3;

template <class T>
struct Tile {
  const T* grad;  // of the first filter at the first pixel
  int64_t grad_pixel, grad_line;
  const T* x;  // of the first number of the window
  int64_t x_pixel, x_line;
  int64_t lines, pixels;
  T* sums;  // are added to
  int64_t sums_row;
};

template <class T, int rows, int vectors>
__attribute__((noinline)) void add_tile(const Tile<T>& tile) {
  constexpr int size = Vec<T>::size;
  Vec<T> sums[rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[r][v] = Vec<T>::load(tile.sums + r * tile.sums_row + v * size);
  }
  for (int64_t line = 0; line < tile.lines; ++line) {
    const T* a = tile.grad + line * tile.grad_line;
    const T* b = tile.x + line * tile.x_line;
    for (int64_t k = tile.pixels; k > 0; --k, a += tile.grad_pixel, b += tile.x_pixel) {
      Vec<T> values[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) values[v] = Vec<T>::load(b + v * size).kept();
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const Vec<T> number = Vec<T>::fill(a[r]).kept();
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sums[r][v] = fma(number, values[v], sums[r][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[r][v].store(tile.sums + r * tile.sums_row + v * size);
  }
}

// The function for so many rows and vectors, from 1 up.
template <class T>
void add_tile(const Tile<T>& tile, int64_t rows, int64_t vectors) {
  using Function = void (*)(const Tile<T>&);
  static constexpr auto functions = []<int... i>(std::integer_sequence<int, i...>) {
    return std::array<Function, sizeof...(i)>{add_tile<T, i / tile_vectors + 1, i % tile_vectors + 1>...};
  }(std::make_integer_sequence<int, tile_rows * tile_vectors>{});
  functions[(rows - 1) * tile_vectors + vectors - 1](tile);
}

}  // namespace lightsr::dense_weight
