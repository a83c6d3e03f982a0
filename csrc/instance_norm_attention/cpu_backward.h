// The three passes of backward. dy = grad gate + base + (y is the maximum ? top : 0), where base and top are the
// gradients of mean and maximum over the channels, and all three are numbers of a pixel.
#pragma once

#include "arguments.h"
#include "cpu_runs.h"

namespace lightsr::instance_norm_attention {

// Without a gate planes know nothing of each other: each as a picture of one channel, whose pixels lie in one run.
inline AffineBackward apart(AffineBackward call) {
  if (!call.gate && !call.channels_last) {
    call.n *= call.c;
    call.c = 1;
  }
  return call;
}

// What backward reads of each pixel, for pixels of one picture from `first` on; without a gate, what changes nothing.
template <class E>
struct PixelMaps {
  static constexpr E none = 0;
  const E *gate = &none, *most = &none, *base = &none, *top = &none;
};

template <class E, bool last, bool gated>
class GradientRun {
 public:
  using V = Vec<E>;
  GradientRun(const PixelMaps<E>& maps, int64_t pixel, const Affine<E>& affine, int64_t n, int64_t c)
      : gate_(maps.gate + pixel),
        most_(maps.most + pixel),
        base_(maps.base + pixel),
        top_(maps.top + pixel),
        affine(affine, n, c) {}
  template <class... Part>
  V of_y(V grad, V x, int64_t i, Part... part) const {
    if constexpr (!gated) return grad;
    V zero = V::fill(0), y = affine.y(x, i, part...);
    V top = select<E>(equal(y, most_.at(i, part...)), top_.at(i, part...), zero);
    return fma(grad, gate_.at(i, part...), base_.at(i, part...) + top);
  }

 private:
  const OfPixel<E, last> gate_, most_, base_, top_;

 public:
  const AffineRun<E, last> affine;
};

// visit(i, 0, 1, 2, 3) for four runs at once, which load what goes with all of them together; visit(i, 0) for the rest,
// or for all of them where there is nothing of that kind.
template <bool fours, class Visit>
inline __attribute__((always_inline)) void each_run(int64_t count, const Visit& visit) {
  int64_t i = 0;
  if constexpr (fours)
    for (; i + 4 <= count; i += 4) visit(i, 0, 1, 2, 3);
  for (; i < count; ++i) visit(i, 0);
}

// Pixels of a picture in pieces that sizes alone decide.
template <class E, class S, bool last>
class BackwardPass {
 public:
  using V = Vec<E>;
  explicit BackwardPass(const AffineBackward& call)
      : call_(call),
        affine_(call),
        size_(call),
        x_(static_cast<const S*>(call.x)),
        grad_(static_cast<const S*>(call.grad)),
        gate_(static_cast<const E*>(call.gate)),
        pooled_(static_cast<const E*>(call.pooled)),
        piece_(last        ? std::max<int64_t>(256, (1 << 16) / size_.c)
               : call.gate ? 4096
                           : 16384),
        pieces_(ceil_div(size_.pixels, piece_)) {}

 protected:
  template <class Visit>
  void each_piece(const Visit& visit, bool back = false) const {
    spread(size_.n * pieces_, size_.numbers(), [&](int64_t task) { visit_piece(task, visit); }, back);
  }
  // Those of one picture, by one thread.
  template <class Visit>
  void each_piece_of(int64_t n, const Visit& visit) const {
    for (int64_t task = n * pieces_; task < (n + 1) * pieces_; ++task) visit_piece(task, visit);
  }
  template <class Visit>
  void visit_piece(int64_t task, const Visit& visit) const {
    const int64_t first = task % pieces_ * piece_;
    visit(task / pieces_, first, std::min(piece_, size_.pixels - first));
  }
  // buffer: 2 `count` numbers in whole vectors.
  PixelMaps<E> maps(int64_t n, int64_t first, int64_t count, E* base) const {
    const int64_t at = n * size_.pixels + first, twice = 2 * n * size_.pixels + first;
    E* top = base + whole_vectors<E>(count);
    const E* by_pooled = static_cast<const E*>(call_.grad_pooled) + twice;
    const E* share = static_cast<const E*>(call_.share) + at;
    for (int64_t i = 0; i < count; ++i) {
      base[i] = by_pooled[i] / E(size_.c);
      top[i] = by_pooled[i + size_.pixels] * share[i];
    }
    return {gate_ + at, pooled_ + twice + size_.pixels, base, top};
  }
  int64_t at(int64_t n, int64_t first, int64_t run) const {
    return last ? size_.pixel(n, first + run) : size_.plane(n, run) + first;
  }

