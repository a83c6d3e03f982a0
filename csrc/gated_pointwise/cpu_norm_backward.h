// The gradient of the layer norm over the channels of each pixel of a block.
//
// With z = (x - mean) r and r = 1 / sqrt(variance + eps), and g the gradient of weight z + bias times weight:
// grad_x = r (g - mean(g) - z mean(g z)). The gradients of weight and bias are sums over pixels.
#pragma once

#include <cmath>

#include "../common/channel_norm.h"

namespace lightsr::gated {

template <class T>
class NormGradient {
  using S = Wide<T>;
  using V = Vec<S>;
  static constexpr int size = V::size;

 public:
  NormGradient(bool planes, int64_t channels, double eps, const void* weight)
      : channels_(channels), eps_(S(eps)), weight_(planes, static_cast<const T*>(weight), channels) {}

  void operator()(const Block& block, Rows<const T> x, Rows<const S> grad, Rows<T> to, const ChannelSums<S>& of_weight,
                  const ChannelSums<S>& of_bias) const {
    if (!block.planes) {
      for (int64_t p = 0; p < block.count; ++p) pixel(p, x, grad, to, of_weight, of_bias);
      return;
    }
    for (int64_t p = 0; p < block.count; p += size) {
      if (p + size <= block.count)
        pixels(p, x, grad, to, of_weight, of_bias);
      else
        pixels(p, x, grad, to, of_weight, of_bias, int(block.count - p));
    }
  }

 private:
  // A vector of pixels, a channel at a time.
  template <class... Part>
  void pixels(int64_t p, Rows<const T> x, Rows<const S> grad, Rows<T> to, const ChannelSums<S>& of_weight,
              const ChannelSums<S>& of_bias, Part... part) const {
    const V share = V::fill(S(1) / S(channels_));
    V mean = V::fill(0), first = mean, second = mean;
    CentredSums<S> sums;
    for (int64_t c = 0; c < channels_; ++c) mean = mean + V::load(x.at(c, p), part...);
    mean = mean * share;
    for (int64_t c = 0; c < channels_; ++c) sums.add(V::load(x.at(c, p), part...) - mean);
    const V root = sums.root(share, eps_, mean);
    const auto weight = weight_.from_channel(0);
    for (int64_t c = 0; c < channels_; ++c) {
      const V normed = (V::load(x.at(c, p), part...) - mean) * root, by = V::load(grad.at(c, p), part...);
      of_weight.add(by * normed, c, p, part...);
      of_bias.add(by, c, p, part...);
      const V weighted = by * weight.at(c, p);
      first = first + weighted;
      second = fma(weighted, normed, second);
    }
    first = first * share;
    second = second * share;
    for (int64_t c = 0; c < channels_; ++c) {
      const V normed = (V::load(x.at(c, p), part...) - mean) * root, by = V::load(grad.at(c, p), part...);
      ((fma(by, weight.at(c, p), -first) - normed * second) * root).store(to.at(c, p), part...);
    }
  }

  // The channels of a pixel, a vector at a time.
  void pixel(int64_t p, Rows<const T> x, Rows<const S> grad, Rows<T> to, const ChannelSums<S>& of_weight,
             const ChannelSums<S>& of_bias) const {
    const int64_t whole = channels_ / size * size;
    const int part = int(channels_ - whole);
    const auto weight = weight_.from_channel(0);
    const T* from = x.at(p, 0);
    const auto every = [&](const auto& each) {
      for (int64_t c = 0; c < whole; c += size) each(c);
      if (part) each(whole, part);
    };
    const S share = S(1) / S(channels_);
    V total = V::fill(0);
    every([&](int64_t c, auto... some) { total = total + V::load(from + c, some...); });
    const V mean = V::fill(sum(total) * share);
    total = V::fill(0);
    every([&](int64_t c, auto... some) {
      const V centred = there(V::load(from + c, some...) - mean, some...);
      total = fma(centred, centred, total);
    });
    const V root = V::fill(S(1) / std::sqrt(sum(total) * share + eps_));
    V first = V::fill(0), second = first;
    every([&](int64_t c, auto... some) {
      const V normed = (V::load(from + c, some...) - mean) * root, by = V::load(grad.at(p, c), some...);
      of_weight.add(by * normed, p, c, some...);
      of_bias.add(by, p, c, some...);
      const V weighted = there(by * weight.at(p, c), some...);
      first = first + weighted;
      second = fma(weighted, normed, second);
    });
    const V means = V::fill(sum(first) * share), slope = V::fill(sum(second) * share);
    every([&](int64_t c, auto... some) {
      const V normed = (V::load(from + c, some...) - mean) * root, by = V::load(grad.at(p, c), some...);
      ((fma(by, weight.at(p, c), -means) - normed * slope) * root).store(to.at(p, c), some...);
    });
  }

  // The lanes that stand for channels; the others are zero.
  static V there(V value) { return value; }
  static V there(V value, int part) {
    S lanes[size];
    value.store(lanes);
    return V::load(lanes, part);
  }

  int64_t channels_;
  S eps_;
  PerChannel<S> weight_;
};

}  // namespace lightsr::gated
