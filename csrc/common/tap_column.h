// A column of a depthwise filter, kept in registers, over all rows of a tile of sums.
//
// Row r of the input is under tap r - i of result row i: R + KH - 1 rows of V vectors are loaded once each, and so is
// each tap by the caller. What the lanes of a vector are is the caller's.
#pragma once

#include <utility>

#include "simd.h"

namespace lightsr {

// Row `Row` of the input.
template <int Row, class A, class T, int KH, int R, int V, int... i>
[[gnu::always_inline]] inline void add_tap_row(Vec<A> (&sums)[R][V], const Vec<T> (&in)[V], const Vec<T> (&taps)[KH],
                                               std::integer_sequence<int, i...>) {
  constexpr int first = Row < KH ? 0 : Row - KH + 1;
  (add_product(sums[first + i / V][i % V], taps[Row - first - i / V], in[i % V]), ...);
}

// The same with all rows below, which lie `pitch` apart.
template <int Row, class A, class T, int KH, int R, int V, int... v>
[[gnu::always_inline]] inline void add_tap_column(Vec<A> (&sums)[R][V], const T* x, int64_t pitch,
                                                  const Vec<T> (&taps)[KH], std::integer_sequence<int, v...> vectors) {
  if constexpr (Row < KH + R - 1) {
    constexpr int first = Row < KH ? 0 : Row - KH + 1, last = Row < R ? Row : R - 1;
    const Vec<T> in[V] = {Vec<T>::load(x + v * Vec<T>::size).kept()...};
    add_tap_row<Row>(sums, in, taps, std::make_integer_sequence<int, (last - first + 1) * V>{});
    add_tap_column<Row + 1>(sums, x + pitch, pitch, taps, vectors);
  }
}

}  // namespace lightsr
