// Mean and variance of every plane in one reading of x.
//
// Numbers go in blocks. From each number a guess at the mean is taken off, the mean of the block before or, for a
// task's first block, of its first numbers, and what is left and its square are summed in the type that is computed in.
// Small numbers sum without loss, so that a block's mean and squares follow in float64 as exactly as float32 allows
// however large the mean; and where a guess is bad, the plane varies as much as the guess is off. Blocks are merged by
// Chan's rule in an order that sizes alone decide.
#pragma once

#include <cmath>

#include "arguments.h"
#include "cpu_runs.h"

namespace lightsr::instance_norm_attention {

// Of `count` numbers: their mean, and the sum of the squares of what they are off it.
struct Moment {
  double count = 0, mean = 0, squares = 0;
};

// Chan's rule. What is infinite stays so, and equal means stay the same.
inline void merge(Moment& into, const Moment& from) {
  if (into.count == 0) {
    into = from;
    return;
  }
  double count = into.count + from.count, weight = from.count / count, apart = from.mean - into.mean;
  into.squares += from.squares + apart * apart * (into.count * weight);
  into.mean += std::isfinite(apart) ? apart * weight : from.mean;
  into.count = count;
}

// From the sums of what numbers are off a guess, and of its squares.
inline Moment moment_of(double guess, double rest, double squares, int64_t count) {
  double off = rest / double(count), left = squares - rest * off;
  return {double(count), guess + off, left < 0 ? 0 : left};
}

template <class E>
E finite_or_zero(E guess) {
  return std::isfinite(guess) ? guess : E(0);
}

// A run of pixels; without `spread` their mean alone.
template <bool spread, class E, class S>
Moment moment_of_run(const S* x, int64_t count) {
  using V = Vec<E>;
  constexpr int64_t block = 256 * V::size, step = 4 * V::size;
  const V zero = V::fill(0);
  V first = zero;
  const int64_t some = std::min(count, step);
  each_vector<E>(some, [&](int64_t i, auto... part) { first = first + V::load(x + i, part...); });
  E guess = finite_or_zero<E>(sum(first) / E(some));
  Moment found;
  for (int64_t begin = 0; begin < count; begin += block, x += block) {
    const int64_t numbers = std::min(block, count - begin);
    const V centre = V::fill(guess);
    V rest = zero, squares = zero;
    // Sums of a few, then sums of these: squares of numbers with few digits are multiples of 4 or 1 more, and would all
    // be rounded the same way by one long sum.
    for (int64_t i = 0, end; i < numbers; i = end) {
      end = std::min(i + 8 * step, numbers);
      V off[4], few[4] = {zero, zero, zero, zero}, square[4] = {zero, zero, zero, zero};
      for (; i + step <= end; i += step) {
        for (int j = 0; j < 4; ++j) {
          off[j] = V::load(x + i + j * V::size) - centre;
          few[j] = few[j] + off[j];
          if constexpr (spread) square[j] = fma(off[j], off[j], square[j]);
        }
      }
      for (; i < end; i += V::size) {
        const int part = int(std::min<int64_t>(V::size, end - i));
        E padded[V::size];  // lanes beyond the end are not off the guess
        centre.store(padded);
        V::load(x + i, part).store(padded, part);
        off[0] = V::load(padded) - centre;
        few[0] = few[0] + off[0];
        if constexpr (spread) square[0] = fma(off[0], off[0], square[0]);
      }
      rest = rest + ((few[0] + few[1]) + (few[2] + few[3]));
      squares = squares + ((square[0] + square[1]) + (square[2] + square[3]));
    }
    const Moment next = moment_of(guess, sum(rest), sum(squares), numbers);
    guess = finite_or_zero<E>(E(next.mean));
    merge(found, next);
  }
  return found;
}

// rest += what the channels of some pixels, one behind the other, are off the guess; squares += its squares.
template <int pixels, class E, class S>
void add_deviations(const S* x, int64_t c, const E* guess, E* rest, E* squares) {
  using V = Vec<E>;
  each_vector<E>(c, [&](int64_t i, auto... part) {
    const V centre = V::load(guess + i, part...);
    const V zero = V::fill(0);
    V few[2] = {zero, zero}, square[2] = {zero, zero};  // see moment_of_run
#pragma GCC unroll 8
    for (int p = 0; p < pixels; ++p) {
      V off = V::load(x + p * c + i, part...) - centre;
      few[p % 2] = few[p % 2] + off;
      square[p % 2] = fma(off, off, square[p % 2]);
    }
    (V::load(rest + i, part...) + (few[0] + few[1])).store(rest + i, part...);
    (V::load(squares + i, part...) + (square[0] + square[1])).store(squares + i, part...);
  });
}

// `pixels` runs of c channels: the moments of each channel into mean and squares. buffer: 3 c numbers.
template <class E, class S>
void moments_of_pixels(const S* x, int64_t c, int64_t pixels, E* buffer, double* mean, double* squares) {
  constexpr int64_t block = 256, some = 16;
  E *guess = buffer, *rest = buffer + c, *square = buffer + 2 * c;
  std::fill_n(buffer, 3 * c, E(0));
  for (int64_t p = 0; p < std::min(some, pixels); ++p) add_deviations<1>(x + p * c, c, guess, rest, square);
  for (int64_t i = 0; i < c; ++i) guess[i] = finite_or_zero<E>(rest[i] / E(std::min(some, pixels)));
  for (int64_t begin = 0; begin < pixels; begin += block) {
    const int64_t count = std::min(block, pixels - begin);
    const S* from = x + begin * c;
    std::fill_n(rest, 2 * c, E(0));
    int64_t p = 0;
    for (; p + 8 <= count; p += 8) add_deviations<8>(from + p * c, c, guess, rest, square);
    for (; p < count; ++p) add_deviations<1>(from + p * c, c, guess, rest, square);
    for (int64_t i = 0; i < c; ++i) {
      const Moment next = moment_of(guess[i], rest[i], square[i], count);
      Moment found{double(begin), begin ? mean[i] : 0, begin ? squares[i] : 0};
      merge(found, next);
      guess[i] = finite_or_zero<E>(E(next.mean));
      mean[i] = found.mean;
      squares[i] = found.squares;
    }
  }
}

// A group is a plane, or where runs are channels a picture.
template <class E, class S, bool last>
class MomentsPass {
 public:
  explicit MomentsPass(const Moments& call)
      : call_(call),
        size_(call),
        each_(last ? size_.c : 1),
        count_(std::max<int64_t>(64, (1 << 16) / each_)),
        tasks_(ceil_div(size_.pixels, count_)) {}

