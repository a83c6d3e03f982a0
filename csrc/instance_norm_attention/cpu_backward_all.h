// The backward passes one behind the other on as much as stays in a cache: a plane where planes know nothing of each
// other, a picture where pictures are small, else all there is. Between the passes over pixels stand the gradients of
// what there is one number of for every plane, in float64: plane_gradients.py says what they are.
#pragma once

#include "cpu_backward.h"
#include "cpu_calls.h"
#include "cpu_factors.h"

namespace lightsr::instance_norm_attention {

template <class E, class S, bool last>
class WholeBackwardPass {
 public:
  explicit WholeBackwardPass(const AttentionBackward& call)
      : call_(call),
        size_(call.affine),
        planes_(size_.n * size_.c),
        factors_(call.factors),
        zeros_(size_t(planes_), E(0)),
        constant_(zeros_),
        slope_(zeros_),
        found_(2 * size_t(planes_)),
        of_planes_(size_t(planes_)),
        gates_(size_t(size_.n)),
        of_sums_(with_factors(false)),
        of_gradient_(with_factors(true)),
        sums_(of_sums_),
        gradient_(of_gradient_) {}

  void run() {
    const int64_t threads = torch::stable::get_num_threads(), bytes = 2 * size_.pixels * int64_t(sizeof(S));
    const int64_t each = of_sums_.n / size_.n;  // the passes' pictures in a picture
    const bool gated = call_.factors.down_weight || call_.affine.gate;
    factors_.run();
    if (centred()) take_centres();
    if (!last && !gated && bytes <= cached / 2 && planes_ >= threads) {
      spread_planes(planes_, size_.pixels, [&](int64_t i) {
        sums_.alone(i);
        plane(i, 1);
        put(i);
        if (of_gradient_.grad_x) gradient_.alone(i);
      });
    } else if (size_.c * bytes <= cached && (size_.n % threads == 0 || size_.n >= 2 * threads)) {
      spread(size_.n, size_.numbers(), [&](int64_t n) {
        for (int64_t i = n * each; i < (n + 1) * each; ++i) sums_.alone(i);
        picture(n);
        for (int64_t i = n * each; of_gradient_.grad_x && i < (n + 1) * each; ++i) gradient_.alone(i);
      });
    } else {
      sums_.run();
      spread(size_.n, planes_ * (call_.factors.hidden + 64), [&](int64_t n) { picture(n); });
      if (of_gradient_.grad_x) gradient_.run();
    }
    parameters();
  }

 private:
  static constexpr int64_t cached = 1 << 20;  // bytes of a picture of grad and x; of a plane of them half

  AffineBackward with_factors(bool gradient) {
    AffineBackward affine = call_.affine;
    affine.centre = call_.factors.centre;
    affine.scale = call_.factors.scale;
    affine.shift = call_.factors.shift;
    affine.constant = constant_.data();
    affine.slope = sloped() ? slope_.data() : nullptr;
    affine.sums = found_.data();
    // A norm of one pixel is its bias, whatever x is: what cancels would leave a rounding.
    if (gradient && call_.factors.norm && size_.pixels == 1) affine.scale = zeros_.data();
    return apart(affine);
  }

  // A gate that reads the mean alone leaves no term in a pixel's own x.
  bool sloped() const { return call_.factors.norm || call_.factors.statistic == Statistic::mean_and_deviation; }

  // y = scale x has no centre, but sums of dy (x - centre) keep the digits that count. Without a gate nothing reads y.
  bool centred() const { return !call_.factors.norm && !call_.affine.gate; }
  void take_centres() {
    E* centres = static_cast<E*>(call_.factors.centre);
    for (int64_t i = 0; i < planes_; ++i) centres[i] = E(call_.factors.mean[i]);
  }

  // Gradients by a plane's mean, variance and channel gate, and what the norm's parameters take from them.
  struct OfPlane {
    double mean = 0, variance = 0, gate = 0, norm_weight = 0, norm_bias = 0;
  };
  // The way through the channel gate of a picture, where there is one; last the gradients by what the layers give.
  struct Gate {
    std::vector<double> gate, statistic, hidden, by_up, by_down;
  };

  // Not inlined, and so the same bits whoever calls: the compiler chooses which product goes into which sum.
  __attribute__((noinline)) void plane(int64_t i, double gate) {
    const int64_t c = i % size_.c;
    const double grad = found_[i], by_centred = found_[planes_ + i];  // sums of dy and of dy (x - centre)
    const double centre = static_cast<const E*>(call_.factors.centre)[i], apart = call_.factors.mean[i] - centre;
    OfPlane& found = of_planes_[i];
    if (!call_.factors.norm) {
      found.gate = by_centred + centre * grad;
      return;
    }
    const double rate = 1 / std::sqrt(call_.factors.variance[i] + call_.factors.eps);
    const double by_mean = by_centred - apart * grad, normal = rate * by_mean;  // of dy (x - mean), over the deviation
    const double weight = factors_.norm_weight.of(c, 1), scale = gate * weight * rate;
    if (size_.pixels > 1) found.mean = -scale * grad;
    found.variance = -0.5 * rate * rate * scale * by_mean;
    found.gate = weight * normal + factors_.norm_bias.of(c, 0) * grad;
    found.norm_weight = gate * normal;
    found.norm_bias = gate * grad;
  }

