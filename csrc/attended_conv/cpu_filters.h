// The filters of a convolution, scaled by what the mean of its result is.
//
// A convolution is linear: the mean of its result is the same convolution of the sums over what each of its taps sees.
// A tap sees all pixels but a few rows and columns at one edge. So rows are summed, and for each tap column what it
// does not see is taken off; every tap row adds up the rows that it sees, in float64, in their order.
#pragma once

#include <cmath>
#include <vector>

#include "../common/parallel.h"
#include "../common/pixels.h"
#include "../common/shuffle.h"
#include "arguments.h"

namespace lightsr::attended {

using Numbers = std::vector<double>;

// bias + weight from, for weight [outs, as many as there are in `from`].
template <class T>
Numbers layer(const T* weight, const T* bias, int64_t outs, const Numbers& from) {
  Numbers to;
  for (int64_t out = 0; out < outs; ++out) {
    double sum = bias ? bias[out] : 0;
    for (const double number : from) sum += *weight++ * number;
    to.push_back(sum);
  }
  return to;
}

template <class T>
class ScaledFilters {
  using V = Vec<T>;
  static constexpr int size = V::size;

 public:
  explicit ScaledFilters(const AttendedFilters& call)
      : call_(call), taps_(call.kh * call.kw), seen_(static_cast<size_t>(call.c * taps_)) {}

  void run() {
    // A task is a channel, or a vector of them where these lie side by side.
    if (call_.channels_last) {
      run_tasks(ceil_div(call_.c, size), [&](int64_t task) {
        const int64_t first = task * size;
        add_rows<true>(first, std::min<int64_t>(size, call_.c - first));
      });
    } else {
      run_tasks(call_.c, [&](int64_t channel) { add_rows<false>(channel, 1); });
    }
    for (double& each : seen_) each /= static_cast<double>(call_.h * call_.w);
    const T *weight = of(call_.weight), *bias = of(call_.bias);
    const Numbers mean = layer(weight, bias, call_.outs, seen_);
    Numbers hidden = layer(of(call_.down_weight), of(call_.down_bias), call_.hidden, mean);
    for (double& each : hidden) each = each < 0 ? 0 : each;
    T *to = static_cast<T*>(call_.out_weight), *to_bias = static_cast<T*>(call_.out_bias);
    for (const double logit : layer(of(call_.up_weight), of(call_.up_bias), call_.outs, hidden)) {
      const T scale = static_cast<T>(1 / (1 + std::exp(-logit)));
      for (int64_t i = 0; i < call_.c * taps_; ++i) *to++ = scale * *weight++;
      if (bias) *to_bias++ = scale * *bias++;
    }
  }

 private:
  static const T* of(const void* numbers) { return static_cast<const T*>(numbers); }

  // What the taps of `many` channels see: of one, or where lanes are channels of a vector.
  template <bool lanes>
  void add_rows(int64_t channel, int64_t many) {
    const int64_t step = lanes ? call_.c : 1, half_h = call_.kh / 2, half_w = call_.kw / 2;
    const T* row = of(call_.x) + channel * (lanes ? 1 : call_.h * call_.w);
    for (int64_t y = 0; y < call_.h; ++y, row += call_.w * step) {
      T all[size];
      if constexpr (lanes) {
        pixels(row, many).store(all);
      } else {
        all[0] = sum(numbers(row));
      }
      for (int64_t j = 0; j < call_.kw; ++j) {
        // Columns from `begin` to `end` are seen.
        const int64_t begin = std::min(std::max<int64_t>(j - half_w, 0), call_.w);
        const int64_t end = std::max(std::min(call_.w + j - half_w, call_.w), begin);
        T seen[size];
        std::copy_n(all, many, seen);
        const auto without = [&](int64_t x) {
          for (int64_t k = 0; k < many; ++k) seen[k] -= row[x * step + k];
        };
        for (int64_t x = 0; x < begin; ++x) without(x);
        for (int64_t x = end; x < call_.w; ++x) without(x);
        for (int64_t i = 0; i < call_.kh; ++i) {
          if (y < i - half_h || y >= call_.h + i - half_h) continue;
          for (int64_t k = 0; k < many; ++k)
            seen_[static_cast<size_t>((channel + k) * taps_ + i * call_.kw + j)] += seen[k];
        }
      }
    }
  }

  // Sums of a row: of one channel, and of the pixels' vectors.
  V numbers(const T* row) const {
    V sums[4] = {V::fill(0), V::fill(0), V::fill(0), V::fill(0)};
    int64_t x = 0;
    for (; x + 4 * size <= call_.w; x += 4 * size) {
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) sums[k] = sums[k] + V::load(row + x + k * size);
    }
    for (; x + size <= call_.w; x += size) sums[0] = sums[0] + V::load(row + x);
    if (x < call_.w) sums[1] = sums[1] + V::load(row + x, static_cast<int>(call_.w - x));
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
  V pixels(const T* row, int64_t many) const {
    V sums[4] = {V::fill(0), V::fill(0), V::fill(0), V::fill(0)};
    for (int64_t x = 0; x < call_.w; ++x)
      sums[x % 4] = sums[x % 4] + V::load(row + x * call_.c, static_cast<int>(many));
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }

  const AttendedFilters& call_;
  int64_t taps_;
  Numbers seen_;  // [C][KH][KW]: sums over what each tap sees
};

}  // namespace lightsr::attended
