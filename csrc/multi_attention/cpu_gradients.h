// The second and the third pass of multi_attention's gradients; the equations stand in cpu_backward.h.
#pragma once

#include "cpu_backward.h"

namespace lightsr::multi {

template <class T>
class Logits : protected GradientPass<T> {
  using Base = GradientPass<T>;
  using Base::back_, Base::call_, Base::lit_, Base::pixels_, Base::planes_, Base::weighted_, Base::widest_;
  using typename Base::S, typename Base::V;

  struct Buffers {
    Operand<T> grad, x;
    Rows<S> d, z;
    S *dots, *ties;
    int64_t bytes;

    Buffers(char* from, const Logits& all, int64_t pixels) : Buffers(Arena(from), from, all, pixels) {}
    Buffers(Arena arena, char* from, const Logits& all, int64_t pixels)
        : grad(arena, all.planes_, all.weighted_ ? all.call_.out_channels : 0, pixels),
          x(arena, all.planes_, all.widest_, pixels),
          d(buffer<S>(arena, all.planes_, all.widest_, pixels)),
          z(buffer<S>(arena, all.planes_, all.planes_ ? 0 : all.widest_, pixels)),
          dots(arena.take<S>(pixels + V::size)),
          ties(arena.take<S>(pixels + V::size)),
          bytes(arena.used(from)) {}
  };

 public:
  using Base::Base;

  void run() const {
    const Blocks blocks(planes_, call_.n, pixels_, call_.out_channels + 3 * widest_);
    const int64_t bytes = Buffers(nullptr, *this, blocks.block).bytes;
    run_tasks(blocks.count(), [&](int64_t task) {
      const Buffers buffers(scratch<char>(bytes), *this, blocks.block);
      const Block block = blocks.at(task);
      Ahead ahead;
      blocks.after(task, [&](const Block& next) { Base::ask_for(next, ahead); });
      if (weighted_) Base::take_grad(block, buffers.grad);
      for (int64_t k = 0; k < call_.branches; ++k) branch(block, k, buffers, ahead);
    });
  }

 private:
  void branch(const Block& block, int64_t k, const Buffers& buffers, Ahead& ahead) const {
    const S* most = Base::map(call_.pooled, block, 2 * k + 1, 2 * call_.branches);
    const Rows<S> d = buffers.d, beside = buffers.z;
    S *const dots = buffers.dots, *const ties = buffers.ties;
    const V zero = V::fill(0), one = V::fill(1);
    Base::find_d(block, k, buffers.grad, d, ahead);
    lit_[k]->take(block, buffers.x);
    if (planes_) {
      std::fill_n(dots, block.count, S(0));
      std::fill_n(ties, block.count, S(0));
      lit_[k]->multiply(
          block, buffers.x,
          [=](V z, V, int64_t row, int64_t column, auto... part) {
            fma(V::load(d.at(row, column), part...), z, V::load(dots + column)).store(dots + column);
            const auto same = instance_norm_attention::equal(z, V::load(most + column, part...));
            (V::load(ties + column) + select<S>(same, one, zero)).store(ties + column);
          },
          &ahead);
    } else {
      lit_[k]->multiply(
          block, buffers.x,
          [=](V z, V, int64_t row, int64_t column, auto... part) { z.store(beside.at(row, column), part...); }, &ahead);
      along(block.count, lit_[k]->branch.channels, buffers, most);
    }
    const S* gate = Base::gate(block, k);
    S* const logits = static_cast<S*>(back_.grad_logits) + (gate - static_cast<const S*>(call_.gates));
    S* const shares = static_cast<S*>(back_.shares) + (gate - static_cast<const S*>(call_.gates));
    instance_norm_attention::each_vector<S>(block.count, [=](int64_t i, auto... part) {
      const V g = V::load(gate + i, part...);
      (g * (one - g) * V::load(dots + i)).store(logits + i, part...);
      (one / V::load(ties + i)).store(shares + i, part...);
    });
  }

