// What all passes over multi_attention's pixels begin with: z = x sigmoid(pixel_weight x + pixel_bias) of a block.
#pragma once

#include <memory>
#include <vector>

#include "../common/block_tasks.h"
#include "../common/pixel_product.h"
#include "../common/simd_math.h"
#include "arguments.h"

namespace lightsr::multi {

// 1 / (1 + e^-x), the largest expense beside the products, in half the steps of simd_math.h's sigmoid: with y the power
// of two, 2^y = 2^floor(y) 2^f, where f = y - floor(y) and 2^f is a polynomial fitted to 2e-9. What y is rounded by
// makes results below 1/2 inexact by |x| 4e-8 of themselves; infinities and NaN come out right.
template <class S>
Vec<S> logistic(Vec<S> x) {
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
  if constexpr (std::is_same_v<S, float>) {
    using F = Vec<float>;
    constexpr int down = 1;  // rounds to a whole number below
    constexpr float terms[] = {0x1.461956p-10f, 0x1.3d28p-7f, 0x1.c685p-5f, 0x1.ebfd9ep-3f, 0x1.62e42ap-1f, 1};
    const F one = F::fill(1), y = x * F::fill(-1.44269504f), f = {_mm512_reduce_ps(y.v, down)};
    F power = F::fill(0x1.c72118p-13f);
    for (float term : terms) power = fma(power, f, F::fill(term));
    return one / (one + F{_mm512_scalef_ps(power.v, y.v)});
  }
#endif
  return sigmoid(x);
}

// One branch's pixel attention.
template <class T>
class Lit {
  using S = Wide<T>;

 public:
  Lit(bool planes, const AttentionBranch& branch)
      : branch(branch),
        planes_(planes),
        weight_(planes, static_cast<const T*>(branch.pixel_weight), branch.channels, branch.channels, branch.channels,
                1),
        bias_(planes, static_cast<const T*>(branch.pixel_bias), branch.channels) {}

  // A block's x into its buffer.
  void take(const Block& block, const Operand<T>& x) const {
    const Stream<T> from(block.of<T>(branch.x), planes_);
    const auto to = x.numbers;
    block.every<S>(branch.channels, [=](int64_t row, int64_t column, auto... part) {
      from.template load<S>(row, column, part...).store(to.at(row, column), part...);
    });
  }

  // Calls each(z, s, row, column, part...); z and s have the same bits in every pass.
  template <class Each>
  void multiply(const Block& block, const Operand<T>& x, const Each& each, Ahead* ahead = nullptr) const {
    const auto from = x.numbers;
    const auto bias = bias_.from_channel(0);
    weight_.multiply(
        block, x, branch.channels, branch.channels,
        [=](Vec<S> value, int64_t row, int64_t column, auto... part) {
          const Vec<S> s = logistic(value + bias.at(row, column)).kept();
          each((Vec<S>::load(from.at(row, column), part...) * s).kept(), s, row, column, part...);
        },
        ahead);
  }

  const AttentionBranch& branch;

 private:
  const bool planes_;
  const Matrix<T> weight_;
  const PerChannel<S> bias_;
};

template <class T>
std::vector<std::unique_ptr<Lit<T>>> all_lit(const MultiAttention& call) {
  std::vector<std::unique_ptr<Lit<T>>> all;
  for (int64_t k = 0; k < call.branches; ++k) {
    all.push_back(std::make_unique<Lit<T>>(!call.channels_last, call.branch[k]));
  }
  return all;
}

// Of a wide array of numbers of pixels those for a vector of a rectangle.
template <class S, class... Part>
Vec<S> of_pixel(bool planes, const S* from, int64_t row, int64_t column, Part... part) {
  return planes ? Vec<S>::load(from + column, part...) : Vec<S>::fill(from[row]);
}

}  // namespace lightsr::multi
