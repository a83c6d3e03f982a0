// The depthwise 3x3 convolution of three rows of hidden numbers, [pixel][channel], and the gate.
#pragma once

#include "../common/pixels.h"
#include "../common/simd_math.h"

namespace lightsr::feed_forward {

constexpr int taps = 9;

// erf(x / sqrt 2) as a quotient of polynomials in x^2, fitted to a relative error of 3e-8 up to 5.7, where it is 1 to
// the last bit.
inline Vec<float> quick_erf(Vec<float> x) {
  using F = Vec<float>;
  constexpr float far = 5.7f;
  constexpr float above[] = {4.33917624e-08f, 1.25785925e-05f, 0.000347528799f,
                             0.00941319819f,  0.0688777175f,   0.797884539f};
  constexpr float below[] = {1.16197322e-06f, 7.47107431e-05f, 0.00191320388f, 0.0289640703f, 0.252991655f, 1.0f};
  const F near = max(F::fill(-far), min(F::fill(far), x)), square = near * near;
  F p = F::fill(above[0]), q = F::fill(below[0]);
#pragma GCC unroll 5
  for (int i = 1; i < 6; ++i) {
    p = fma(p, square, F::fill(above[i]));
    q = fma(q, square, F::fill(below[i]));
  }
  return select<float>(x < F::fill(-far), F::fill(-1), near * p / q);
}

// x (1 + erf(x / sqrt 2)) / 2: half the instructions of everywhere::gelu, whose lower tail is exact. This one is off by
// a few units in the last place of x, as PyTorch's is.
inline Vec<float> quick_gelu(Vec<float> x) {
  const Vec<float> half = Vec<float>::fill(0.5f) * x;
  return fma(half, quick_erf(x), half);
}
inline Vec<double> quick_gelu(Vec<double> x) {
  return gelu(x);
}

// Four neighbouring pixels (or one) share what they read; filters stay in registers.
template <class S, int pixels>
inline void convolve(const S* const (&rows)[3], int64_t step, const Vec<S> (&filter)[taps], Vec<S> (&sums)[pixels]) {
#pragma GCC unroll 4
  for (int p = 0; p < pixels; ++p) sums[p] = Vec<S>::fill(0);
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i) {
#pragma GCC unroll 6
    for (int column = 0; column < pixels + 2; ++column) {
      const Vec<S> value = Vec<S>::load(rows[i] + column * step).kept();
#pragma GCC unroll 3
      for (int j = 0; j < 3; ++j) {
        const int p = column - j;
        if (p >= 0 && p < pixels) sums[p] = fma(value, filter[3 * i + j], sums[p]);
      }
    }
  }
}

// to[p][m] = gelu(a) b of `count` pixels: a from channels m on, b from channels m + half on. Rows begin one pixel
// before the first and have a pixel more behind the last.
template <class S, class F>
void gate(const S* const (&rows)[3], int64_t step, int64_t half, const S* filters, int64_t count, Rows<F> to) {
  using V = Vec<S>;
  constexpr int many = 4;
  for (int64_t m = 0; m < half; m += V::size) {
    V first[taps], second[taps];
    for (int t = 0; t < taps; ++t) first[t] = V::load(filters + t * step + m);
    for (int t = 0; t < taps; ++t) second[t] = V::load(filters + t * step + half + m);
    const auto pixels = [&]<int n>(std::integral_constant<int, n>, int64_t p) {
      const S* a[3] = {rows[0] + p * step + m, rows[1] + p * step + m, rows[2] + p * step + m};
      const S* b[3] = {a[0] + half, a[1] + half, a[2] + half};
      V gates[n], values[n];
      convolve<S, n>(a, step, first, gates);
      convolve<S, n>(b, step, second, values);
      for (int i = 0; i < n; ++i) (quick_gelu(gates[i]) * values[i]).store(to.at(p + i, m));
    };
    int64_t p = 0;
    for (; p + many <= count; p += many) pixels(std::integral_constant<int, many>{}, p);
    for (; p < count; ++p) pixels(std::integral_constant<int, 1>{}, p);
  }
}

}  // namespace lightsr::feed_forward