  // Of each pixel, where channels lie one behind the other.
  static void along(int64_t count, int64_t channels, const Buffers& from, const S* most) {
    const V zero = V::fill(0), one = V::fill(1);
    const auto add = [](V a, V b) { return a + b; };
    for (int64_t begin = 0; begin < count; begin += V::size) {
      V dots[V::size], ties[V::size];
      for (int64_t j = 0; j < V::size; ++j) {
        const int64_t pixel = std::min(begin + j, count - 1);
        const S *d = from.d.at(pixel, 0), *z = from.z.at(pixel, 0);
        const V largest = V::fill(most[pixel]);
        V dot = zero, tie = zero;
        instance_norm_attention::each_vector<S>(channels, [&](int64_t i, auto... part) {
          const V value = V::load(z + i, part...);
          dot = fma(V::load(d + i, part...), value, dot);
          tie = tie + select<S>(instance_norm_attention::equal(value, lanes(largest, part...)), one, zero);
        });
        dots[j] = dot;
        ties[j] = tie;
      }
      instance_norm_attention::across<S>(dots, add).store(from.dots + begin);
      instance_norm_attention::across<S>(ties, add).store(from.ties + begin);
    }
  }

  static V lanes(V value) { return value; }
  // NaN, which equals nothing, in lanes without a channel.
  static V lanes(V value, int count) {
    S padded[V::size];
    V::fill(std::numeric_limits<S>::quiet_NaN()).store(padded);
    value.store(padded, count);
    return V::load(padded);
  }
};

template <class T>
class PixelGradients : protected GradientPass<T> {
  using Base = GradientPass<T>;
  using Base::back_, Base::call_, Base::lit_, Base::pixels_, Base::planes_, Base::weighted_, Base::widest_;
  using typename Base::S, typename Base::V;

  struct Buffers {
    Operand<T> grad, x, v;
    Rows<S> d;
    S *base, *top;
    ChannelSums<S> sums;
    int64_t bytes;

    Buffers(char* from, const PixelGradients& all, int64_t pixels) : Buffers(Arena(from), from, all, pixels) {}
    Buffers(Arena arena, char* from, const PixelGradients& all, int64_t pixels)
        : grad(arena, all.planes_, all.weighted_ ? all.call_.out_channels : 0, pixels),
          x(arena, all.planes_, all.widest_, pixels),
          v(arena, all.planes_, all.widest_, pixels),
          d(buffer<S>(arena, all.planes_, all.widest_, pixels)),
          base(arena.take<S>(pixels + V::size)),
          top(arena.take<S>(pixels + V::size)),
          sums(arena, all.planes_, all.widest_),
          bytes(arena.used(from)) {}
  };

 public:
  explicit PixelGradients(const MultiAttentionBackward& back) : Base(back) {
    for (int64_t k = 0; k < call_.branches; ++k) {
      const AttentionBranch& branch = call_.branch[k];
      const int64_t c = branch.channels;
      turned_.push_back(std::make_unique<Matrix<T>>(planes_, static_cast<const T*>(branch.pixel_weight), c, c, 1, c));
    }
  }

