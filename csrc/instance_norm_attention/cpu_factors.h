// What there is one number of for every plane: the channel gate, and the scale and shift that it and the norm give.
#pragma once

#include <cmath>

#include "arguments.h"
#include "cpu_runs.h"

namespace lightsr::instance_norm_attention {

// Parameters in the type that is computed in, or none.
template <class E>
class Numbers {
 public:
  Numbers(const void* from, Type type, int64_t count) : values_(from ? size_t(count) : 0) {
    if (from == nullptr) return;
    if constexpr (std::is_same_v<E, double>) {
      widen(static_cast<const double*>(from));
    } else if (type == Type::float32) {
      widen(static_cast<const float*>(from));
    } else if (type == Type::float16) {
      widen(static_cast<const Float16*>(from));
    } else {
      widen(static_cast<const BFloat16*>(from));
    }
  }
  E operator[](int64_t i) const { return values_[size_t(i)]; }
  E of(int64_t i, E otherwise) const { return values_.empty() ? otherwise : values_[size_t(i)]; }

 private:
  template <class S>
  void widen(const S* from) {
    each_vector<E>(int64_t(values_.size()), [&](int64_t i, auto... part) {
      Vec<E>::load(from + i, part...).store(values_.data() + i, part...);
    });
  }
  std::vector<E> values_;
};

template <class E>
class FactorsPass {
 public:
  explicit FactorsPass(const Factors& call)
      : call_(call),
        down(call.down_weight, call.type, call.hidden * call.c),
        down_bias(call.down_bias, call.type, call.hidden),
        up(call.up_weight, call.type, call.c * call.hidden),
        up_bias(call.up_bias, call.type, call.c),
        norm_weight(call.norm_weight, call.type, call.c),
        norm_bias(call.norm_bias, call.type, call.c) {}

  void run() const {
    spread(call_.n, call_.n * call_.c * (call_.hidden + 64), [&](int64_t n) { picture(n); });
  }

  void picture(int64_t n) const {
    const int64_t c = call_.c;
    if (!call_.down_weight) {
      for (int64_t i = 0; i < c; ++i) plane(n, i, 1);
      return;
    }
    double* gate = scratch<double>(2 * c + call_.hidden);
    channel_gate(n, gate, gate + c, gate + 2 * c);
    for (int64_t i = 0; i < c; ++i) plane(n, i, gate[i]);
  }

  // Of a picture the gate of each channel, what it reads of each, and the hidden numbers between. Not inlined: y must
  // have the same bits in backward.
  __attribute__((noinline)) void channel_gate(int64_t n, double* gate, double* statistic, double* hidden) const {
    const int64_t c = call_.c;
    const double *mean = call_.mean + n * c, *variance = call_.variance + n * c;
    for (int64_t i = 0; i < c; ++i) {
      statistic[i] = mean[i];
      if (call_.statistic == Statistic::mean_and_deviation && variance[i] > 0) statistic[i] += std::sqrt(variance[i]);
    }
    for (int64_t r = 0; r < call_.hidden; ++r) {
      double total = down_bias.of(r, 0);
      for (int64_t i = 0; i < c; ++i) total += double(down[r * c + i]) * statistic[i];
      hidden[r] = total < 0 ? 0 : total;  // NaN stays
    }
    for (int64_t i = 0; i < c; ++i) {
      double total = up_bias.of(i, 0);
      for (int64_t r = 0; r < call_.hidden; ++r) total += double(up[i * call_.hidden + r]) * hidden[r];
      gate[i] = 1 / (1 + std::exp(-total));
    }
  }

  __attribute__((noinline)) void plane(int64_t n, int64_t i, double gate) const {
    const int64_t at = n * call_.c + i;
    double scale = gate, shift = 0;
    E centre = 0;
    if (call_.norm) {
      const double mean = call_.mean[at];
      scale *= norm_weight.of(i, 1) / std::sqrt(call_.variance[at] + call_.eps);
      centre = E(mean);
      shift = gate * norm_bias.of(i, 0) - scale * (mean - centre);
    }
    static_cast<E*>(call_.centre)[at] = centre;
    static_cast<E*>(call_.scale)[at] = E(scale);
    static_cast<E*>(call_.shift)[at] = E(shift);
  }

 private:
  const Factors& call_;

 public:
  const Numbers<E> down, down_bias, up, up_bias, norm_weight, norm_bias;
};

}  // namespace lightsr::instance_norm_attention
