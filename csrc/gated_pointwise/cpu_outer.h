// The outer pass of gated_pointwise's gradients: from n and the gate's first map to x, and what is left of the sums.
#pragma once

#include "cpu_forward.h"
#include "cpu_norm_backward.h"
#include "cpu_sums.h"

namespace lightsr::gated {

template <class T>
class Outer {
  using S = Wide<T>;
  using V = Vec<S>;

 public:
  explicit Outer(const GatedPointwiseOuter& pass)
      : pass_(pass),
        call_(pass.call),
        planes_(!call_.channels_last),
        norm_(norm_of<T>(call_)),
        norm_back_(planes_, call_.c, call_.eps, call_.parameters[norm_weight]),
        entry_back_(planes_, call_.c, call_.gate, pass.weight, 1, call_.c) {}

  void run() const {
    const int64_t c = call_.c, p = call_.gate;
    Blocks blocks(planes_, call_.n, call_.h * call_.w, 4 * c + 3 * p);
    const int64_t bytes = Buffers(*this, blocks.block, nullptr).bytes;
    const bool summed = pass_.sums != nullptr;
    const int64_t count = summed ? p * (c + 1) + 2 * c : 0;  // of the joined entry and its bias, of the norm
    const Aligned<double> sums(count);
    run_with_sums(blocks, false, count, sums.data(), [&](const Block& block, double* to) {
      this->block(block, Buffers(*this, blocks.block, scratch<char>(bytes)), summed ? to : nullptr);
    });
    if (summed) hand_over(sums.data());
  }

 private:
  struct Buffers {
    Arena arena;
    Operand<T> n, entered;
    Rows<S> turned, grad_normal;
    Turned<T> turned_n;
    Sums<T> joined;
    ChannelSums<S> of_joined, of_weight, of_bias;
    int64_t bytes;

    Buffers(const Outer& all, int64_t block, char* from)
        : arena(from),
          n(arena, all.planes_, all.call_.c, block),
          entered(arena, all.planes_, all.call_.gate, block),
          turned(buffer<S>(arena, all.planes_, all.call_.lanes, block)),
          grad_normal(buffer<S>(arena, all.planes_, all.call_.c, block)),
          turned_n(arena, all.planes_, all.call_.c, block),
          joined(arena, all.planes_, all.call_.gate, all.call_.c),
          of_joined(arena, all.planes_, all.call_.gate),
          of_weight(arena, all.planes_, all.call_.c),
          of_bias(arena, all.planes_, all.call_.c),
          bytes(arena.used(from)) {}
  };

  void block(const Block& block, const Buffers& at, double* to) const {
    const int64_t c = call_.c, p = call_.gate, pixels = call_.h * call_.w;
    const Rows<const T> x = block.of<T>(call_.x, c, pixels);
    const S* map = pixels_of(block, static_cast<const S*>(pass_.grad_entered), pixels, call_.lanes);
    const Rows<const S> entered = from_map(block, map, call_.lanes, at.turned);
    at.of_joined.clear(p);
    at.of_weight.clear(c);
    at.of_bias.clear(c);
    block.every<S>(p, [=, to = at.entered.numbers, sums = at.of_joined](int64_t row, int64_t column, auto... part) {
      const V value = V::load(entered.at(row, column), part...);
      value.store(to.at(row, column), part...);
      sums.add(value, row, column, part...);
    });
    entry_back_(block, at.entered,
                [from = block.of<S>(pass_.grad_normal, c, pixels), to = at.grad_normal](V value, int64_t row,
                                                                                        int64_t column, auto... part) {
                  (value + V::load(from.at(row, column), part...)).store(to.at(row, column), part...);
                });
    norm_back_(block, x, {at.grad_normal.data, at.grad_normal.step}, block.of<T>(pass_.grad_x, c, pixels), at.of_weight,
               at.of_bias);
    if (!to) return;
    norm_(block, x, at.n);
    at.joined.clear();
    at.turned_n.fill(block, at.n);
    at.turned_n.add(block, at.entered, at.n, at.joined);
    at.joined.add_to(to, c, 1);
    at.of_joined.add_to(to + p * c, p);
    at.of_weight.add_to(to + p * (c + 1), c);
    at.of_bias.add_to(to + p * (c + 1) + c, c);
  }

  // The joined entry is entry_weight weight_c, its bias entry_weight bias_c + entry_bias.
  void hand_over(const double* sums) const {
    const int64_t c = call_.c, e = call_.expanded, p = call_.gate;
    double* to[parameters];
    for (int64_t i = 0, place = 0; i < parameters; place += call_.numbers[i++]) to[i] = pass_.sums + place;
    std::copy_n(sums + p * (c + 1), c, to[norm_weight]);
    std::copy_n(sums + p * (c + 1) + c, c, to[norm_bias]);
    const auto numbers = [&](Parameter which) {
      const T* from = static_cast<const T*>(call_.parameters[which]);
      std::vector<double> found(static_cast<size_t>(call_.numbers[which]));
      for (size_t i = 0; i < found.size(); ++i) found[i] = double(wide_number<S>(from[i]));
      return found;
    };
    const auto entry = numbers(entry_weight), weight = numbers(weight_c), bias = numbers(bias_c);
    for (int64_t row = 0; row < p; ++row) {
      const double *joined = sums + row * c, of_bias = sums[p * c + row];
      to[entry_bias][row] = of_bias;
      for (int64_t k = 0; k < e; ++k) {
        const double by = entry[row * e + k];
        double sum = of_bias * bias[k];
        for (int64_t i = 0; i < c; ++i) {
          sum += joined[i] * weight[k * c + i];
          to[weight_c][k * c + i] += by * joined[i];
        }
        to[entry_weight][row * e + k] = sum;
        to[bias_c][k] += by * of_bias;
      }
    }
  }

  const GatedPointwiseOuter& pass_;
  const GatedPointwise& call_;
  const bool planes_;
  const ChannelNorm<T> norm_;
  const NormGradient<T> norm_back_;
  const Filters<T> entry_back_;
};

}  // namespace lightsr::gated
