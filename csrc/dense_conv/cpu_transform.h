// The transforms of cpu_winograd.h: of a filter, of pixels, and of sums into results; first down the columns of a tile,
// then along its rows.
#pragma once

#include <algorithm>

#include "../common/shuffle.h"

namespace lightsr::dense {

// The factors of `many` 3 x 3 filters for each place, at to[place * step], rounded once.
template <class E, int64_t many>
void transform_filters(const double (&taps)[9][many], E* to, int64_t step) {
  double down[12][many];
  for (int64_t j = 0; j < 3; ++j) {
    for (int64_t k = 0; k < many; ++k) {
      const double a = taps[j][k], b = taps[3 + j][k], c = taps[6 + j][k];
      down[j][k] = a;
      down[3 + j][k] = (a + c + b) / 2;
      down[6 + j][k] = (a + c - b) / 2;
      down[9 + j][k] = c;
    }
  }
  for (int64_t i = 0; i < 4; ++i, to += 4 * step) {
    for (int64_t k = 0; k < many; ++k) {
      const double a = down[3 * i][k], b = down[3 * i + 1][k], c = down[3 * i + 2][k];
      to[k] = static_cast<E>(a);
      to[step + k] = static_cast<E>((a + c + b) / 2);
      to[2 * step + k] = static_cast<E>((a + c - b) / 2);
      to[3 * step + k] = static_cast<E>(c);
    }
  }
}

template <class V>
void transform_down(const V (&d)[4], V (&t)[4]) {
  t[0] = d[0] - d[2];
  t[1] = d[1] + d[2];
  t[2] = d[2] - d[1];
  t[3] = d[1] - d[3];
}

// A vector for each place of tiles that lie beside each other, from their four rows of pixels; what belongs to a place
// goes to to[place * step]. Rows have so many pixels, and zeros behind them; with `before` a zero in front of them.
template <class E, class S>
void transform_rows(const S* const (&rows)[4], int64_t pixels, bool before, int64_t tiles, E* to, int64_t step) {
  using V = Vec<E>;
  constexpr int size = V::size;
  const auto load = [&](int64_t at, V(&t)[4]) {
    V d[4];
    const int64_t first = before && at > 0 ? at - 1 : at, left = pixels - first;
    if (left >= size) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) d[i] = V::load(rows[i] + first);
    } else {
      const int some = static_cast<int>(std::max<int64_t>(left, 0));
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) d[i] = V::load(rows[i] + first, some);
    }
    if (before && at == 0) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) d[i] = shuffled<OneBack>(V::fill(0), d[i]);
    }
    transform_down(d, t);
  };
  V first[4], second[4], next[4];
  load(0, next);
  for (int64_t tile = 0; tile < tiles; tile += size) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) first[i] = next[i];
    load(2 * tile + size, second);
    load(2 * tile + 2 * size, next);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const V even = shuffled<EveryOther<false>>(first[i], second[i]);
      const V odd = shuffled<EveryOther<true>>(first[i], second[i]);
      const V d[4] = {even, odd, shuffled<OneOn<0>>(even, next[i]), shuffled<OneOn<1>>(odd, next[i])};
      V t[4];
      transform_down(d, t);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        E* place = to + (4 * i + j) * step + tile;
        if (tile + size <= tiles) {
          t[j].store(place);
        } else {
          t[j].store(place, static_cast<int>(tiles - tile));
        }
      }
    }
  }
}

// The same for one tile of pixels with `numbers` channels each; null: a pixel outside, zeros.
template <class E, class S>
void transform_pixels(const S* const (&pixel)[4][4], int64_t numbers, E* to, int64_t step) {
  using V = Vec<E>;
  constexpr int size = V::size;
  const auto transform = [&](int64_t at, auto... part) {
    V down[4][4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      V d[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) d[i] = pixel[i][j] ? V::load(pixel[i][j] + at, part...) : V::fill(0);
      transform_down(d, down[j]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const V d[4] = {down[0][i], down[1][i], down[2][i], down[3][i]};
      V t[4];
      transform_down(d, t);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) t[j].store(to + (4 * i + j) * step + at);
    }
  };
  int64_t at = 0;
  for (; at + size <= numbers; at += size) transform(at);
  if (at < numbers) transform(at, static_cast<int>(numbers - at));
}

// The 2 x 2 results of tiles or of channels.
template <class E>
struct Results {
  Vec<E> value[2][2];

  // The first, or last, half of a row of results of tiles that lie beside each other.
  template <bool second>
  Vec<E> zipped(int row) const {
    return shuffled<ByTurns<second>>(value[row][0], value[row][1]);
  }
};

// From the sums of a vector at from[place * step]. Where a result is not finite, `probe` becomes no number.
template <class E>
Results<E> results(const E* from, int64_t step, Vec<E>& probe) {
  using V = Vec<E>;
  V down[2][4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    V m[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) m[i] = V::load(from + (4 * i + j) * step);
    down[0][j] = m[0] + m[1] + m[2];
    down[1][j] = m[1] - m[2] - m[3];
  }
  Results<E> found;
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const V(&m)[4] = down[i];
    found.value[i][0] = m[0] + m[1] + m[2];
    found.value[i][1] = m[1] - m[2] - m[3];
  }
  const V all = found.value[0][0] + found.value[0][1] + (found.value[1][0] + found.value[1][1]);
  probe = probe + (all - all);
  return found;
}

}  // namespace lightsr::dense
