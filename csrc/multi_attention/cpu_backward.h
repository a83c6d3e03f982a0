// The three passes of multi_attention's gradients, each over blocks of pixels; z, s and q are computed again in each.
//
//   products   sums over a picture's pixels of grad a', which out_weight and the scales get theirs from; of grad
//   logits     gate (1 - gate) sum over the channels of d z
//   pixels     dz = d gate + (gradient of the mean) / C + (z is the maximum ? gradient of the maximum : 0)
//              v = dz z (1 - s)        grad_x = dz s + pixel_weight' v
//              and sums over pixels of v x' and v
//
// with a = z gate and d = scale q + constant, q = out_weight' grad. What comes in between is small, or convolutions of
// maps, and made in Python.
#pragma once

#include "../instance_norm_attention/cpu_runs.h"
#include "cpu_lit.h"

namespace lightsr::multi {

// What the passes share.
template <class T>
class BackwardPass {
 protected:
  using S = Wide<T>;
  using V = Vec<S>;

 public:
  explicit BackwardPass(const MultiAttentionBackward& back)
      : back_(back),
        call_(back.call),
        planes_(!call_.channels_last),
        weighted_(call_.out_weight != nullptr),
        pixels_(call_.h * call_.w),
        lit_(all_lit<T>(call_)) {
    for (int64_t k = 0; k < call_.branches; ++k) widest_ = std::max(widest_, call_.branch[k].channels);
  }

 protected:
  // The incoming gradient of a block into its buffer.
  void take_grad(const Block& block, const Operand<T>& to) const {
    const Rows<const T> from = block.of<T>(back_.grad, call_.out_channels, pixels_);
    const auto numbers = to.numbers;
    block.every<S>(call_.out_channels, [=](int64_t row, int64_t column, auto... part) {
      V::load(from.at(row, column), part...).store(numbers.at(row, column), part...);
    });
  }

  // A map of one of the branches, at the block's first pixel.
  template <class M>
  const S* map(const M* maps, const Block& block, int64_t index, int64_t count) const {
    return static_cast<const S*>(maps) + (block.picture * count + index) * pixels_ + block.pixel;
  }
  const S* gate(const Block& block, int64_t k) const { return map(call_.gates, block, k, call_.branches); }

  void ask_for(const Block& next, Ahead& ahead) const {
    const int64_t outs = call_.out_channels;
    next.ask_for<T>({back_.grad, outs * pixels_, planes_ ? pixels_ : outs}, outs, ahead);
    for (int64_t k = 0; k < call_.branches; ++k) next.ask_for<T>(call_.branch[k].x, call_.branch[k].channels, ahead);
  }

  const MultiAttentionBackward& back_;
  const MultiAttention& call_;
  const bool planes_, weighted_;
  const int64_t pixels_;
  int64_t widest_ = 0;  // channels of a branch
  const std::vector<std::unique_ptr<Lit<T>>> lit_;
};

template <class T>
class Products : protected BackwardPass<T> {
  using Base = BackwardPass<T>;
  using Base::back_, Base::call_, Base::lit_, Base::pixels_, Base::planes_, Base::weighted_, Base::widest_;
  using typename Base::S, typename Base::V;

  struct Buffers {
    Operand<T> grad, x, joined;
    ChannelSums<S> sums;  // of grad, or of grad a
    int64_t bytes;

    Buffers(char* from, const Products& all, int64_t pixels) : Buffers(Arena(from), from, all, pixels) {}
    Buffers(Arena arena, char* from, const Products& all, int64_t pixels)
        : grad(arena, all.planes_, all.weighted_ ? all.call_.out_channels : 0, pixels),
          x(arena, all.planes_, all.widest_, pixels),
          joined(arena, all.planes_, all.weighted_ ? all.call_.in : 0, pixels),
          sums(arena, all.planes_, all.weighted_ ? all.back_.sums ? all.call_.out_channels : 0 : all.call_.in),
          bytes(arena.used(from)) {}
  };

 public:
  using Base::Base;

  void run() const {
    const int64_t in = call_.in, outs = call_.out_channels;
    const Blocks blocks(planes_, call_.n, pixels_, weighted_ ? widest_ + in + outs : widest_);
    const int64_t bytes = Buffers(nullptr, *this, blocks.block).bytes;
    const int64_t products = weighted_ ? outs * in : 0, sums = !weighted_ ? in : back_.sums ? outs : 0;
    const Aligned<double> found(call_.n * (products + sums));
    run_with_sums(blocks, true, products + sums, found.data(), [&](const Block& block, double* to) {
      Ahead ahead;
      blocks.following(block, [&](const Block& next) { Base::ask_for(next, ahead); });
      const Buffers buffers(scratch<char>(bytes), *this, blocks.block);
      if (weighted_) {
        with_weight(block, buffers, to, to + products, ahead);
      } else {
        side_by_side(block, buffers, to, ahead);
      }
    });
    for (int64_t n = 0; n < call_.n; ++n) {
      const double* from = found.data() + n * (products + sums);
      if (weighted_) std::copy_n(from, products, back_.products + n * products);
      double* to = weighted_ ? back_.sums : back_.products;
      if (sums) std::copy_n(from + products, sums, to + n * sums);
    }
  }

