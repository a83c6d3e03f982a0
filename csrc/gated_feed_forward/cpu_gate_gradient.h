// The gradients of the gate and of the depthwise 3x3 convolution before it, on rows of [pixel][channel].
#pragma once

#include "cpu_gate.h"

namespace lightsr::feed_forward {

// gelu(x) as quick_gelu has it, and its slope P(N <= x) + x density(x).
inline void gelu_and_slope(Vec<float> x, Vec<float>& value, Vec<float>& slope) {
  using F = Vec<float>;
  const F erf = quick_erf(x), half = F::fill(0.5f) * x;
  const F density = F::fill(0.39894228f) * exp(-half * x);
  value = fma(half, erf, half);
  slope = fma(x, density, fma(F::fill(0.5f), erf, F::fill(0.5f)));
}
inline void gelu_and_slope(Vec<double> x, Vec<double>& value, Vec<double>& slope) {
  const Vec<double> below =
      each_lane(x, [](double number) { return 0.5 * std::erfc(-number * 0.70710678118654752440); });
  value = x * below;
  slope = fma(x, Vec<double>::fill(0.39894228040143267794) * exp(Vec<double>::fill(-0.5) * x * x), below);
}

// Of `count` pixels with the gradient g of gelu(a) b, row p of `grad`: to[p] = g b gelu'(a) in channels from m on and
// g gelu(a) in channels from half + m on; gated[p] = gelu(a) b, where that is asked for. a and b as in `gate`.
template <class S, class F>
void gate_gradient(const S* const (&rows)[3], int64_t step, int64_t half, const S* filters, const S* grad,
                   int64_t count, S* to, Rows<F> gated) {
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
      for (int i = 0; i < n; ++i) {
        V gate, slope;
        gelu_and_slope(gates[i], gate, slope);
        const V g = V::load(grad + (p + i) * half + m);
        if (gated) (gate * values[i]).store(gated.at(p + i, m));
        (g * values[i] * slope).store(to + (p + i) * step + m);
        (g * gate).store(to + (p + i) * step + half + m);
      }
    };
    int64_t p = 0;
    for (; p + many <= count; p += many) pixels(std::integral_constant<int, many>{}, p);
    for (; p < count; ++p) pixels(std::integral_constant<int, 1>{}, p);
  }
}

// to[p] = the gradient of hidden pixel p of `count`, from those of the convolution's results: three rows of them, which
// begin one pixel before the first. sums [tap][channel] += that of the filters, of the pixels' own numbers `hidden`:
// each number meets every tap's result once. Filters and sums stay in registers.
template <class S, class F>
void before_depthwise(const S* const (&rows)[3], const S* hidden, int64_t step, const S* filters, int64_t count,
                      Rows<F> to, S* sums) {
  using V = Vec<S>;
  constexpr int many = 4;
  for (int64_t m = 0; m < step; m += V::size) {
    V filter[taps], of_filter[taps];  // taps in reverse order
    for (int t = 0; t < taps; ++t) filter[t] = V::load(filters + (taps - 1 - t) * step + m);
    for (int t = 0; t < taps; ++t) of_filter[t] = V::load(sums + (taps - 1 - t) * step + m);
    const auto pixels = [&]<int n>(std::integral_constant<int, n>, int64_t p) {
      V found[n], own[n];
#pragma GCC unroll 4
      for (int i = 0; i < n; ++i) found[i] = V::fill(0);
#pragma GCC unroll 4
      for (int i = 0; i < n; ++i) own[i] = V::load(hidden + (p + i) * step + m).kept();
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) {
#pragma GCC unroll 6
        for (int column = 0; column < n + 2; ++column) {
          const V value = V::load(rows[i] + (p + column) * step + m).kept();
#pragma GCC unroll 3
          for (int j = 0; j < 3; ++j) {
            const int at = column - j;
            if (at >= 0 && at < n) {
              found[at] = fma(value, filter[3 * i + j], found[at]);
              of_filter[3 * i + j] = fma(value, own[at], of_filter[3 * i + j]);
            }
          }
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < n; ++i) found[i].store(to.at(p + i, m));
    };
    int64_t p = 0;
    for (; p + many <= count; p += many) pixels(std::integral_constant<int, many>{}, p);
    for (; p < count; ++p) pixels(std::integral_constant<int, 1>{}, p);
    for (int t = 0; t < taps; ++t) of_filter[t].store(sums + (taps - 1 - t) * step + m);
  }
}

}  // namespace lightsr::feed_forward
