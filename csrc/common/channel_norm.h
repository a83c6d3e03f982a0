// The layer norm over the channels of each pixel of a block, into the buffer that products read.
//
// The mean is taken off before squares are added. Where pixels lie one behind the other a vector is that of so many
// pixels; where channels do, sums go across lanes.
#pragma once

#include <cmath>
#include <limits>

#include "pixel_product.h"

namespace lightsr {

// Sums over the channels of pixels less their mean. A long sum loses digits of a large mean: that is seen in what is
// left of the pixels, and put back.
template <class S>
struct CentredSums {
  Vec<S> values = Vec<S>::fill(0), squares = Vec<S>::fill(0);

  void add(Vec<S> centred) {
    values = values + centred;
    squares = fma(centred, centred, squares);
  }
  // 1 / sqrt(variance + eps), with `share` 1 / C; and the mean as it should have been.
  Vec<S> root(Vec<S> share, S eps, Vec<S>& mean) const {
    const Vec<S> rest = values * share, largest = Vec<S>::fill(std::numeric_limits<S>::max());
    mean = mean + rest;
    const Vec<S> variance = fma(squares, share, -min(largest, rest * rest));  // infinite squares stay so
    return Vec<S>::fill(1) / sqrt(max(Vec<S>::fill(0), variance) + Vec<S>::fill(eps));
  }
};

template <class T>
class ChannelNorm {
  using S = Wide<T>;
  static constexpr int size = Vec<S>::size;

 public:
  ChannelNorm(bool planes, int64_t channels, double eps, const void* weight, const void* bias)
      : channels_(channels),
        eps_(S(eps)),
        weight_(planes, static_cast<const T*>(weight), channels),
        bias_(planes, static_cast<const T*>(bias), channels) {}

  void operator()(const Block& block, Rows<const T> x, const Operand<T>& to) const {
    if (block.planes)
      by_planes(block, x, to);
    else
      by_pixels(block, x, to);
  }

 private:
  void by_planes(const Block& block, Rows<const T> x, const Operand<T>& to) const {
    constexpr int64_t most = 4;  // vectors at once: the sums of one wait for each other
    int64_t p = 0;
    for (; p + most * size <= block.count; p += most * size) pixels<most>(x, to, p);
    for (; p + size <= block.count; p += size) pixels<1>(x, to, p);
    if (p < block.count) pixels<1>(x, to, p, int(block.count - p));
  }

  // Rows of x are far apart in memory, too many for the L1 cache to have one beside the other: they are copied into the
  // buffer, where its numbers are as wide as what is computed with, and read there.
  template <int vectors, class... Part>
  void pixels(Rows<const T> x, const Operand<T>& to, int64_t p, Part... part) const {
    constexpr bool copied = std::is_same_v<typename Numbers<T>::Factor, S>;
    const auto every = [](const auto& each) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) each(v);
    };
    // Read once: what is stored might be these, for all that the compiler knows.
    const int64_t channels = channels_, step = to.numbers.step, far = x.step;
    const auto buffer = to.numbers.at(0, p);
    const T* from = x.at(0, p);
    const auto at = [=](int64_t c, int v) {
      if constexpr (copied)
        return Vec<S>::load(buffer + c * step + v * size, part...);
      else
        return Vec<S>::load(from + c * far + v * size, part...);
    };
    const Vec<S> share = Vec<S>::fill(S(1) / S(channels_)), zero = Vec<S>::fill(0);
    Vec<S> mean[vectors], root[vectors];
    CentredSums<S> sums[vectors];
    every([&](int v) { mean[v] = zero; });
    for (int64_t c = 0; c < channels; ++c) {
      every([&](int v) {
        const Vec<S> value = Vec<S>::load(from + c * far + v * size, part...);
        if constexpr (copied) value.store(buffer + c * step + v * size, part...);
        mean[v] = mean[v] + value;
      });
    }
    every([&](int v) { mean[v] = mean[v] * share; });
    for (int64_t c = 0; c < channels; ++c) {
      every([&](int v) {
        __builtin_prefetch(from + c * far + (vectors + v) * size);  // for the next vectors: rows are short
        sums[v].add(at(c, v) - mean[v]);
      });
    }
    every([&](int v) { root[v] = sums[v].root(share, eps_, mean[v]); });
    const auto weight = weight_.from_channel(0), bias = bias_.from_channel(0);
    for (int64_t c = 0; c < channels; ++c) {
      const auto gain = weight.template in_row<true>(c), offset = bias.template in_row<true>(c);
      every([&](int v) {
        const Vec<S> normed = (at(c, v) - mean[v]) * root[v];
        fma(normed, gain.at(p), offset.at(p)).store(buffer + c * step + v * size, part...);
      });
    }
  }

  void by_pixels(const Block& block, Rows<const T> x, const Operand<T>& to) const {
    const int64_t whole = channels_ / size * size;
    const int part = int(channels_ - whole);
    const auto weight = weight_.from_channel(0), bias = bias_.from_channel(0);
    for (int64_t p = 0; p < block.count; ++p) {
      const T* from = x.at(p, 0);
      Vec<S> total = part ? Vec<S>::load(from + whole, part) : Vec<S>::fill(0);
      for (int64_t c = 0; c < whole; c += size) total = total + Vec<S>::load(from + c);
      const S mean = sum(total) / S(channels_);
      S squares[size] = {};
      const Vec<S> means = Vec<S>::fill(mean);
      if (part) {
        const Vec<S> centred = Vec<S>::load(from + whole, part) - means;
        (centred * centred).store(squares, part);  // of the lanes that are there
      }
      total = Vec<S>::load(squares);
      for (int64_t c = 0; c < whole; c += size) {
        const Vec<S> centred = Vec<S>::load(from + c) - means;
        total = fma(centred, centred, total);
      }
      const Vec<S> root = Vec<S>::fill(S(1) / std::sqrt(sum(total) / S(channels_) + eps_));
      const auto put = [&](int64_t c, auto... some) {
        const Vec<S> normed = (Vec<S>::load(from + c, some...) - means) * root;
        fma(normed, weight.at(p, c), bias.at(p, c)).store(to.numbers.at(p, c), some...);
      };
      for (int64_t c = 0; c < whole; c += size) put(c);
      if (part) put(whole, part);
    }
  }

  int64_t channels_;
  S eps_;
  PerChannel<S> weight_, bias_;
};

}  // namespace lightsr
