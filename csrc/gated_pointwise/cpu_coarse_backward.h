// The gradients of the gate's coarse path: from the enlarged map to `entered`, and of its two 3x3 convolutions.
//
// What enlarged the map gathers (cpu_enlarge.h), the second convolution is turned, and then all that is not zero is one
// number for each window and channel, at the place of its maximum: each goes its own way to the nine pixels that made
// that, and to the filters. Where windows overlap they add to the same pixels, so tasks are bands of rows, of which
// every other one runs at a time: the order of additions is always the same.
#pragma once

#include "../common/block_tasks.h"
#include "cpu_coarse.h"
#include "cpu_enlarge.h"

namespace lightsr::gated {

template <class T>
class CoarseGradients {
  using S = Wide<T>;
  using V = Vec<S>;
  static constexpr int size = V::size;

 public:
  explicit CoarseGradients(const GatedPointwiseCoarseGradients& pass)
      : pass_(pass),
        call_(pass.call),
        entered_(static_cast<const S*>(pass.entered)),
        maps_(call_),
        lanes_(maps_.lanes),
        h_(maps_.h),
        w_(maps_.w),
        grad_coarse_(call_.n * h_ * w_ * lanes_),
        grad_pooled_(call_.n * h_ * w_ * lanes_),
        places_(call_.n * h_ * w_ * lanes_) {}

  void run() const {
    maps_.stride(entered_);
    maps_.pool(places_.data());
    const Enlarge<S> enlarge(call_);
    run_tasks(call_.n * h_, [&](int64_t task) {
      enlarge.gather(task / h_, task % h_, static_cast<const S*>(pass_.grad_middle), grad_coarse_.data(),
                     scratch<S>(call_.w * lanes_));
    });
    const Aligned<S> filters(taps * lanes_ * lanes_), nothing(lanes_);
    arrange(maps_.parameter(pool_weight), call_.gate, lanes_, true, filters.data());
    std::fill_n(nothing.data(), lanes_, S(0));
    run_tasks(call_.n * h_, [&](int64_t task) {
      const S* beside = reads(grad_coarse_.data(), task);
      maps_.convolve(beside, w_, filters, nothing, grad_pooled_.data() + task * w_ * lanes_);
    });
    scatter();
    if (pass_.sums) sum_filters();
  }

 private:
  const S* reads(const S* map, int64_t row) const {
    S* beside = scratch<S>(round_up(w_, product_rows) * taps * lanes_);
    put_beside(map + row / h_ * h_ * w_ * lanes_, h_, w_, lanes_, row % h_, beside);
    return beside;
  }

  // Calls each(channel, number, pixel) for the windows of a row, where `pixel` of `entered` is the first of the nine.
  template <class Each>
  void every_maximum(int64_t row, const Each& each) const {
    for (int64_t x = 0; x < w_; ++x) {
      const int64_t at = (row * w_ + x) * lanes_;
      for (int64_t c = 0; c < call_.gate; ++c) {
        const int64_t place = int64_t(places_.data()[at + c]);
        const int64_t strided_y = apart * (row % h_) + place / window, strided_x = apart * x + place % window;
        each(c, grad_pooled_.data()[at + c], (row / h_ * call_.h + 2 * strided_y) * call_.w + 2 * strided_x);
      }
    }
  }

