// The way back from rows of pixels to pictures: rows of a picture as they are, and the gradient of the layer norm.
//
// With u = (x - mean) root, root one over the deviation, n = u weight + bias and g the gradient of n:
//
//   v = g weight    grad_x = root (v - mean_c v - u mean_c(u v)) + what went around the norm
//   grad_weight = sum of g u    grad_bias = sum of g
//
// u is computed again of x and of the mean and root that were kept. Layouts as in cpu_tokens.h: vectors lie along the
// channels of a row in channels_last, along pixels in planes, where rows are turned over in registers first.
#pragma once

#include "cpu_tokens.h"

namespace lightsr {

template <class T>
class TokenGradients {
 public:
  using S = Wide<T>;
  using F = typename Numbers<T>::Factor;
  static constexpr int size = Vec<S>::size;

  TokenGradients(bool planes, int64_t channels, int64_t pixels, const void* weight)
      : planes_(planes),
        channels_(channels),
        padded_(round_up(channels, size)),
        pixels_(pixels),
        share_(S(1) / S(channels)),
        weight_(padded_) {
    std::fill_n(weight_.data(), padded_, S(0));
    for (int64_t c = 0; c < channels; ++c) weight_.data()[c] = wide_number<S>(static_cast<const T*>(weight)[c]);
  }

  int64_t work() const { return planes_ ? padded_ * size : 0; }  // numbers of S that `before` works in

  // Row place(p) becomes pixel p of `count` neighbours, x at the first of them; its padding is zeros.
  template <class Place>
  void rows(const T* x, int64_t count, const Place& place) const {
    if (!planes_) {
      const int64_t whole = channels_ / size * size;
      const int part = static_cast<int>(channels_ - whole);
      for (int64_t p = 0; p < count; ++p) {
        const T* from = x + p * channels_;
        F* to = place(p);
        for (int64_t c = 0; c < whole; c += size) V::load(from + c).store(to + c);
        if (part) V::load(from + whole, part).store(to + whole);
      }
      return;
    }
    for (int64_t p = 0; p < count; p += size) {
      const int many = static_cast<int>(std::min<int64_t>(size, count - p));
      if (many == size) {
        turned(x, p, many, place);
      } else {
        turned(x, p, many, place, many);
      }
    }
  }

  // grad_x (or null) = around (or 0) + the norm's gradient at `count` neighbours; x, around and grad_x at the first of
  // them, its moments as Tokens gives them, row place(p) the gradient of the normalised pixel p. Adds to the sums that
  // are there.
  template <class Place>
  void before(const T* x, const T* around, T* grad_x, int64_t count, const S* moments, int64_t apart, S* work,
              const Place& place, const ChannelSums<S>& of_weight, const ChannelSums<S>& of_bias) const {
    for (int64_t p = 0; p < count; p += size) {
      const int many = static_cast<int>(std::min<int64_t>(size, count - p));
      const V mean = V::load(moments + p, many), root = V::load(moments + apart + p, many);
      if (!planes_) {
        by_pixels(x, around, grad_x, p, many, mean, root, place, of_weight, of_bias);
      } else if (many == size) {
        by_planes(x, around, grad_x, p, many, mean, root, work, place, of_weight, of_bias);
      } else {
        by_planes(x, around, grad_x, p, many, mean, root, work, place, of_weight, of_bias, many);
      }
    }
  }

 private:
  using V = Vec<S>;

  template <class Place, class... Part>
  void turned(const T* x, int64_t pixel, int many, const Place& place, Part... part) const {
    for (int64_t c = 0; c < padded_; c += size) {
      const int there = static_cast<int>(std::min<int64_t>(size, channels_ - c));
      V values[size];
      for (int i = 0; i < there; ++i) values[i] = V::load(x + (c + i) * pixels_ + pixel, part...);
      for (int i = there; i < size; ++i) values[i] = V::fill(0);
      transpose(values);
      for (int i = 0; i < many; ++i) values[i].store(place(pixel + i) + c);
    }
  }

