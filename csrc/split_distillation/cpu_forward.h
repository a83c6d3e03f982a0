// split_distillation forward on the CPU: one pass over pixels, in blocks.
//
// Of a block, x and residual are read once; what remains is written as it is made, what is distilled goes to a buffer
// in the cache, through its product, activation and gate, and to its place.
#pragma once

#include <numeric>

#include "../common/block_tasks.h"
#include "../common/pixel_product.h"
#include "../common/simd_math.h"
#include "arguments.h"

namespace lightsr::distillation {

template <class S>
__attribute__((noinline, cold)) Vec<S> activate_any(Vec<S> x, Activation activation, Vec<S> slope) {
  return activate(x, activation, slope);
}

// An activation as loops over pixels call it: x below zero times a slope without a call, anything else with one.
template <class S>
struct Act {
  Activation activation;
  bool sloped;  // none is a slope of 1
  Vec<S> slope;

  Act(Activation activation, S slope)
      : activation(activation),
        sloped(activation == Activation::none || activation == Activation::leaky_relu),
        slope(Vec<S>::fill(activation == Activation::none ? S(1) : slope)) {}
  Vec<S> operator()(Vec<S> x) const {
    if (__builtin_expect(sloped, 1)) return select<S>(x > Vec<S>::fill(0), x, x * slope);
    return activate_any(x, activation, slope);
  }
};

// The parameters of a call as blocks need them.
template <class T>
struct Parameters {
  using S = Wide<T>;
  const SplitDistillation& call;
  bool planes;
  int64_t rest;          // channels of the remaining part
  Act<S> first, second;  // activations
  PerChannel<S> bias, weight_bias, gate_bias;
  Matrix<T> weight, gate;
  bool past;  // whether results go past the caches

  explicit Parameters(const SplitDistillation& call)
      : call(call),
        planes(!call.channels_last),
        rest(call.whole ? call.c : call.c - call.split),
        first(call.activation, static_cast<S>(call.negative_slope)),
        second(call.distilled_activation, static_cast<S>(call.negative_slope)),
        bias(planes, static_cast<const T*>(call.bias), call.c),
        weight_bias(planes, static_cast<const T*>(call.weight_bias), call.distilled),
        gate_bias(planes, static_cast<const T*>(call.gate_bias), call.distilled),
        weight(planes, static_cast<const T*>(call.weight), call.weight ? call.distilled : 0, call.split, call.split, 1),
        gate(planes, static_cast<const T*>(call.gate_weight), call.gate_weight ? call.distilled : 0, call.distilled,
             call.distilled, 1),
        past(past_cache<T>(call.n * call.pixels * (call.distilled + written()),
                           planes ? call.pixels : std::gcd(call.distilled, written()))) {}

  int64_t written() const { return call.remaining ? rest : 0; }  // channels of the remaining part that are wanted

  // x + bias + residual, of channels from one on.
  template <class X>
  struct Input {
    typename PerChannel<S>::View bias;
    X x;
    Stream<T> residual;
    template <class... Part>
    Vec<S> operator()(int64_t row, int64_t column, Part... part) const {
      Vec<S> value = x.template load<S>(row, column, part...);
      if (bias) value = value + bias.at(row, column);
      if (residual) value = value + residual.template load<S>(row, column, part...);
      return value;
    }
  };
  template <class X>
  Input<X> input(const Block& block, int64_t first, const X& x) const {
    return {bias.from_channel(first), x, {block.from_channel(block.of<T>(call.residual), first), planes}};
  }
  Input<Stream<T>> input(const Block& block, int64_t first) const {
    return input(block, first, Stream<T>(block.from_channel(block.of<T>(call.x), first), planes));
  }
};

template <class T>
class Forward {
  using S = Wide<T>;
  using F = typename Numbers<T>::Factor;

 public:
  explicit Forward(const SplitDistillation& call) : call_(call), all_(call) {}

  void run() const {
    const Blocks blocks(all_.planes, call_.n, call_.pixels, call_.split + call_.distilled);
    const auto buffers = [&](char* from) {
      Arena arena(from);
      const Operand<T> h(arena, all_.planes, call_.split, blocks.block);
      const Operand<T> d(arena, all_.planes, call_.distilled, blocks.block);
      return std::make_tuple(h, d, arena.used(from));
    };
    const int64_t bytes = std::get<2>(buffers(nullptr));
    run_tasks(blocks.count(), [&](int64_t task) {
      const auto [h, d, _] = buffers(scratch<char>(bytes));
      Ahead ahead;
      if (call_.gate_weight) {
        blocks.after(task, [&](const Block& next) { next.ask_for<T>(call_.x, call_.c, ahead); });
      }
      const Block here = blocks.at(task);
      block(here, [&](int64_t first) { return all_.input(here, first); }, h, d, ahead);
    });
  }

  const Parameters<T>& parameters() const { return all_; }

  // input(first)(row, column, part...) is x + bias + residual of channels from one on.
  template <class Input>
  void block(const Block& block, const Input& input, const Operand<T>& h, const Operand<T>& d, Ahead& ahead) const {
    const bool weighted = call_.weight != nullptr, gated = call_.gate_weight != nullptr;
    const Rows<T> out = block.of<T>(call_.distilled_out, call_.distilled, call_.pixels);
    const Rows<T> remaining = block.of<T>(call_.remaining, all_.rest, call_.pixels);
    const Rows<T> activated = block.of<T>(call_.activated, call_.split, call_.pixels);
    const Rows<T> also = call_.whole && remaining ? remaining : activated;
    const Rows<F> before = (weighted ? h : d).numbers, values = d.numbers;
    const Act<S> act = all_.first, end = all_.second;
    const bool past = all_.past;

    const auto distilled = input(0);
    block.every<S>(call_.split, [=](int64_t row, int64_t column, auto... part) {
      const Vec<S> value = act(distilled(row, column, part...));
      if (also) put(value, also.at(row, column), past, part...);
      if (weighted || gated) {
        value.store(before.at(row, column), part...);
      } else {
        put(value, out.at(row, column), past, part...);
      }
    });
    if (!call_.whole && remaining) {
      const auto others = input(call_.split);
      block.every<S>(all_.rest, [=](int64_t row, int64_t column, auto... part) {
        put(act(others(row, column, part...)), remaining.at(row, column), past, part...);
      });
    }
    if (weighted) {
      const auto bias = all_.weight_bias.from_channel(0);
      all_.weight.multiply(block, h, call_.distilled, call_.split,
                           [=](Vec<S> z, int64_t row, int64_t column, auto... part) {
                             z = end(bias ? z + bias.at(row, column) : z);
                             if (gated) {
                               z.store(values.at(row, column), part...);
                             } else {
                               put(z, out.at(row, column), past, part...);
                             }
                           });
    }
    if (gated) {
      const auto bias = all_.gate_bias.from_channel(0);
      all_.gate.multiply(
          block, d, call_.distilled, call_.distilled,
          [=](Vec<S> z, int64_t row, int64_t column, auto... part) {
            if (bias) z = z + bias.at(row, column);
            const Vec<S> value = Vec<S>::load(values.at(row, column), part...);
            put(value * sigmoid(z), out.at(row, column), past, part...);
          },
          &ahead);
    }
  }

 private:
  const SplitDistillation& call_;
  const Parameters<T> all_;
};

}  // namespace lightsr::distillation
