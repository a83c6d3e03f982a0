// What all passes over multi_attention's pixels begin with: z = x sigmoid(pixel_weight x + pixel_bias) of a block.
#pragma once

#include <memory>
#include <vector>

#include "../common/block_tasks.h"
#include "../common/pixel_product.h"
#include "../common/simd_math.h"
#include "arguments.h"

namespace lightsr::multi {

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
          const Vec<S> s = sigmoid(value + bias.at(row, column)).kept();
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