  template <class Place>
  void by_pixels(const T* x, const T* around, T* grad_x, int64_t pixel, int many, V mean, V root, const Place& place,
                 const ChannelSums<S>& of_weight, const ChannelSums<S>& of_bias) const {
    const int64_t whole = channels_ / size * size;
    const int part = static_cast<int>(channels_ - whole);
    const V share = V::fill(share_), zero = V::fill(0);
    S means[size], roots[size];
    mean.store(means);
    root.store(roots);
    V first[size], second[size];  // sums of v and of u v
    for (int i = 0; i < many; ++i) {
      const T* from = x + (pixel + i) * channels_;
      const S* row = place(pixel + i);
      const V middle = V::fill(means[i]), scale = V::fill(roots[i]);
      V one = zero, two = zero;
      const auto add = [&](V value, V g, int64_t c) {
        const V u = (value - middle) * scale, v = g * V::load(weight_.data() + c);
        one = one + v;
        two = lightsr::fma(u, v, two);
        if (of_weight.data) of_weight.add(g * u, 0, c);
        if (of_bias.data) of_bias.add(g, 0, c);
      };
      for (int64_t c = 0; c < whole; c += size) add(V::load(from + c), V::load(row + c), c);
      if (part) add(V::load(from + whole, part), V::load(row + whole, part), whole);
      first[i] = one;
      second[i] = two;
    }
    if (!grad_x) return;
    for (int i = many; i < size; ++i) first[i] = second[i] = zero;
    S firsts[size], seconds[size];
    (sum_each(first) * share).store(firsts);
    (sum_each(second) * share).store(seconds);
    for (int i = 0; i < many; ++i) {
      const int64_t at = (pixel + i) * channels_;
      const S* row = place(pixel + i);
      const V middle = V::fill(means[i]), scale = V::fill(roots[i]), one = V::fill(firsts[i]),
              two = V::fill(seconds[i]);
      const auto put = [&](int64_t c, auto... some) {
        const V u = (V::load(x + at + c, some...) - middle) * scale;
        const V v = V::load(row + c) * V::load(weight_.data() + c);
        const V inner = lightsr::fma(-u, two, v - one);
        lightsr::fma(inner, scale, around ? V::load(around + at + c, some...) : zero).store(grad_x + at + c, some...);
      };
      for (int64_t c = 0; c < whole; c += size) put(c);
      if (part) put(whole, part);
    }
  }

  template <class Place, class... Part>
  void by_planes(const T* x, const T* around, T* grad_x, int64_t pixel, int many, V mean, V root, S* work,
                 const Place& place, const ChannelSums<S>& of_weight, const ChannelSums<S>& of_bias,
                 Part... part) const {
    const V share = V::fill(share_), zero = V::fill(0);
    V one = zero, two = zero;
    for (int64_t c = 0; c < padded_; c += size) {
      V values[size];
      for (int i = 0; i < many; ++i) values[i] = V::load(place(pixel + i) + c);
      for (int i = many; i < size; ++i) values[i] = zero;
      transpose(values);
      const int there = static_cast<int>(std::min<int64_t>(size, channels_ - c));
      for (int i = 0; i < there; ++i) {
        const V g = values[i], u = (V::load(x + (c + i) * pixels_ + pixel, part...) - mean) * root;
        const V v = g * V::fill(weight_.data()[c + i]);
        one = one + v;
        two = lightsr::fma(u, v, two);
        if (of_weight.data) of_weight.add(g * u, c + i, 0);
        if (of_bias.data) of_bias.add(g, c + i, 0);
        v.store(work + (c + i) * size);
      }
    }
    if (!grad_x) return;
    one = one * share;
    two = two * share;
    for (int64_t c = 0; c < channels_; ++c) {
      const int64_t at = c * pixels_ + pixel;
      const V u = (V::load(x + at, part...) - mean) * root;
      const V inner = lightsr::fma(-u, two, V::load(work + c * size) - one);
      lightsr::fma(inner, root, around ? V::load(around + at, part...) : zero).store(grad_x + at, part...);
    }
  }

  bool planes_;
  int64_t channels_, padded_, pixels_;
  S share_;
  Aligned<S> weight_;
};

}  // namespace lightsr
