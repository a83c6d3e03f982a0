// What becomes of the sums of a convolution: bias, residual, activation, rounding, and the places that pixel shuffle
// gives them. And the filters as both ways of convolving read them.
#pragma once

#include "../common/parallel.h"
#include "../common/pixels.h"
#include "../common/shuffle.h"
#include "../common/simd_math.h"
#include "cpu_input.h"

namespace lightsr::dense {

// Pixels beside each other in a row of a picture; the first one's numbers stand at place `at` of a block.
struct Run {
  int64_t n, y, x, count, at;
};

// Calls each(run) for the pixels from `begin` to `end` of pictures of so many rows and columns.
template <class Each>
void every_run(int64_t begin, int64_t end, int64_t rows, int64_t columns, const Each& each) {
  for (int64_t pixel = begin; pixel < end;) {
    const int64_t x = pixel % columns, row = pixel / columns, count = std::min(columns - x, end - pixel);
    each(Run{row / rows, row % rows, x, count, pixel - begin});
    pixel += count;
  }
}

// Calls each(first, many) for groups of output channels as wide as products take them, in whole vectors.
template <int size, class Each>
void every_group(int64_t outs, const Each& each) {
  const int64_t vectors = outs / size, groups = (vectors + product_vectors - 1) / product_vectors;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t first = vectors * group / groups;
    each(first * size, (vectors * (group + 1) / groups - first) * size);
  }
}

// weight(out, in, tap), with taps numbered row by row.
template <class E, class S>
class Filters {
 public:
  explicit Filters(const DenseConv& call)
      : taps_(call.kh * call.kw),
        out_step_(taps_ * (call.transpose ? 1 : call.c)),
        in_step_(taps_ * (call.transpose ? call.outs : 1)),
        transpose_(call.transpose),
        numbers_(static_cast<const S*>(call.weight), call.outs * call.c * taps_, 0) {}
  E at(int64_t out, int64_t in, int64_t tap) const {
    return numbers_.data()[out * out_step_ + in * in_step_ + (transpose_ ? taps_ - 1 - tap : tap)];
  }

 private:
  int64_t taps_, out_step_, in_step_;
  bool transpose_;
  Widened<E> numbers_;
};

// Pixels beside each other in a picture of so many channels and pixels, to be asked for.
template <class S, bool last>
void add_pixels(const S* picture, int64_t channels, int64_t area, int64_t pixel, int64_t count, Ahead& ahead) {
  constexpr int64_t each = sizeof(S);
  if (last) {
    ahead.add(picture + pixel * channels, 0, count * channels * each, 1);
  } else {
    ahead.add(picture + pixel, area * each, count * each, channels);
  }
}

// Results on their way into a picture. Sums may be read up to a vector's end.
template <class E, class S, bool last>
class Finish {
  static constexpr int size = Vec<E>::size;

 public:
  static constexpr bool all_channels = false;  // whether it needs those of a pixel at once

  explicit Finish(const DenseConv& call)
      : out_(static_cast<S*>(call.out)),
        residual_(static_cast<const S*>(call.residual)),
        activation_(call.activation),
        slope_(Vec<E>::fill(static_cast<E>(call.negative_slope))),
        outs_(call.outs),
        h_(call.h),
        w_(call.w),
        r_(call.shuffle),
        bias_(static_cast<const S*>(call.bias), call.outs, size),
        places_(call.outs),
        past_(r_ == 1 && past_cache<S>(call.n * outs_ * h_ * w_, last ? outs_ : w_, call.transpose)) {
    const int64_t each = last ? outs_ / (r_ * r_) : 1;  // from one enlarged pixel to the next
    for (int64_t out = 0; out < outs_; ++out) {
      const int64_t channel = out / (r_ * r_), y = out / r_ % r_, x = out % r_;
      places_.data()[out] = (y * w_ * r_ + x) * each + channel * (last ? 1 : h_ * w_ * r_ * r_);
    }
  }

  // [N, C, H, W]: the pixels of a run for `many` output channels from `first` on, their sums `step` apart.
  void channels(const Run& run, int64_t first, int64_t many, const E* sums, int64_t step) const {
    const int64_t from = ((run.n * outs_ + first) * h_ + run.y) * w_ + run.x;
    S* base = out_ + (run.n * outs_ * h_ + run.y * r_ * r_) * w_ + run.x * r_;
    for (int64_t i = 0; i < many; ++i, sums += step) {
      if ((first + i) % r_ == 0 && i + r_ <= many && enlarged(run, first + i, sums, step, base)) {
        i += r_ - 1, sums += (r_ - 1) * step;
        continue;
      }
      const S* residual = residual_ ? residual_ + from + i * h_ * w_ : nullptr;
      S* to = base + places_.data()[first + i];
      const Vec<E> bias = Vec<E>::fill(bias_.data()[first + i]);
      every_vector(run.count, [&](int64_t j, auto... part) {
        const Vec<E> value = finished(Vec<E>::load(sums + j) + bias, residual, j, part...);
        if (r_ == 1) return put(value, to + j, past_, part...);
        S numbers[size];
        value.store(numbers);
        const int64_t count = std::min<int64_t>(size, run.count - j);
        for (int64_t k = 0; k < count; ++k) to[(j + k) * r_] = numbers[k];
      });
    }
  }