  void scatter() const {
    const Aligned<S> filters(call_.gate * taps * lanes_);  // [P out, taps, lanes in]
    std::fill_n(filters.data(), call_.gate * taps * lanes_, S(0));
    const T* weight = maps_.parameter(stride_weight);
    for (int64_t out = 0; out < call_.gate; ++out)
      for (int64_t in = 0; in < call_.gate; ++in)
        for (int64_t tap = 0; tap < taps; ++tap)
          filters.data()[(out * taps + tap) * lanes_ + in] =
              wide_number<S>(weight[(out * call_.gate + in) * taps + tap]);
    // Two rows of windows reach 21 rows of pixels, and those of the next band but one begin 24 below.
    constexpr int64_t band = 2;
    const int64_t bands = (h_ + band - 1) / band;
    for (int64_t first : {0, 1}) {
      const int64_t tasks = (bands - first + 1) / 2;
      run_tasks(call_.n * tasks, [&](int64_t task) {
        const int64_t begin = (task % tasks * 2 + first) * band;
        for (int64_t y = begin; y < std::min(begin + band, h_); ++y)
          every_maximum(task / tasks * h_ + y, [&](int64_t c, S number, int64_t pixel) {
            const V g = V::fill(number);
            const S* from = filters.data() + c * taps * lanes_;
            for (int64_t tap = 0; tap < taps; ++tap) {
              S* to = static_cast<S*>(pass_.grad_entered) + beside(pixel, tap);
              for (int64_t i = 0; i < lanes_; i += size, from += size)
                fma(g, V::load(from), V::load(to + i)).store(to + i);
            }
          });
      });
    }
  }

  int64_t beside(int64_t pixel, int64_t tap) const {
    return (pixel + tap / filter_side * call_.w + tap % filter_side) * lanes_;
  }

  void sum_filters() const {
    const int64_t p = call_.gate, wide = taps * lanes_;
    Blocks rows(false, call_.n, h_, 1);  // a row of windows a block
    rows.block = 1;
    rows.each = h_;
    const int64_t pool = 0, stride = pool + p * wide, pool_sums = stride + p * wide, stride_sums = pool_sums + p;
    const int64_t count = stride_sums + p;
    const Aligned<double> sums(count);
    run_with_sums(rows, false, count, sums.data(), [&](const Block& block, double* to) {
      const int64_t row = block.picture * h_ + block.pixel;
      const S* grad = grad_coarse_.data() + row * w_ * lanes_;
      multiply(Product<S>{grad, 1, lanes_, reads(maps_.pooled.data(), row), wide, w_}, p, wide,
               [=](V found, int64_t out, int64_t column, auto...) {
                 S numbers[size];
                 found.store(numbers);
                 for (int i = 0; i < size; ++i) to[pool + out * wide + column + i] += numbers[i];
               });
      for (int64_t x = 0; x < w_; ++x)
        for (int64_t c = 0; c < p; ++c) to[pool_sums + c] += grad[x * lanes_ + c];

      S* products = scratch<S>(p * wide);
      std::fill_n(products, p * wide, S(0));
      every_maximum(row, [&](int64_t c, S number, int64_t pixel) {
        const V g = V::fill(number);
        S* sum = products + c * wide;
        to[stride_sums + c] += number;
        for (int64_t tap = 0; tap < taps; ++tap) {
          const S* from = entered_ + beside(pixel, tap);
          for (int64_t i = 0; i < lanes_; i += size, sum += size) fma(g, V::load(from + i), V::load(sum)).store(sum);
        }
      });
      for (int64_t i = 0; i < p * wide; ++i) to[stride + i] += products[i];
    });

    double* to = pass_.sums;
    for (int i = 0; i < stride_weight; ++i) to += call_.numbers[i];
    const std::pair<int64_t, int64_t> found[] = {{stride, stride_sums}, {pool, pool_sums}};
    for (const auto& [filters, bias] : found) {
      for (int64_t out = 0; out < p; ++out)
        for (int64_t in = 0; in < p; ++in)
          for (int64_t tap = 0; tap < taps; ++tap) *to++ = sums.data()[filters + out * wide + tap * lanes_ + in];
      for (int64_t out = 0; out < p; ++out) *to++ = sums.data()[bias + out];
    }
  }

  const GatedPointwiseCoarseGradients& pass_;
  const GatedPointwise& call_;
  const S* entered_;
  const Coarse<T> maps_;
  const int64_t lanes_, h_, w_;
  const Aligned<S> grad_coarse_, grad_pooled_, places_;  // each [N, h, w, lanes]
};

}  // namespace lightsr::gated