  void run() const {
    std::vector<int64_t> begins{0};  // of the sums of each branch: those of its weight, then of its bias
    for (int64_t k = 0; k < call_.branches; ++k) {
      const int64_t c = call_.branch[k].channels;
      const int64_t numbers = (back_.grad_pixel_weights[k] ? c * c : 0) + (back_.grad_pixel_biases[k] ? c : 0);
      begins.push_back(begins.back() + numbers);
    }
    const Blocks blocks(planes_, call_.n, pixels_, call_.out_channels + 5 * widest_);
    const int64_t bytes = Buffers(nullptr, *this, blocks.block).bytes;
    const Aligned<double> found(begins.back());
    run_with_sums(blocks, false, begins.back(), found.data(), [&](const Block& block, double* to) {
      const Buffers buffers(scratch<char>(bytes), *this, blocks.block);
      Ahead ahead;
      blocks.following(block, [&](const Block& next) { Base::ask_for(next, ahead); });
      if (weighted_) Base::take_grad(block, buffers.grad);
      for (int64_t k = 0; k < call_.branches; ++k) branch(block, k, buffers, to + begins[k], ahead);
    });
    for (int64_t k = 0; k < call_.branches; ++k) {
      const int64_t c = call_.branch[k].channels;
      const double* from = found.data() + begins[k];
      if (back_.grad_pixel_weights[k]) std::copy_n(from, c * c, back_.grad_pixel_weights[k]);
      if (back_.grad_pixel_biases[k]) std::copy_n(found.data() + begins[k + 1] - c, c, back_.grad_pixel_biases[k]);
    }
  }

 private:
  void branch(const Block& block, int64_t k, const Buffers& buffers, double* to, Ahead& ahead) const {
    const int64_t channels = call_.branch[k].channels;
    const bool weight = back_.grad_pixel_weights[k], bias = back_.grad_pixel_biases[k];
    if (!back_.grad_x[k] && !weight && !bias) return;
    const bool planes = planes_;
    const Rows<S> d = buffers.d;
    const auto v = buffers.v.numbers;
    const S *gate = Base::gate(block, k), *base = buffers.base, *top = buffers.top;
    const S* most = Base::map(call_.pooled, block, 2 * k + 1, 2 * call_.branches);
    const ChannelSums<S> sums = buffers.sums;
    const V zero = V::fill(0), one = V::fill(1);
    find_maps(block, k, buffers);
    sums.clear(channels);
    Base::find_d(block, k, buffers.grad, d, ahead);
    lit_[k]->take(block, buffers.x);
    lit_[k]->multiply(
        block, buffers.x,
        [=](V z, V s, int64_t row, int64_t column, auto... part) {
          const auto of = [&](const S* map) { return of_pixel<S>(planes, map, row, column, part...); };
          const V mine = of(base) + select<S>(instance_norm_attention::equal(z, of(most)), of(top), zero);
          const V grad = fma(V::load(d.at(row, column), part...), of(gate), mine);
          const V found = grad * z * (one - s);
          found.store(v.at(row, column), part...);
          (grad * s).store(d.at(row, column), part...);
          if (bias) sums.add(found, row, column, part...);
        },
        &ahead);
    if (weight) add_products(block, buffers.v, channels, buffers.x, channels, to);
    if (bias) sums.add_to(to + (weight ? channels * channels : 0), channels);
    if (!back_.grad_x[k]) return;
    const Rows<T> result = block.of<T>(back_.grad_x[k], channels, pixels_);
    turned_[k]->multiply(
        block, buffers.v, channels, channels,
        [=](V value, int64_t row, int64_t column, auto... part) {
          (value + V::load(d.at(row, column), part...)).store(result.at(row, column), part...);
        },
        &ahead);
  }

  // What every channel of a pixel gets by the mean, and its largest by the maximum.
  void find_maps(const Block& block, int64_t k, const Buffers& to) const {
    const S* by_mean = Base::map(back_.grad_pooled, block, 2 * k, 2 * call_.branches);
    const S* share = Base::map(back_.shares, block, k, call_.branches);
    const V channels = V::fill(S(call_.branch[k].channels));
    const int64_t pixels = pixels_;
    S *const base = to.base, *const top = to.top;
    instance_norm_attention::each_vector<S>(block.count, [=](int64_t i, auto... part) {
      (V::load(by_mean + i, part...) / channels).store(base + i);
      (V::load(by_mean + pixels + i, part...) * V::load(share + i, part...)).store(top + i);
    });
  }

  std::vector<std::unique_ptr<Matrix<T>>> turned_;
};

}  // namespace lightsr::multi