  // How many channels `channels` is best given at once.
  int64_t together() const { return r_ <= widest ? r_ : 1; }

  // [N, H, W, C]: of the pixels of a run `many` output channels from `first` on, their sums `step` apart.
  void pixels(const Run& run, int64_t first, int64_t many, const E* sums, int64_t step) const {
    const int64_t from = ((run.n * h_ + run.y) * w_ + run.x) * outs_ + first;
    S* base = out_ + (run.n * h_ + run.y) * w_ * outs_ + run.x * (outs_ / r_);
    const E* bias = bias_.data() + first;
    const int64_t* places = places_.data() + first;
    for (int64_t i = 0; i < run.count; ++i, sums += step, base += outs_ / r_) {
      const S* residual = residual_ ? residual_ + from + i * outs_ : nullptr;
      every_vector(many, [&](int64_t j, auto... part) {
        const Vec<E> value = finished(Vec<E>::load(sums + j) + Vec<E>::load(bias + j), residual, j, part...);
        if (r_ == 1) return put(value, base + first + j, past_, part...);
        S numbers[size];
        value.store(numbers);
        const int64_t count = std::min<int64_t>(size, many - j);
        for (int64_t k = 0; k < count; ++k) base[places[j + k]] = numbers[k];
      });
    }
  }

  // Bytes of scratch memory that it needs.
  static int64_t bytes(int64_t) { return 0; }

  // Has the memory of all results of a run asked for, and what is added to them.
  void add_results(const Run& run, Ahead& ahead) const {
    if (residual_) {
      const int64_t area = h_ * w_;
      add_pixels<S, last>(residual_ + run.n * outs_ * area, outs_, area, run.y * w_ + run.x, run.count, ahead);
    }
    if (past_) return;
    const int64_t channels = outs_ / (r_ * r_), area = h_ * w_ * r_ * r_;
    for (int64_t row = run.y * r_; row < (run.y + 1) * r_; ++row)
      add_pixels<S, last>(out_ + run.n * channels * area, channels, area, row * w_ * r_ + run.x * r_, run.count * r_,
                          ahead);
  }

  // Asks for the memory that channels() will write and read.
  void ask_for(const Run& run, int64_t first, int64_t many) const {
    if (r_ > 1) return;
    constexpr int64_t line = per_line<S>;
    const int64_t from = ((run.n * outs_ + first) * h_ + run.y) * w_ + run.x;
    for (int64_t i = 0; i < many; ++i) {
      for (int64_t j = 0; j < run.count; j += line) {
        if (!past_) __builtin_prefetch(out_ + from + i * h_ * w_ + j, 1);
        if (residual_) __builtin_prefetch(residual_ + from + i * h_ * w_ + j);
      }
    }
  }

 private:
  static constexpr int64_t widest = 4;  // the usual scales

  // The r channels from `first` on that lie beside each other in rows of the enlarged picture; false: not written.
  bool enlarged(const Run& run, int64_t first, const E* sums, int64_t step, S* base) const {
    switch (r_) {
      case 2:
        return enlarge<2>(run, first, sums, step, base), true;
      case 3:
        return enlarge<3>(run, first, sums, step, base), true;
      case 4:
        return enlarge<4>(run, first, sums, step, base), true;
    }
    return false;
  }
  template <int r>
  void enlarge(const Run& run, int64_t first, const E* sums, int64_t step, S* base) const {
    const int64_t area = h_ * w_, from = ((run.n * outs_ + first) * h_ + run.y) * w_ + run.x;
    S* const to = base + places_.data()[first];
    every_vector(run.count, [&](int64_t j, auto... part) {
      Vec<E> values[r];
#pragma GCC unroll 4
      for (int k = 0; k < r; ++k) {
        const S* residual = residual_ ? residual_ + from + k * area : nullptr;
        const Vec<E> sum = Vec<E>::load(sums + k * step + j) + Vec<E>::fill(bias_.data()[first + k]);
        values[k] = finished(sum, residual, j, part...);
      }
      each_by_turns(values, std::make_integer_sequence<int, r>{}, [&](int k, Vec<E> value) {
        S* const place = to + j * r + k * size;
        if constexpr (sizeof...(part) == 0) {
          value.store(place);
        } else {
          const int left = (part + ...) * r - k * size;
          if (left > 0) value.store(place, std::min(left, size));
        }
      });
    });
  }

  template <class Each>
  static void every_vector(int64_t count, const Each& given) {
    const Each each = given;  // a copy that nothing else points to, so what it holds stays in registers
    int64_t i = 0;
    for (; i + size <= count; i += size) each(i);
    if (i < count) each(i, static_cast<int>(count - i));
  }
  template <class... Part>
  Vec<E> finished(Vec<E> value, const S* residual, int64_t i, Part... part) const {
    if (residual) value = value + Vec<E>::load(residual + i, part...);
    return activate(value, activation_, slope_);
  }

  S* out_;
  const S* residual_;
  Activation activation_;
  Vec<E> slope_;
  int64_t outs_, h_, w_, r_;
  Widened<E> bias_;
  Aligned<int64_t> places_;  // where an output channel of a pixel stands, from the pixel's first number
  bool past_;                // whether results go past the caches
};

}  // namespace lightsr::dense
