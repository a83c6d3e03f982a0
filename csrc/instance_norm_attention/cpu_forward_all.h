// The forward passes one behind the other on as much as stays in a cache: a plane where planes know nothing of each
// other, a picture where pictures are small, else all there is.
#pragma once

#include "cpu_calls.h"
#include "cpu_factors.h"
#include "cpu_forward.h"
#include "cpu_moments.h"

namespace lightsr::instance_norm_attention {

template <class E, class S, bool last>
class ForwardPass {
 public:
  explicit ForwardPass(const AttentionForward& call)
      : call_(call),
        size_(call.affine),
        moments_(call.moments),
        factors_(call.factors),
        affine_(call.affine, true, call.pooled) {}

  void run() const {
    const int64_t threads = torch::stable::get_num_threads(), picture = size_.c * size_.pixels * int64_t(sizeof(S));
    const bool apart = !last && call_.has_factors && !call_.factors.down_weight && !call_.affine.spatial_weight;
    if (apart && picture / size_.c <= cached && size_.n * size_.c >= threads) {
      spread_planes(size_.n * size_.c, size_.pixels, [&](int64_t i) {
        moments_.alone(i);
        factors_.plane(i / size_.c, i % size_.c, 1);
        affine_.plane(i / size_.c, i % size_.c);
      });
    } else if (call_.has_factors && picture <= cached && (size_.n % threads == 0 || size_.n >= 2 * threads)) {
      spread(size_.n, size_.numbers(), [&](int64_t n) {
        for (int64_t i = 0; i < (last ? 1 : size_.c); ++i) moments_.alone(last ? n : n * size_.c + i);
        factors_.picture(n);
        affine_.picture(n);
      });
    } else {
      if (call_.has_factors) {
        moments_.run();
        factors_.run();
      }
      affine_.run();
    }
  }

 private:
  static constexpr int64_t cached = 1 << 20;  // bytes
  const AttentionForward& call_;
  const Pictures size_;
  const MomentsPass<E, S, last> moments_;
  const FactorsPass<E> factors_;
  const GatedAffinePass<E, S, last> affine_;
};

}  // namespace lightsr::instance_norm_attention