  void run() const {
    const int64_t groups = last ? size_.n : size_.n * size_.c, step = 2 * each_ * tasks_;
    std::vector<double> parts(size_t(groups * step));
    spread(groups * tasks_, size_.numbers(),
           [&](int64_t task) { part(task / tasks_, task % tasks_, parts.data() + 2 * each_ * task); });
    for (int64_t group = 0; group < groups; ++group) finish(group, parts.data() + group * step);
  }

  // All of a picture or of a plane, by one thread.
  void alone(int64_t group) const {
    std::vector<double> parts(size_t(2 * each_ * tasks_));
    for (int64_t task = 0; task < tasks_; ++task) part(group, task, parts.data() + 2 * each_ * task);
    finish(group, parts.data());
  }

 private:
  // Neither is inlined: the compiler shall make one thing of them, whoever calls.
  __attribute__((noinline)) void part(int64_t group, int64_t task, double* found) const {
    const int64_t first = task * count_;
    const S* x = static_cast<const S*>(call_.x) + (group * size_.pixels + first) * each_;
    if constexpr (last) {
      moments_of_pixels(x, size_.c, pixels(task), scratch<E>(3 * size_.c), found, found + each_);
    } else {
      const Moment moment =
          call_.variance ? moment_of_run<true, E>(x, pixels(task)) : moment_of_run<false, E>(x, pixels(task));
      found[0] = moment.mean;
      found[1] = moment.squares;
    }
  }

  __attribute__((noinline)) void finish(int64_t group, const double* parts) const {
    for (int64_t i = 0; i < each_; ++i) {
      Moment found;
      for (int64_t task = 0; task < tasks_; ++task) {
        const double* part = parts + 2 * each_ * task + i;
        merge(found, {double(pixels(task)), part[0], part[each_]});
      }
      call_.mean[group * each_ + i] = found.mean;
      if (call_.variance) call_.variance[group * each_ + i] = found.squares / found.count;
    }
  }

  int64_t pixels(int64_t task) const { return std::min(count_, size_.pixels - task * count_); }

  const Moments& call_;
  const Pictures size_;
  const int64_t each_;   // planes of a group
  const int64_t count_;  // pixels of a task
  const int64_t tasks_;
};

}  // namespace lightsr::instance_norm_attention