  const AffineBackward& call_;
  const Affine<E> affine_;
  const Pictures size_;
  const S *x_, *grad_;
  const E *gate_, *pooled_;
  const int64_t piece_, pieces_;
};

template <class E, class S, bool last>
class GateGradientPass : BackwardPass<E, S, last> {
  using Base = BackwardPass<E, S, last>;
  using V = Vec<E>;
  using Base::affine_, Base::call_, Base::gate_, Base::grad_, Base::pooled_, Base::size_, Base::x_;

 public:
  using Base::Base;
  void run() const {
    Base::each_piece([&](int64_t n, int64_t first, int64_t count) { piece(n, first, count); });
  }

 private:
  void piece(int64_t n, int64_t first, int64_t count) const {
    const int64_t pixel = n * size_.pixels + first;
    const E *gate = gate_ + pixel, *most = pooled_ + (2 * n + 1) * size_.pixels + first;
    E *logit = static_cast<E*>(call_.grad_logit) + pixel, *share = static_cast<E*>(call_.share) + pixel;
    const V one = V::fill(1), zero = V::fill(0);
    auto finish = [&](int64_t i, V dot, V ties, auto... part) {
      V g = V::load(gate + i, part...);
      (g * (one - g) * dot).store(logit + i, part...);
      (one / ties).store(share + i, part...);
    };
    if constexpr (last) {
      const AffineRun<E, last> run(affine_, n, 0);
      each_vector<E>(count, [&](int64_t begin, auto... part) {
        V dots[V::size], ties[V::size];
        for (int64_t j = 0; j < V::size; ++j) {
          const int64_t place = std::min(begin + j, count - 1), at = size_.pixel(n, first + place);
          const V largest = V::fill(most[place]);
          V dot = zero, tie = zero;
          each_vector<E>(size_.c, [&](int64_t i, auto... rest) {
            V y = run.y(V::load(x_ + at + i, rest...), i, rest...);
            dot = fma(V::load(grad_ + at + i, rest...), y, dot);
            // Lanes without a channel are compared with NaN.
            tie = tie + select<E>(equal(y, lanes(largest, rest...)), one, zero);
          });
          dots[j] = dot;
          ties[j] = tie;
        }
        auto add = [](V a, V b) { return a + b; };
        finish(begin, across<E>(dots, add), across<E>(ties, add), part...);
      });
    } else {
      E* dots = scratch<E>(2 * whole_vectors<E>(count));
      E* ties = dots + whole_vectors<E>(count);
      std::fill_n(dots, 2 * whole_vectors<E>(count), E(0));
      each_run<true>(size_.c, [&](int64_t c, auto... j) {
        const AffineRun<E, last> runs[] = {AffineRun<E, last>(affine_, n, c + j)...};
        const int64_t at = size_.plane(n, c) + first;
        each_vector<E>(count, [&](int64_t i, auto... part) {
          const V largest = V::load(most + i, part...);
          V dot = V::load(dots + i), tie = V::load(ties + i);
#pragma GCC unroll 4
          for (int64_t k = 0; k < int64_t(sizeof...(j)); ++k) {
            const int64_t place = at + k * size_.pixels + i;
            V y = runs[k].y(V::load(x_ + place, part...), i);
            dot = fma(V::load(grad_ + place, part...), y, dot);
            tie = tie + select<E>(equal(y, largest), one, zero);
          }
          dot.store(dots + i);
          tie.store(ties + i);
        });
      });
      each_vector<E>(count, [&](int64_t i, auto... part) { finish(i, V::load(dots + i), V::load(ties + i), part...); });
    }
  }

