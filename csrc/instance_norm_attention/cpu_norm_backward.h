// The gradient of an instance norm alone: affine_sums, the numbers of planes that follow from them, affine_gradient.
//
// Planes know nothing of each other, so a plane goes through all three while grad and x are in the cache, and is read
// from memory once. Where channels are in the runs, or a plane is too large, it is one pass after the other.
#pragma once

#include "cpu_backward.h"
#include "cpu_calls.h"

namespace lightsr::instance_norm_attention {

template <class E, class S, bool last>
class NormBackwardPass {
 public:
  explicit NormBackwardPass(const NormBackward& call)
      : call_(call),
        planes_(call.affine.n * call.affine.c),
        pixels_(call.affine.h * call.affine.w),
        constant_(size_t(planes_)),
        slope_(size_t(planes_)),
        affine_(with_numbers(call.affine, constant_.data(), slope_.data())),
        sums_(affine_),
        gradient_(affine_) {}

  void run() {
    const int64_t bytes = 2 * pixels_ * int64_t(sizeof(S));
    if (affine_.c == 1 && bytes <= cached && planes_ >= torch::stable::get_num_threads()) {
      spread_planes(planes_, pixels_, [&](int64_t i) {
        sums_.alone(i);
        numbers(i);
        gradient_.alone(i);
      });
    } else {
      sums_.run();
      for (int64_t i = 0; i < planes_; ++i) numbers(i);
      gradient_.run();
    }
  }

 private:
  static constexpr int64_t cached = 1 << 19;  // bytes of a plane of grad and of x

  static AffineBackward with_numbers(AffineBackward call, const E* constant, const E* slope) {
    call.constant = constant;
    call.slope = slope;
    return call;
  }

  // With g the sum of dy, d that of dy (x - mean) and r = 1 / sqrt(variance + eps), over p pixels,
  //   grad_x = scale (dy - g / p - (x - mean) r^2 d / p)
  void numbers(int64_t i) {
    const double centre = static_cast<const E*>(affine_.centre)[i], scale = static_cast<const E*>(affine_.scale)[i];
    const double apart = call_.mean[i] - centre, by_shift = affine_.sums[i];
    const double by_centred = affine_.sums[planes_ + i] - apart * by_shift;
    const double slope = -scale * by_centred / (call_.variance[i] + call_.eps) / double(pixels_);
    constant_[i] = E(-scale * by_shift / double(pixels_) - slope * apart);
    slope_[i] = E(slope);
  }

  const NormBackward& call_;
  const int64_t planes_, pixels_;
  std::vector<E> constant_, slope_;
  const AffineBackward affine_;
  const AffineSumsPass<E, S, last> sums_;
  const AffineGradientPass<E, S, last> gradient_;
};

}  // namespace lightsr::instance_norm_attention