  __attribute__((noinline)) void put(int64_t i) {
    const OfPlane& by = of_planes_[i];
    const double pixels = double(size_.pixels), slope = 2 / pixels * by.variance;
    const double apart = call_.factors.mean[i] - double(static_cast<const E*>(call_.factors.centre)[i]);
    constant_[i] = E(by.mean / pixels - (sloped() ? slope * apart : 0));  // 0 times what is no number would be none
    slope_[i] = E(slope);
  }

  void picture(int64_t n) {
    const int64_t c = size_.c, hidden = call_.factors.hidden, first = n * c;
    if (call_.factors.down_weight) {
      Gate& it = gates_[n] = {std::vector<double>(c), std::vector<double>(c), std::vector<double>(hidden),
                              std::vector<double>(c), std::vector<double>(hidden)};
      factors_.channel_gate(n, it.gate.data(), it.statistic.data(), it.hidden.data());
      for (int64_t i = 0; i < c; ++i) {
        plane(first + i, it.gate[i]);
        it.by_up[i] = of_planes_[first + i].gate * it.gate[i] * (1 - it.gate[i]);
      }
      for (int64_t r = 0; r < hidden; ++r) {
        double total = 0;
        for (int64_t i = 0; i < c; ++i) total += it.by_up[i] * double(factors_.up[i * hidden + r]);
        it.by_down[r] = it.hidden[r] <= 0 ? 0 : total;
      }
      for (int64_t i = 0; i < c; ++i) add_statistic(first + i, it);
    } else {
      for (int64_t i = first; i < first + c; ++i) plane(i, 1);
    }
    for (int64_t i = first; i < first + c; ++i) put(i);
  }

  // What the gate reads of a plane is its mean, or mean and deviation.
  void add_statistic(int64_t i, const Gate& gate) {
    double by_statistic = 0;
    for (int64_t r = 0; r < call_.factors.hidden; ++r)
      by_statistic += gate.by_down[r] * double(factors_.down[r * size_.c + i % size_.c]);
    OfPlane& by = of_planes_[i];
    by.mean += by_statistic;
    const double variance = call_.factors.variance[i];
    if (call_.factors.statistic == Statistic::mean_and_deviation && variance > 0)
      by.variance += by_statistic * 0.5 / std::sqrt(variance);
  }

  // All pictures added up, in order.
  void parameters() const {
    const int64_t c = size_.c, hidden = call_.factors.hidden;
    const bool gate = call_.grad_down_weight || call_.grad_down_bias || call_.grad_up_weight || call_.grad_up_bias;
    std::vector<double> norm_weight(c), norm_bias(c), down(hidden * c), down_bias(hidden), up(c * hidden), up_bias(c);
    for (int64_t i = 0; i < planes_; ++i) {
      norm_weight[i % c] += of_planes_[i].norm_weight;
      norm_bias[i % c] += of_planes_[i].norm_bias;
    }
    for (int64_t n = 0; n < size_.n && gate; ++n) {
      const Gate& it = gates_[n];
      for (int64_t i = 0; i < c; ++i) {
        up_bias[i] += it.by_up[i];
        for (int64_t r = 0; r < hidden; ++r) {
          up[i * hidden + r] += it.by_up[i] * it.hidden[r];
          down[r * c + i] += it.by_down[r] * it.statistic[i];
        }
      }
      for (int64_t r = 0; r < hidden; ++r) down_bias[r] += it.by_down[r];
    }
    give(norm_weight, call_.grad_norm_weight);
    give(norm_bias, call_.grad_norm_bias);
    give(down, call_.grad_down_weight);
    give(down_bias, call_.grad_down_bias);
    give(up, call_.grad_up_weight);
    give(up_bias, call_.grad_up_bias);
  }
  void give(const std::vector<double>& numbers, void* to) const {
    if (!to) return;
    by_type(call_.factors.type, [&]<class T>() {
      for (size_t i = 0; i < numbers.size(); ++i)
        Vec<Wide<T>>::fill(Wide<T>(numbers[i])).store(static_cast<T*>(to) + i, 1);
    });
  }

  const AttentionBackward& call_;
  const Pictures size_;
  const int64_t planes_;
  const FactorsPass<E> factors_;
  std::vector<E> zeros_, constant_, slope_;
  std::vector<double> found_;  // the sums, [2, N, C]
  std::vector<OfPlane> of_planes_;
  std::vector<Gate> gates_;
  const AffineBackward of_sums_, of_gradient_;
  const AffineSumsPass<E, S, last> sums_;
  const AffineGradientPass<E, S, last> gradient_;
};

}  // namespace lightsr::instance_norm_attention