  static V lanes(V value) { return value; }
  static V lanes(V value, int count) {
    E padded[V::size];
    V::fill(std::numeric_limits<E>::quiet_NaN()).store(padded);
    value.store(padded, count);
    return V::load(padded);
  }
};

template <class E, class S, bool last>
class AffineSumsPass : BackwardPass<E, S, last> {
  using Base = BackwardPass<E, S, last>;
  using V = Vec<E>;
  using Base::affine_, Base::call_, Base::grad_, Base::pieces_, Base::piece_, Base::size_, Base::x_;

 public:
  using Base::Base;
  void run() const {
    const int64_t step = 2 * size_.c * pieces_;
    std::vector<double> parts(size_t(size_.n * step));
    Base::each_piece([&](int64_t n, int64_t first, int64_t count) {
      part(n, first, count, parts.data() + n * step + first / piece_ * 2 * size_.c);
    });
    for (int64_t n = 0; n < size_.n; ++n) finish(n, parts.data() + n * step);
  }

  // All of a picture, by one thread.
  void alone(int64_t n) const {
    std::vector<double> parts(size_t(2 * size_.c * pieces_));
    Base::each_piece_of(n, [&](int64_t, int64_t first, int64_t count) {
      part(n, first, count, parts.data() + first / piece_ * 2 * size_.c);
    });
    finish(n, parts.data());
  }

 private:
  // Not inlined: the compiler shall make one thing of it, whoever calls.
  __attribute__((noinline)) void part(int64_t n, int64_t first, int64_t count, double* part) const {
    E* buffer = scratch<E>(2 * whole_vectors<E>(count) + 2 * size_.c);
    if (call_.gate)
      piece<true>(n, first, count, Base::maps(n, first, count, buffer + 2 * size_.c), buffer, part);
    else
      piece<false>(n, first, count, {}, buffer, part);
  }

  void finish(int64_t n, const double* parts) const {
    const int64_t c = size_.c;
    double *one = call_.sums + n * c, *other = one + size_.n * c;
    std::fill_n(one, c, 0.0);
    std::fill_n(other, c, 0.0);
    for (int64_t p = 0; p < pieces_; ++p, parts += 2 * c) {
      for (int64_t i = 0; i < c; ++i) {
        one[i] += parts[i];
        other[i] += parts[c + i];
      }
    }
  }

  // Of one plane's pixels, where dy is grad: in four sums, since each waits for its last one.
  static void sums_of_run(const S* x, const S* grad, int64_t count, E centre, double& dy, double& by_centred) {
    constexpr int64_t step = 4 * V::size, block = 64 * step;  // pixels summed in the narrower type
    const V middle = V::fill(centre), zero = V::fill(0);
    dy = by_centred = 0;
    for (int64_t begin = 0; begin < count; begin += block) {
      const int64_t end = std::min(begin + block, count);
      V one[4] = {zero, zero, zero, zero}, other[4] = {zero, zero, zero, zero};
      const auto add = [&](int j, int64_t i, auto... rest) {
        const V value = V::load(grad + i, rest...);
        one[j] = one[j] + value;
        other[j] = fma(value, V::load(x + i, rest...) - middle, other[j]);  // lanes beyond the end have value 0
      };
      int64_t i = begin;
      for (; i + step <= end; i += step)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) add(j, i + j * V::size);
      for (; i + V::size <= end; i += V::size) add(0, i);
      if (i < end) add(1, i, int(end - i));
      dy += double(sum((one[0] + one[1]) + (one[2] + one[3])));
      by_centred += double(sum((other[0] + other[1]) + (other[2] + other[3])));
    }
  }

