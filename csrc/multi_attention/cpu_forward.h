// The second pass of multi_attention: z again, times gate and scale, and the product that joins the branches.
//
// A block of all branches is put together in a buffer in the cache; bias and residual come in on the product's way to
// the result.
#pragma once

#include "../instance_norm_attention/cpu_factors.h"
#include "cpu_lit.h"

namespace lightsr::multi {

template <class T>
class Fused {
  using S = Wide<T>;

 public:
  Fused(const MultiAttention& call, const std::vector<std::unique_ptr<Lit<T>>>& lit)
      : call_(call),
        lit_(lit),
        planes_(!call.channels_last),
        scale_(planes_, static_cast<const S*>(call.scales), call.n * call.in),
        bias_(planes_, static_cast<const T*>(call.out_bias), call.out_channels),
        weight_(planes_, static_cast<const T*>(call.out_weight), call.out_weight ? call.out_channels : 0, call.in,
                call.in, 1) {}

  void run() const {
    int64_t widest = 0;
    for (int64_t k = 0; k < call_.branches; ++k) widest = std::max(widest, call_.branch[k].channels);
    const int64_t joined = call_.out_weight ? call_.in : 0;
    const Blocks blocks(planes_, call_.n, call_.h * call_.w, 2 * (widest + joined + call_.out_channels));
    const auto buffers = [&](char* from) {
      Arena arena(from);
      const Operand<T> x(arena, planes_, widest, blocks.block), all(arena, planes_, joined, blocks.block);
      return std::make_tuple(x, all, arena.used(from));
    };
    const int64_t bytes = std::get<2>(buffers(nullptr));
    run_tasks(blocks.count(), [&](int64_t task) {
      const auto [x, joined, _] = buffers(scratch<char>(bytes));
      Ahead ahead;
      blocks.after(task, [&](const Block& next) {
        for (int64_t k = 0; k < call_.branches; ++k)
          next.ask_for<T>(call_.branch[k].x, call_.branch[k].channels, ahead);
        next.ask_for<T>(call_.residual, call_.out_channels, ahead);
      });
      block(blocks.at(task), x, joined, ahead);
    });
  }

 private:
  void block(const Block& block, const Operand<T>& x, const Operand<T>& joined, Ahead& ahead) const {
    const int64_t pixels = call_.h * call_.w;
    const Rows<T> out = block.of<T>(call_.out, call_.out_channels, pixels);
    const Rows<const T> residual = block.of<T>(call_.residual);
    const bool planes = planes_, weighted = call_.out_weight != nullptr;
    const bool past = past_cache<T>(call_.n * pixels * call_.out_channels, planes_ ? pixels : call_.out_channels);
    for (int64_t k = 0; k < call_.branches; ++k) {
      const AttentionBranch& branch = call_.branch[k];
      const S* gate = static_cast<const S*>(call_.gates) + (block.picture * call_.branches + k) * pixels + block.pixel;
      const auto scale = scale_.from_channel(call_.n * branch.first + block.picture * branch.channels);
      const auto to = block.from_channel(joined.numbers, branch.first);
      const Rows<T> beside = block.from_channel(out, branch.first);
      const Rows<const T> added = block.from_channel(residual, branch.first);
      lit_[k]->take(block, x);
      lit_[k]->multiply(
          block, x,
          [=](Vec<S> z, Vec<S>, int64_t row, int64_t column, auto... part) {
            z = z * of_pixel<S>(planes, gate, row, column, part...) * scale.at(row, column);
            if (weighted) {
              z.store(to.at(row, column), part...);
            } else {
              if (added) z = z + Vec<S>::load(added.at(row, column), part...);
              put(z, beside.at(row, column), past, part...);
            }
          },
          &ahead);
    }
    if (!weighted) return;
    const auto bias = bias_.from_channel(0);
    weight_.multiply(
        block, joined, call_.out_channels, call_.in,
        [=](Vec<S> value, int64_t row, int64_t column, auto... part) {
          if (bias) value = value + bias.at(row, column);
          if (residual) value = value + Vec<S>::load(residual.at(row, column), part...);
          put(value, out.at(row, column), past, part...);
        },
        &ahead);
  }

  const MultiAttention& call_;
  const std::vector<std::unique_ptr<Lit<T>>>& lit_;
  const bool planes_;
  const PerChannel<S> scale_, bias_;
  const Matrix<T> weight_;
};

// Scales from means.
template <class S>
void make_scales(const MultiAttention& call) {
  std::vector<S> unused(size_t(call.n * call.in));
  for (int64_t k = 0; k < call.branches; ++k) {
    const AttentionBranch& branch = call.branch[k];
    Factors factors{};
    factors.type = call.type;
    factors.n = call.n;
    factors.c = branch.channels;
    factors.hidden = branch.hidden;
    factors.statistic = Statistic::mean;
    factors.mean = factors.variance = call.means + call.n * branch.first;
    factors.down_weight = branch.down_weight;
    factors.down_bias = branch.down_bias;
    factors.up_weight = branch.up_weight;
    factors.up_bias = branch.up_bias;
    factors.centre = factors.shift = unused.data();
    factors.scale = static_cast<S*>(call.scales) + call.n * branch.first;
    instance_norm_attention::FactorsPass<S>(factors).run();
  }
}

}  // namespace lightsr::multi
