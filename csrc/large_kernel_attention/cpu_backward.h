// The 1x1 convolutions and the gate of large_kernel_attention backward on the CPU: one pass over pixels, in blocks.
//
// With t the field, which its caller has computed again, m = mix_weight t + mix_bias and g the gradient of the result:
//
//   s = out_weight^T g, or g    v = s x    grad_t = mix_weight^T v    grad_x = s m (without what comes by t)
//
// and the gradients of parameters are sums over pixels: of v t^T and v, of g (x m)^T and g. Buffers of a block stay in
// the L2 cache. Bound: 5 C C multiply-adds a pixel, beside x, t, g, grad_t and grad_x, 5 C numbers.
#pragma once

#include "../common/block_tasks.h"
#include "../common/pixel_product.h"
#include "arguments.h"

namespace lightsr::attention {

template <class T>
class MixBackward {
  using S = Wide<T>;
  using F = typename Numbers<T>::Factor;

  struct Buffers {
    Operand<T> t, v, g, y;
    Rows<S> m;
    ChannelSums<S> of_v, of_g;
    int64_t bytes;

    Buffers(const MixBackward& all, char* from, int64_t pixels) : Buffers(all, Arena(from), from, pixels) {}
    Buffers(const MixBackward& all, Arena arena, char* from, int64_t pixels)
        : t(arena, all.planes_, all.call_.c, pixels),
          v(arena, all.planes_, all.call_.c, pixels),
          g(arena, all.planes_, all.out_ ? all.call_.c : 0, pixels),
          y(arena, all.planes_, all.out_ ? all.call_.c : 0, pixels),
          m(buffer<S>(arena, all.planes_, all.call_.c, pixels)),
          of_v(arena, all.planes_, all.call_.grad_mix_bias ? all.call_.c : 0),
          of_g(arena, all.planes_, all.call_.grad_out_bias ? all.call_.c : 0),
          bytes(arena.used(from)) {}
  };

 public:
  explicit MixBackward(const LargeKernelAttentionMixBackward& call)
      : call_(call),
        planes_(!call.channels_last),
        out_(call.out_weight != nullptr),
        mix_(planes_, static_cast<const T*>(call.mix_weight), call.c, call.c, call.c, 1),
        mix_back_(planes_, static_cast<const T*>(call.mix_weight), call.c, call.c, 1, call.c),
        out_back_(planes_, static_cast<const T*>(call.out_weight), out_ ? call.c : 0, call.c, 1, call.c),
        mix_bias_(planes_, static_cast<const T*>(call.mix_bias), call.c) {}

  void run() const {
    const int64_t c = call_.c;
    const Blocks blocks(planes_, call_.n, call_.pixels, (out_ ? 5 : 3) * c);
    const int64_t bytes = Buffers(*this, nullptr, blocks.block).bytes;
    const int64_t numbers[] = {c * c, c, c * c, c};
    void* const results[] = {call_.grad_mix_weight, call_.grad_mix_bias, call_.grad_out_weight, call_.grad_out_bias};
    int64_t at[5] = {};
    for (int i = 0; i < 4; ++i) at[i + 1] = at[i] + (results[i] ? numbers[i] : 0);
    const Aligned<double> sums(at[4]);
    run_with_sums(blocks, false, at[4], sums.data(), [&](const Block& block, double* to) {
      Ahead ahead;
      blocks.following(block, [&](const Block& next) {
        const int64_t step = planes_ ? call_.pixels : c;
        for (const void* each : {call_.t, call_.grad, call_.x}) {
          next.ask_for<T>({each, c * call_.pixels, step}, c, ahead);
        }
      });
      this->block(block, Buffers(*this, scratch<char>(bytes), blocks.block), to, at, ahead);
    });
    for (int i = 0; i < 4; ++i) {
      for (int64_t k = at[i]; k < at[i + 1]; ++k) {
        const Vec<S> number = Vec<S>::fill(static_cast<S>(sums.data()[k]));
        number.store(static_cast<T*>(results[i]) + k - at[i], 1);
      }
    }
  }

 private:
  void block(const Block& block, const Buffers& at, double* to, const int64_t* places, Ahead& ahead) const {
    const int64_t c = call_.c;
    const Rows<const T> g = block.of<T>(call_.grad, c, call_.pixels);
    at.of_v.clear(c);
    at.of_g.clear(c);
    ChannelSums<S> none = at.of_g;
    none.data = nullptr;
    read(block, call_.t, at.t, none);
    const auto bias = mix_bias_.from_channel(0);
    const Rows<S> m = at.m;
    mix_.multiply(
        block, at.t, c, c,
        [=](Vec<S> sums, int64_t row, int64_t column, auto... part) {
          if (bias) sums = sums + bias.at(row, column);
          sums.store(m.at(row, column), part...);
        },
        &ahead);
    const bool past = past_cache<T>(call_.n * call_.pixels * c, planes_ ? call_.pixels : c, true);
    const Gate gate{block.of<T>(call_.x, c, call_.pixels),      at.m,    at.v.numbers, out_ ? at.y.numbers : Rows<F>{},
                    block.of<T>(call_.grad_x, c, call_.pixels), at.of_v, past};
    if (out_) {
      read(block, call_.grad, at.g, at.of_g);
      out_back_.multiply(block, at.g, c, c, gate, &ahead);
    } else {
      block.every<S>(c, [=](int64_t row, int64_t column, auto... part) {
        gate(Vec<S>::load(g.at(row, column), part...), row, column, part...);
      });
    }
    if (call_.grad_t) {
      const Rows<T> grad_t = block.of<T>(call_.grad_t, c, call_.pixels);
      mix_back_.multiply(
          block, at.v, c, c,
          [=](Vec<S> sums, int64_t row, int64_t column, auto... part) {
            put(sums, grad_t.at(row, column), past, part...);
          },
          &ahead);
    }
    if (call_.grad_mix_weight) add_products(block, at.v, c, at.t, c, to + places[0]);
    at.of_v.add_to(to + places[1], c);
    if (call_.grad_out_weight) add_products(block, at.g, c, at.y, c, to + places[2]);
    at.of_g.add_to(to + places[3], c);
  }

  // What becomes of s.
  struct Gate {
    Rows<const T> x;
    Rows<S> m;
    Rows<F> v, y;
    Rows<T> grad_x;
    ChannelSums<S> of_v;
    bool past;
    template <class... Part>
    void operator()(Vec<S> s, int64_t row, int64_t column, Part... part) const {
      const Vec<S> by = Vec<S>::load(x.at(row, column), part...), gate = Vec<S>::load(m.at(row, column), part...);
      const Vec<S> found = s * by;
      found.store(v.at(row, column), part...);
      if (y) (by * gate).store(y.at(row, column), part...);
      if (grad_x) put(s * gate, grad_x.at(row, column), past, part...);
      if (of_v.data) of_v.add(found, row, column, part...);
    }
  };

  void read(const Block& block, const void* from, const Operand<T>& to, const ChannelSums<S>& sums) const {
    const Stream<T> rows(block.of<T>(from, call_.c, call_.pixels), planes_);
    const Rows<F> numbers = to.numbers;
    block.every<S>(call_.c, [=](int64_t row, int64_t column, auto... part) {
      const Vec<S> value = rows.template load<S>(row, column, part...);
      value.store(numbers.at(row, column), part...);
      if (sums.data) sums.add(value, row, column, part...);
    });
  }

  const LargeKernelAttentionMixBackward& call_;
  const bool planes_, out_;
  const Matrix<T> mix_, mix_back_, out_back_;
  const PerChannel<S> mix_bias_;
};

}  // namespace lightsr::attention
