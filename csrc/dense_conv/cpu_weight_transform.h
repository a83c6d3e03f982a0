// What the gradients of 3 x 3 filters by fewer multiplications are made of: the transforms of cpu_weight_winograd.h.
#pragma once

#include <cstring>

#include "../common/simd.h"

namespace lightsr::dense_weight {

constexpr int grad_side = 4, x_side = 6, places = x_side * x_side;

// Values at 0, 1, -1, 2, -2 and infinity, of a window of x: the transpose of interpolation through these.
template <class V>
inline void transform_x(const V (&d)[x_side], V (&to)[x_side]) {
  const V two = V::fill(2), four = V::fill(4), five = V::fill(5);
  const V even = d[4] - four * d[2], odd = d[3] - four * d[1], near = d[4] - d[2], far = two * (d[3] - d[1]);
  to[0] = fma(four, d[0], d[4] - five * d[2]);
  to[1] = even + odd;
  to[2] = even - odd;
  to[3] = near + far;
  to[4] = near - far;
  to[5] = fma(four, d[1], d[5] - five * d[3]);
}

// Of a piece of the gradient: the polynomial with these coefficients at the six points.
template <class V>
inline void transform_grad(const V (&g)[grad_side], V (&to)[x_side]) {
  const V two = V::fill(2), four = V::fill(4);
  const V even = g[0] + g[2], odd = g[1] + g[3], wide = fma(four, g[2], g[0]), far = two * fma(four, g[3], g[1]);
  to[0] = g[0];
  to[1] = even + odd;
  to[2] = even - odd;
  to[3] = wide + far;
  to[4] = wide - far;
  to[5] = g[3];
}

// `side` x `side` vectors, one row of them in each line, become 6 x 6, `place` apart.
template <int side, class T, class Function>
__attribute__((noinline)) void transform_piece(const T* const (&lines)[x_side], int64_t pitch, T* to, int64_t place,
                                               Function function) {
  using V = Vec<T>;
  V half[x_side][side];
#pragma GCC unroll 6
  for (int b = 0; b < side; ++b) {
    V column[side], found[x_side];
#pragma GCC unroll 6
    for (int a = 0; a < side; ++a) column[a] = V::load(lines[a] + b * pitch);
    function(column, found);
#pragma GCC unroll 6
    for (int a = 0; a < x_side; ++a) half[a][b] = found[a];
  }
#pragma GCC unroll 6
  for (int a = 0; a < x_side; ++a) {
    V found[x_side];
    function(half[a], found);
#pragma GCC unroll 6
    for (int b = 0; b < x_side; ++b) found[b].store(to + (a * x_side + b) * place);
  }
}

// Three taps out of sums of products at the six points, times 24: of whole numbers these are whole ones.
constexpr double taps_scale = 24;
template <class V>
inline void taps_of(const V (&m)[x_side], V (&to)[3]) {
  const auto number = [](double value) { return V::fill(value); };
  const V near = m[1] + m[2], far = m[3] + m[4], twist = m[1] - m[2], far_twist = m[3] - m[4];
  to[0] = fma(number(6), m[0], far - number(4) * near);
  to[1] = number(2) * far_twist - number(4) * twist;
  to[2] = fma(number(taps_scale), m[5], number(4) * (far - near));
}

// Adds the taps of 36 times as many sums, `place` apart, to nine vectors, `tap` apart; the sums are 0 then.
inline void take_taps(float* from, int64_t place, double* to, int64_t tap) {
  using V = Vec<double>;
  V half[3][x_side];
#pragma GCC unroll 6
  for (int b = 0; b < x_side; ++b) {
    V column[x_side], found[3];
#pragma GCC unroll 6
    for (int a = 0; a < x_side; ++a) {
      typedef float Half __attribute__((vector_size(sizeof(float) * V::size)));
      Half sums;
      float* place_sums = from + (a * x_side + b) * place;
      std::memcpy(&sums, place_sums, sizeof sums);
      std::memset(place_sums, 0, sizeof sums);
      column[a] = {__builtin_convertvector(sums, V::Raw)};
    }
    taps_of(column, found);
    for (int a = 0; a < 3; ++a) half[a][b] = found[a];
  }
  for (int a = 0; a < 3; ++a) {
    V found[3];
    taps_of(half[a], found);
    for (int b = 0; b < 3; ++b) {
      double* sum = to + (a * 3 + b) * tap;
      (V::load(sum) + found[b]).store(sum);
    }
  }
}

}  // namespace lightsr::dense_weight
