// The coarse map of the gate: a 3x3 convolution with stride 2, the maximum of 7x7 windows 3 apart, a 3x3 convolution.
//
// Each convolution takes a row of its result at a time, a product with P channels in the lanes. The first reads the map
// in place, the three pixels of a filter's row at a time, which stand side by side there; for the second what its
// pixels read is put side by side (9 P numbers each). All of it is some 3 percent of the op's work.
#pragma once

#include "../common/parallel.h"
#include "../common/pixels.h"
#include "arguments.h"

namespace lightsr::gated {

constexpr int64_t filter_side = 3, taps = filter_side * filter_side, window = 7, apart = 3;

// Filters [P, P, 3, 3] as [taps, lanes, lanes]: tap and input channel, then output channel; or, turned, tap and output
// channel, then input channel, with the taps in the opposite order, as the way back reads them.
template <class S, class T>
void arrange(const T* from, int64_t p, int64_t lanes, bool turned, S* to) {
  std::fill_n(to, taps * lanes * lanes, S(0));
  for (int64_t out = 0; out < p; ++out) {
    for (int64_t in = 0; in < p; ++in) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t row = turned ? (taps - 1 - tap) * lanes + out : tap * lanes + in, column = turned ? in : out;
        to[row * lanes + column] = wide_number<S>(from[(out * p + in) * taps + tap]);
      }
    }
  }
}

// What the 3x3 windows around a row's pixels hold, [w, taps, lanes]; zeros beyond the map's edges.
template <class S>
void put_beside(const S* map, int64_t h, int64_t w, int64_t lanes, int64_t y, S* to) {
  for (int64_t x = 0; x < w; ++x) {
    for (int64_t tap = 0; tap < taps; ++tap, to += lanes) {
      const int64_t row = y + tap / filter_side - 1, column = x + tap % filter_side - 1;
      const bool inside = 0 <= row && row < h && 0 <= column && column < w;
      if (inside)
        std::copy_n(map + (row * w + column) * lanes, lanes, to);
      else
        std::fill_n(to, lanes, S(0));
    }
  }
}

// What stands between `entered` and the coarse map, and the passes that make it.
template <class T>
class Coarse {
  using S = Wide<T>;
  using V = Vec<S>;
  static constexpr int size = V::size;

 public:
  explicit Coarse(const GatedPointwise& call)
      : call(call),
        lanes(call.lanes),
        strided_h((call.h - filter_side) / 2 + 1),
        strided_w((call.w - filter_side) / 2 + 1),
        h(call.coarse_h),
        w(call.coarse_w),
        strided(call.n * strided_h * strided_w * lanes),
        pooled(call.n * h * w * lanes) {}

  void stride(const S* entered) const {
    const Aligned<S> filters(taps * lanes * lanes), bias(lanes);
    arrange(parameter(stride_weight), call.gate, lanes, false, filters.data());
    spread(stride_bias, bias.data());
    const int64_t row = call.w * lanes, three = filter_side * lanes,
                  read = (2 * round_up(strided_w, product_rows) + 1) * lanes;
    const S* const end = entered + call.n * call.h * row;
    run_tasks(call.n * strided_h, [&](int64_t task) {
      S* const to = strided.data() + task * strided_w * lanes;
      for (int64_t i = 0; i < filter_side; ++i) {
        const S* from = entered + (task / strided_h * call.h + 2 * (task % strided_h) + i) * row;
        // Products read more rows than there are: not beyond the map.
        if (from + read > end) from = std::copy_n(from, row, scratch<S>(read)) - row;
        multiply(Product<S>{from, 2 * lanes, 1, filters.data() + i * three * lanes, lanes, three}, strided_w, lanes,
                 [=, wide = lanes, offset = bias.data()](V sums, int64_t x, int64_t c, auto...) {
                   S* const at = to + x * wide + c;
                   (sums + V::load(i ? at : offset + c)).store(at);
                 });
      }
    });
  }

  // Each window's maximum, and which of its pixels has that, if `places` are given.
  void pool(S* places) const {
    run_tasks(call.n * h, [&](int64_t task) {
      const int64_t n = task / h, y = task % h;
      for (int64_t x = 0; x < w; ++x) {
        for (int64_t c = 0; c < lanes; c += size) {
          const S* from = strided.data() + ((n * strided_h + apart * y) * strided_w + apart * x) * lanes + c;
          V most = V::load(from), place = V::fill(0);
          for (int i = 1; i < window * window; ++i) {
            const V value = V::load(from + (i / window * strided_w + i % window) * lanes);
            const auto more = (value > most) | (value.v != value.v);  // a value that is no number stays
            most = select<S>(more, value, most);
            place = select<S>(more, V::fill(S(i)), place);
          }
          const int64_t at = (task * w + x) * lanes + c;
          most.store(pooled.data() + at);
          if (places) place.store(places + at);
        }
      }
    });
  }

  void mix(S* coarse) const {
    const Aligned<S> filters(taps * lanes * lanes), bias(lanes);
    arrange(parameter(pool_weight), call.gate, lanes, false, filters.data());
    spread(pool_bias, bias.data());
    run_tasks(call.n * h, [&](int64_t task) {
      S* beside = scratch<S>(round_up(w, product_rows) * taps * lanes);
      put_beside(pooled.data() + task / h * h * w * lanes, h, w, lanes, task % h, beside);
      convolve(beside, w, filters, bias, coarse + task * w * lanes);
    });
  }

  // A row of pixels, each with what it reads beside it, times filters.
  void convolve(const S* beside, int64_t pixels, const Aligned<S>& filters, const Aligned<S>& bias, S* to) const {
    const int64_t depth = taps * lanes;
    multiply(Product<S>{beside, depth, 1, filters.data(), lanes, depth}, pixels, lanes,
             [=, wide = lanes, offset = bias.data()](V sums, int64_t x, int64_t c, auto...) {
               (sums + V::load(offset + c)).store(to + x * wide + c);
             });
  }

  const T* parameter(Parameter which) const { return static_cast<const T*>(call.parameters[which]); }
  void spread(Parameter which, S* to) const {
    std::fill_n(to, lanes, S(0));
    for (int64_t c = 0; c < call.gate; ++c) to[c] = wide_number<S>(parameter(which)[c]);
  }

  const GatedPointwise& call;
  const int64_t lanes, strided_h, strided_w, h, w;
  const Aligned<S> strided, pooled;  // [N, strided_h, strided_w, lanes], [N, h, w, lanes]
};

}  // namespace lightsr::gated