 private:
  void with_weight(const Block& block, const Buffers& buffers, double* products, double* sums, Ahead& ahead) const {
    const bool planes = planes_;
    Base::take_grad(block, buffers.grad);
    if (buffers.sums.data) {
      const ChannelSums<S> all = buffers.sums;
      const auto grad = buffers.grad.numbers;
      all.clear(call_.out_channels);
      block.every<S>(call_.out_channels, [=](int64_t row, int64_t column, auto... part) {
        all.add(V::load(grad.at(row, column), part...), row, column, part...);
      });
      all.add_to(sums, call_.out_channels);
    }
    for (int64_t k = 0; k < call_.branches; ++k) {
      const auto to = block.from_channel(buffers.joined.numbers, call_.branch[k].first);
      const S* gate = Base::gate(block, k);
      lit_[k]->take(block, buffers.x);
      lit_[k]->multiply(
          block, buffers.x,
          [=](V z, V, int64_t row, int64_t column, auto... part) {
            (z * of_pixel<S>(planes, gate, row, column, part...)).store(to.at(row, column), part...);
          },
          &ahead);
    }
    add_products(block, buffers.grad, call_.out_channels, buffers.joined, call_.in, products);
  }

  void side_by_side(const Block& block, const Buffers& buffers, double* sums, Ahead& ahead) const {
    const bool planes = planes_;
    const Rows<const T> grads = block.of<T>(back_.grad, call_.out_channels, pixels_);
    buffers.sums.clear(call_.in);
    for (int64_t k = 0; k < call_.branches; ++k) {
      const Rows<const T> grad = block.from_channel(grads, call_.branch[k].first);
      const ChannelSums<S> to = buffers.sums.from_channel(call_.branch[k].first);
      const S* gate = Base::gate(block, k);
      lit_[k]->take(block, buffers.x);
      lit_[k]->multiply(
          block, buffers.x,
          [=](V z, V, int64_t row, int64_t column, auto... part) {
            const V by = V::load(grad.at(row, column), part...) * of_pixel<S>(planes, gate, row, column, part...);
            to.add(z * by, row, column, part...);
          },
          &ahead);
    }
    buffers.sums.add_to(sums, call_.in);
  }
};

// What the other two passes share: d of a branch.
template <class T>
class GradientPass : protected BackwardPass<T> {
  using Base = BackwardPass<T>;

 protected:
  using Base::back_, Base::call_, Base::pixels_, Base::planes_, Base::weighted_;
  using typename Base::S, typename Base::V;

 public:
  explicit GradientPass(const MultiAttentionBackward& back)
      : Base(back),
        scale_(planes_, static_cast<const S*>(call_.scales), call_.n * call_.in),
        constant_(planes_, static_cast<const S*>(back.constants), call_.n * call_.in) {
    const T* weight = static_cast<const T*>(call_.out_weight);
    for (int64_t k = 0; weight && k < call_.branches; ++k) {
      back_weights_.push_back(std::make_unique<Matrix<T>>(planes_, weight + call_.branch[k].first,
                                                          call_.branch[k].channels, call_.out_channels, 1, call_.in));
    }
  }

 protected:
  void find_d(const Block& block, int64_t k, const Operand<T>& grad, const Rows<S>& d, Ahead& ahead) const {
    const AttentionBranch& branch = call_.branch[k];
    const int64_t at = call_.n * branch.first + block.picture * branch.channels;
    const auto scale = scale_.from_channel(at), constant = constant_.from_channel(at);
    const auto give = [=](V q, int64_t row, int64_t column, auto... part) {
      fma(q, scale.at(row, column), constant.at(row, column)).store(d.at(row, column), part...);
    };
    if (weighted_) {
      back_weights_[k]->multiply(block, grad, branch.channels, call_.out_channels, give, &ahead);
    } else {
      const auto from = block.from_channel(block.of<T>(back_.grad, call_.in, pixels_), branch.first);
      block.every<S>(branch.channels, [=](int64_t row, int64_t column, auto... part) {
        give(V::load(from.at(row, column), part...), row, column, part...);
      });
    }
  }

 private:
  const PerChannel<S> scale_, constant_;
  std::vector<std::unique_ptr<Matrix<T>>> back_weights_;  // of each branch [C, out_channels]
};

}  // namespace lightsr::multi