  template <bool gated>
  void piece(int64_t n, int64_t first, int64_t count, const PixelMaps<E>& maps, E* sums, double* part) const {
    const int64_t c = size_.c;
    if constexpr (last) {
      constexpr int64_t block = 128;  // pixels summed in the narrower type
      std::fill_n(part, 2 * c, 0.0);
      for (int64_t begin = 0; begin < count; begin += block) {
        std::fill_n(sums, 2 * c, E(0));
        const auto add = [&](int64_t p, auto... j) {  // some pixels at once: sums wait for what was stored of them
          const GradientRun<E, last, gated> runs[] = {
              GradientRun<E, last, gated>(maps, gated ? p + j : 0, affine_, n, 0)...};
          const int64_t at = size_.pixel(n, first + p);
          each_vector<E>(c, [&](int64_t i, auto... rest) {
            V one = V::load(sums + i, rest...), other = V::load(sums + c + i, rest...);
#pragma GCC unroll 4
            for (int k = 0; k < int(sizeof...(j)); ++k) {
              const int64_t place = at + k * c + i;
              V x = V::load(x_ + place, rest...), dy = runs[k].of_y(V::load(grad_ + place, rest...), x, i, rest...);
              one = one + dy;
              other = fma(dy, x - runs[k].affine.centre.at(i, rest...), other);
            }
            one.store(sums + i, rest...);
            other.store(sums + c + i, rest...);
          });
        };
        const int64_t end = std::min(begin + block, count);
        int64_t p = begin;
        for (; p + 4 <= end; p += 4) add(p, 0, 1, 2, 3);
        for (; p < end; ++p) add(p, 0);
        for (int64_t i = 0; i < 2 * c; ++i) part[i] += double(sums[i]);
      }
    } else if constexpr (!gated) {
      for (int64_t channel = 0; channel < c; ++channel)
        sums_of_run(x_ + size_.plane(n, channel) + first, grad_ + size_.plane(n, channel) + first, count,
                    *affine_.centre(n, channel), part[channel], part[c + channel]);
    } else {
      each_run<true>(c, [&](int64_t channel, auto... j) {
        constexpr int many = sizeof...(j);
        const GradientRun<E, last, gated> runs[] = {GradientRun<E, last, gated>(maps, 0, affine_, n, channel + j)...};
        const int64_t at = size_.plane(n, channel) + first;
        for (int k = 0; k < many; ++k) part[channel + k] = part[c + channel + k] = 0;
        constexpr int64_t block = 64 * V::size;  // pixels summed in the narrower type
        for (int64_t begin = 0; begin < count; begin += block) {
          V one[many], other[many];
          for (int k = 0; k < many; ++k) one[k] = other[k] = V::fill(0);
          each_vector<E>(std::min(block, count - begin), [&](int64_t i, auto... rest) {
            const int64_t p = begin + i;
#pragma GCC unroll 4
            for (int k = 0; k < many; ++k) {
              const int64_t place = at + k * size_.pixels + p;
              V x = V::load(x_ + place, rest...), dy = runs[k].of_y(V::load(grad_ + place, rest...), x, p, rest...);
              one[k] = one[k] + dy;
              other[k] = fma(dy, x - runs[k].affine.centre.at(p), other[k]);  // lanes beyond the end have dy = 0
            }
          });
          for (int k = 0; k < many; ++k) {
            part[channel + k] += double(sum(one[k]));
            part[c + channel + k] += double(sum(other[k]));
          }
        }
      });
    }
  }
};

template <class E, class S, bool last>
class AffineGradientPass : BackwardPass<E, S, last> {
  using Base = BackwardPass<E, S, last>;
  using V = Vec<E>;
  using Base::affine_, Base::call_, Base::grad_, Base::size_, Base::x_;

 public:
  explicit AffineGradientPass(const AffineBackward& call) : Base(call), zeros_(size_t(size_.c), E(0)) {}
  void run() const {
    Base::each_piece([&](int64_t n, int64_t first, int64_t count) { part(n, first, count); }, true);
  }

