// The coarse map of the gate: a 3x3 convolution with stride 2, the maximum of 7x7 windows 3 apart, a 3x3 convolution.
//
// Each convolution takes a row of its result at a time: what its pixels read is put side by side (9 P numbers each) and
// multiplied by the filters, so that P channels are the lanes. All of it is some 3 percent of the op's work.
#pragma once

#include <vector>

#include "../common/parallel.h"
#include "../common/pixels.h"
#include "arguments.h"

namespace lightsr {

template <class T>
class Coarse {
  using S = typename Numbers<T>::Wide;
  using V = Vec<S>;
  static constexpr int size = V::size, side = 3, window = 7, apart = 3;

 public:
  explicit Coarse(const GatedPointwiseCoarse& pass)
      : pass_(pass),
        call_(pass.call),
        strided_h_((call_.h - side) / 2 + 1),
        strided_w_((call_.w - side) / 2 + 1),
        h_((strided_h_ - window) / apart + 1),
        w_((strided_w_ - window) / apart + 1),
        lanes_(round_up(call_.gate, size)),
        strided_(call_.n * strided_h_ * strided_w_ * lanes_),
        pooled_(call_.n * h_ * w_ * lanes_),
        stride_(side * side * call_.gate * lanes_),
        pool_(side * side * call_.gate * lanes_) {
    fill(stride_, pass.stride_weight);
    fill(pool_, pass.pool_weight);
  }

  void run() const {
    run_tasks(call_.n * strided_h_, [&](int64_t task) { stride(task / strided_h_, task % strided_h_); });
    run_tasks(call_.n * h_, [&](int64_t task) { pool(task / h_, task % h_); });
    run_tasks(call_.n * h_, [&](int64_t task) { mix(task / h_, task % h_); });
  }

 private:
  // [9 P, lanes]: tap and input channel, then output channel.
  void fill(const Aligned<S>& to, const void* weight) const {
    const int64_t p = call_.gate;
    std::fill_n(to.data(), side * side * p * lanes_, S(0));
    const T* from = static_cast<const T*>(weight);
    for (int64_t out = 0; out < p; ++out)
      for (int64_t in = 0; in < p; ++in)
        for (int64_t tap = 0; tap < side * side; ++tap)
          to.data()[(tap * p + in) * lanes_ + out] = wide_number<S>(from[(out * p + in) * side * side + tap]);
  }

  // `at(tap, channel, pixel)` for all pixels of a row, times the filters.
  template <class At, class Put>
  void convolve(const Aligned<S>& filters, int64_t pixels, const At& at, const Put& put) const {
    const int64_t p = call_.gate, depth = side * side * p;
    S* beside = scratch<S>(round_up(pixels, product_rows) * depth);
    for (int64_t pixel = 0; pixel < pixels; ++pixel)
      for (int64_t tap = 0; tap < side * side; ++tap)
        for (int64_t c = 0; c < p; ++c) beside[pixel * depth + tap * p + c] = at(tap, c, pixel);
    multiply(Product<S>{beside, depth, 1, filters.data(), lanes_, depth}, pixels, p,
             [&](V sums, int64_t pixel, int64_t channel, auto... part) { put(sums, pixel, channel, part...); });
  }

  void stride(int64_t n, int64_t y) const {
    const int64_t p = call_.gate, plane = call_.h * call_.w;
    const T* from = static_cast<const T*>(pass_.entered) + n * p * plane;
    const int64_t channel = call_.channels_last ? 1 : plane, pixel = call_.channels_last ? p : 1;
    S* to = strided_.data() + (n * strided_h_ + y) * strided_w_ * lanes_;
    const T* bias = static_cast<const T*>(pass_.stride_bias);
    convolve(
        stride_, strided_w_,
        [&](int64_t tap, int64_t c, int64_t x) {
          return wide_number<S>(from[c * channel + ((2 * y + tap / side) * call_.w + 2 * x + tap % side) * pixel]);
        },
        [&](V sums, int64_t x, int64_t c, auto... part) {
          (sums + V::load(bias + c, part...)).store(to + x * lanes_ + c, part...);
        });
  }

  void pool(int64_t n, int64_t y) const {
    for (int64_t x = 0; x < w_; ++x) {
      S* to = pooled_.data() + ((n * h_ + y) * w_ + x) * lanes_;
      const S* from = strided_.data() + ((n * strided_h_ + apart * y) * strided_w_ + apart * x) * lanes_;
      for (int64_t c = 0; c < call_.gate; ++c) {
        S most = from[c];
        for (int i = 0; i < window * window; ++i) {
          const S value = from[(i / window * strided_w_ + i % window) * lanes_ + c];
          most = value > most || value != value ? value : most;  // a value that is no number stays
        }
        to[c] = most;
      }
    }
  }

  void mix(int64_t n, int64_t y) const {
    const T* bias = static_cast<const T*>(pass_.pool_bias);
    const S* from = pooled_.data() + n * h_ * w_ * lanes_;
    S* to = static_cast<S*>(pass_.coarse) + (n * h_ + y) * w_ * call_.gate;
    convolve(
        pool_, w_,
        [&](int64_t tap, int64_t c, int64_t x) {
          const int64_t row = y + tap / side - 1, column = x + tap % side - 1;
          const bool inside = 0 <= row && row < h_ && 0 <= column && column < w_;
          return inside ? from[(row * w_ + column) * lanes_ + c] : S(0);
        },
        [&](V sums, int64_t x, int64_t c, auto... part) {
          (sums + V::load(bias + c, part...)).store(to + x * call_.gate + c, part...);
        });
  }

  const GatedPointwiseCoarse& pass_;
  const GatedPointwise& call_;
  int64_t strided_h_, strided_w_, h_, w_, lanes_;
  Aligned<S> strided_, pooled_, stride_, pool_;
};

}  // namespace lightsr
