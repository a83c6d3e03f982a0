// The activations as every machine can compute them, and exp. In float32 by polynomials, with errors of a few units in
// the last place, but for sigmoid; in float64 by the standard library, lane by lane.
#pragma once

#include <cmath>

#include "simd.h"

namespace lightsr {

template <class Function>
inline Vec<double> each_lane(Vec<double> x, const Function& function) {
  double lanes[Vec<double>::size];
  x.store(lanes);
  for (double& lane : lanes) lane = function(lane);
  return Vec<double>::load(lanes);
}

// exp(r) = 1 + r + r^2 q(r) for |r| <= log(2) / 2, where q is fitted to an error of 3e-9.
inline Vec<float> exp_near_zero(Vec<float> r) {
  auto number = [](float value) { return Vec<float>::fill(value); };
  Vec<float> q = fma(number(1.39505986e-3f), r, number(8.36895406e-3f));
  q = fma(fma(fma(q, r, number(0.0416662060f)), r, number(0.166665182f)), r, number(0.5f));
  return fma(q, r * r, r) + number(1);
}

// exp(x) = 2^n exp(r) with |r| <= log(2) / 2. 2^n is multiplied in as two halves, so that results below 2^-126 and
// above 2^127 come out right.
inline Vec<float> exp(Vec<float> x) {
  using F = Vec<float>;
  auto number = [](float value) { return F::fill(value); };
  F round = number(0x1.8p23f);  // adding it leaves whole numbers only, in the last bits
  x = max(number(-106), min(number(90), x));
  F shifted = fma(x, number(1.44269504f), round), n = shifted - round;
  F r = fma(n, number(2.12194440e-4f), fma(n, number(-0.693359375f), x));
  auto power = [](F::Bits exponent) { return F{(F::Raw)((exponent + 127) << 23)}; };
  F::Bits whole = (F::Bits)shifted.v - (F::Bits)round.v, half = whole >> 1;
  return exp_near_zero(r) * power(half) * power(whole - half);
}
inline Vec<double> exp(Vec<double> x) {
  return each_lane(x, [](double value) { return std::exp(value); });
}

inline Vec<double> sigmoid(Vec<double> x) {
  return Vec<double>::fill(1) / (Vec<double>::fill(1) + exp(-x));
}
inline Vec<double> gelu(Vec<double> x) {
  return each_lane(x, [](double value) { return 0.5 * value * std::erfc(-value * 0.70710678118654752440); });
}

namespace everywhere {

// `most` times the sigmoid. Off by less than 2e-8 beside what 1 + e^-x and the quotient are rounded by; of what is near
// 0 the last digits do not count, and results below 2^-126 may be 0.
inline Vec<float> sigmoid(Vec<float> x, Vec<float> most = Vec<float>::fill(1)) {
  using F = Vec<float>;
  const auto number = [](float value) { return F::fill(value); };
  const F round = number(0x1.8p23f);                // as in exp
  x = max(number(-87.6f), min(number(88.7f), -x));  // the upper end is infinity
  const F shifted = fma(x, number(1.44269504f), round), n = shifted - round;
  const F r = fma(n, number(2.12194440e-4f), fma(n, number(-0.693359375f), x));
  const F::Bits whole = (F::Bits)shifted.v - (F::Bits)round.v;
  return most / fma(exp_near_zero(r), F{(F::Raw)((whole + 127) << 23)}, number(1));
}

// x P(N <= x) with N normal. P(N <= -a) for a >= 0 is exp(-a^2 / 2) g(a), where g is a polynomial in 1 / (1 + 0.26 a)
// fitted to a relative error of 3e-8 for a up to 14: no cancellation in the lower tail. The exponential is that above,
// with what a^2 / 2 loses to rounding put back into r, and 2^n added to the exponent. Below -13.2, where results would
// be below 2^-126, they are 0.
inline Vec<float> gelu(Vec<float> x) {
  using F = Vec<float>;
  auto number = [](float value) { return F::fill(value); };
  constexpr float far = 13.2f;
  constexpr float terms[] = {-0.15149572f, 0.24873568f, -0.14779198f, 0.15876044f,
                             0.05196416f,  0.10278884f, 0.10305095f,  0.10375702f};
  F zero = number(0), one = number(1), whole = max(x, -x), a = min(number(far), whole);
  F t = one / fma(number(0.26f), a, one), g = number(0.030230582f);
  for (float term : terms) g = fma(g, t, number(term));
  F round = number(0x1.8p23f), square = a * a, lost = fma(a, a, -square), half = number(-0.5f) * square;
  F shifted = fma(half, number(1.44269504f), round), n = shifted - round;
  F r = fma(n, number(2.12194440e-4f), fma(n, number(-0.693359375f), half));
  F power = exp_near_zero(fma(number(-0.5f), lost, r));
  power = {(F::Raw)((F::Bits)power.v + ((F::Bits)shifted.v << 23))};  // the bits below n in `shifted` fall out
  F tail = select<float>(whole > number(far), zero, power * (g * t));
  return x * select<float>(x < zero, tail, one - tail);
}

}  // namespace everywhere
}  // namespace lightsr