  // All of a picture, by one thread.
  void alone(int64_t n) const {
    Base::each_piece_of(n, [&](int64_t, int64_t first, int64_t count) { part(n, first, count); });
  }

 private:
  // Not inlined, as above.
  __attribute__((noinline)) void part(int64_t n, int64_t first, int64_t count) const {
    if (call_.gate)
      gated(n, first, count, Base::maps(n, first, count, scratch<E>(2 * whole_vectors<E>(count))));
    else if (call_.slope)
      plain<true>(n, first, count);
    else
      plain<false>(n, first, count);
  }

  // Without a gate; and without a slope x is not read.
  template <bool sloped>
  void plain(int64_t n, int64_t first, int64_t count) const {
    const int64_t groups = last ? count : size_.c, length = last ? size_.c : count;
    const bool residual = call_.residual, past = size_.template past_cache<S>(last, true);
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t at = Base::at(n, first, group), c = last ? 0 : group;
      const S *x = x_ + at, *grads = grad_ + at;
      S* to = static_cast<S*>(call_.grad_x) + at;
      const AffineRun<E, last> affine(affine_, n, c);
      const OfChannel<E, last> constant(of_plane(call_.constant, n, c)), slope(of_plane(call_.slope, n, c));
      each_vector<E>(length, [&](int64_t i, auto... part) {
        const V grad = V::load(grads + i, part...);
        V found = fma(grad, affine.scale.at(i, part...), constant.at(i, part...));
        if constexpr (sloped)
          found = fma(slope.at(i, part...), V::load(x + i, part...) - affine.centre.at(i, part...), found);
        if (residual) found = found + grad;
        put(found, to + i, past, part...);
      });
    }
  }

  void gated(int64_t n, int64_t first, int64_t count, const PixelMaps<E>& maps) const {
    const int64_t groups = last ? count : size_.c, length = last ? size_.c : count;
    const bool residual = call_.residual, sloped = call_.slope;  // 0 times infinity would be NaN
    S* to = static_cast<S*>(call_.grad_x);
    const bool past = size_.template past_cache<S>(last, true);
    each_run<!last>(groups, [&](int64_t group, auto... j) {
      constexpr int many = sizeof...(j);
      const GradientRun<E, last, true> runs[] = {
          GradientRun<E, last, true>(maps, last ? group + j : 0, affine_, n, last ? 0 : group + j)...};
      const OfChannel<E, last> constants[] = {OfChannel<E, last>(of_plane(call_.constant, n, last ? 0 : group + j))...};
      const OfChannel<E, last> slopes[] = {OfChannel<E, last>(of_plane(call_.slope, n, last ? 0 : group + j))...};
      const int64_t at = Base::at(n, first, group), apart = last ? size_.c : size_.pixels;
      each_vector<E>(length, [&](int64_t i, auto... part) {
        V found[many];
#pragma GCC unroll 4
        for (int k = 0; k < many; ++k) {
          V x = V::load(x_ + at + k * apart + i, part...), grad = V::load(grad_ + at + k * apart + i, part...);
          V dy = runs[k].of_y(grad, x, i, part...);
          found[k] = fma(dy, runs[k].affine.scale.at(i, part...), constants[k].at(i, part...));
          if (sloped) found[k] = fma(slopes[k].at(i, part...), x - runs[k].affine.centre.at(i, part...), found[k]);
          if (residual) found[k] = found[k] + grad;
        }
#pragma GCC unroll 4
        for (int k = 0; k < many; ++k) put(found[k], to + at + k * apart + i, past, part...);
      });
    });
  }

  const E* of_plane(const void* numbers, int64_t n, int64_t c) const {
    return numbers ? static_cast<const E*>(numbers) + n * size_.c + c : zeros_.data() + c;
  }

  const std::vector<E> zeros_;
};

}  // namespace lightsr::instance_norm_attention
