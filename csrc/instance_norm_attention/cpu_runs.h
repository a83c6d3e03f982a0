// What the passes on the CPU share: runs of numbers as they lie in memory, and what goes with each number.
//
// A run is pixels of one channel where pictures are [N, C, H, W], and the channels of one pixel where they are
// [N, H, W, C]. What there is one of for every channel (scale) is the same number all along a run of pixels and an
// array beside a run of channels; what there is one of for every pixel (gate) the other way round. So each pass is
// written once, for operands that are either.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "../common/by_type.h"
#include "../common/cache.h"
#include "../common/parallel.h"
#include "../common/round.h"
#include "../common/shuffle.h"
#include "../common/simd_math.h"

namespace lightsr::instance_norm_attention {

template <class E>
struct Same {
  explicit Same(const E* value) : v(Vec<E>::fill(*value)) {}
  Vec<E> v;
  Vec<E> at(int64_t) const { return v; }
  Vec<E> at(int64_t, int) const { return v; }
};

template <class E>
struct Array {
  explicit Array(const E* first) : from(first) {}
  const E* from;
  Vec<E> at(int64_t i) const { return Vec<E>::load(from + i); }
  Vec<E> at(int64_t i, int part) const { return Vec<E>::load(from + i, part); }
};

template <class E, bool last>
using OfChannel = std::conditional_t<last, Array<E>, Same<E>>;
template <class E, bool last>
using OfPixel = std::conditional_t<last, Same<E>, Array<E>>;

// visit(i) for each whole vector, then visit(i, part) for the rest of it.
template <class E, class Visit>
inline __attribute__((always_inline)) void each_vector(int64_t count, const Visit& visit) {
  int64_t i = 0;
  for (; i + Vec<E>::size <= count; i += Vec<E>::size) visit(i);
  if (i < count) visit(i, int(count - i));
}

template <class E>
inline typename Vec<E>::Bits equal(Vec<E> a, Vec<E> b) {
  return a.v == b.v;
}

// Lane j of the result: all lanes of v[j] joined, neighbours first.
template <class E, class Join>
inline __attribute__((always_inline)) Vec<E> across(Vec<E> (&v)[Vec<E>::size], const Join& join) {
#pragma GCC unroll 8
  for (int count = Vec<E>::size; count > 1; count /= 2) {
#pragma GCC unroll 8
    for (int j = 0; j < count / 2; ++j)
      v[j] =
          join(shuffled<EveryOther<false>>(v[2 * j], v[2 * j + 1]), shuffled<EveryOther<true>>(v[2 * j], v[2 * j + 1]));
  }
  return v[0];
}

template <class E>
int64_t whole_vectors(int64_t count) {
  return ceil_div(count, Vec<E>::size) * Vec<E>::size;
}

// run_tasks, without waking other threads for work that is done before they are up.
template <class Run>
void spread(int64_t count, int64_t numbers, const Run& run, bool back = false) {
  if (numbers < 1 << 15) {
    for (int64_t task = 0; task < count; ++task) run(task);
    level::settle();
  } else {
    run_tasks(count, run, back);
  }
}

// visit(plane) for planes that know nothing of each other, some a task where they are small.
template <class Visit>
void spread_planes(int64_t planes, int64_t pixels, const Visit& visit) {
  const int64_t some = std::max<int64_t>(1, 16384 / pixels);
  spread(ceil_div(planes, some), planes * pixels, [&](int64_t task) {
    for (int64_t plane = task * some; plane < std::min(planes, (task + 1) * some); ++plane) visit(plane);
  });
}

// The sizes of pictures, and where their numbers are.
struct Pictures {
  template <class Call>
  explicit Pictures(const Call& call) : n(call.n), c(call.c), h(call.h), w(call.w), pixels(h * w) {}
  int64_t n, c, h, w, pixels;
  int64_t numbers() const { return n * c * pixels; }
  template <class S>
  bool past_cache(bool last, bool gradient = false) const {
    return lightsr::past_cache<S>(numbers(), last ? c : pixels, gradient);
  }
  // Of a channel's first pixel and of a pixel's first channel.
  int64_t plane(int64_t picture, int64_t channel) const { return (picture * c + channel) * pixels; }
  int64_t pixel(int64_t picture, int64_t number) const { return (picture * pixels + number) * c; }
};

// centre, scale and shift of every plane; those not given are 0, 1 and 0.
template <class E>
class Affine {
 public:
  template <class Call>
  explicit Affine(const Call& call)
      : c_(call.c),
        neutral_(call.scale ? call.c : 2 * call.c, E(0)),
        centre_(static_cast<const E*>(call.centre)),
        scale_(static_cast<const E*>(call.scale)),
        shift_(static_cast<const E*>(call.shift)) {
    if (!scale_) std::fill_n(neutral_.data() + c_, c_, E(1));
  }
  const E* centre(int64_t n, int64_t c = 0) const { return centre_ ? centre_ + n * c_ + c : neutral_.data() + c; }
  const E* scale(int64_t n, int64_t c = 0) const { return scale_ ? scale_ + n * c_ + c : neutral_.data() + c_ + c; }
  const E* shift(int64_t n, int64_t c = 0) const { return shift_ ? shift_ + n * c_ + c : neutral_.data() + c; }

 private:
  int64_t c_;
  std::vector<E> neutral_;
  const E *centre_, *scale_, *shift_;
};

// y of one run.
template <class E, bool last>
struct AffineRun {
  AffineRun(const Affine<E>& of, int64_t n, int64_t c)
      : centre(of.centre(n, c)), scale(of.scale(n, c)), shift(of.shift(n, c)) {}
  OfChannel<E, last> centre, scale, shift;
  template <class... Part>
  Vec<E> y(Vec<E> x, int64_t i, Part... part) const {
    return fma(scale.at(i, part...), x - centre.at(i, part...), shift.at(i, part...));
  }
};

template <template <class, class, bool> class Pass, bool last, class Call>
void run_as_types(const Call& call, Type type) {
  by_type(type, [&]<class T>() { Pass<Wide<T>, T, last>(call).run(); });
}

// Runs a pass for a call's types and layout; one channel in a row of pixels is a plane.
template <template <class, class, bool> class Pass, class Call, class Sizes>
void run_as(const Call& call, const Sizes& of) {
  if (of.channels_last && of.c > 1)
    run_as_types<Pass, true>(call, of.type);
  else
    run_as_types<Pass, false>(call, of.type);
}

template <template <class, class, bool> class Pass, class Call>
void run_as(const Call& call) {
  run_as<Pass>(call, call);
}

}  // namespace lightsr::instance_norm_attention
