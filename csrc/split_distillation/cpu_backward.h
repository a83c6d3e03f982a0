// split_distillation backward on the CPU: one pass over pixels, in blocks.
//
// Of a block everything before the results is computed again, into buffers in the cache:
//
//   h = act(x + bias + residual)       z = weight h + weight_bias         d = act(z)
//   s = sigmoid(gate d + gate_bias)    v = grad d s (1 - s)               u = (gate^T v + grad s) act'(z)
//   grad_x = (weight^T u + grad_remaining) act'(x + bias + residual)
//
// or h is read, which tells act' as well.
//
// and the gradients of parameters are sums over pixels: of u h^T and u, of v d^T and v, of grad_x.
#pragma once

#include "cpu_forward.h"

namespace lightsr::distillation {

// The gradient before an activation, from that behind it and the value z before it.
template <class S>
__attribute__((noinline, cold)) Vec<S> gradient_any(Vec<S> grad, Vec<S> z, Activation activation,
                                                    Vec<S> negative_slope) {
  const Vec<S> zero = Vec<S>::fill(0), one = Vec<S>::fill(1);
  switch (activation) {
    case Activation::relu:
      return select<S>(z.v <= zero.v, zero, grad);
    case Activation::leaky_relu:
      return select<S>(z > zero, grad, grad * negative_slope);
    case Activation::gelu: {  // P(N <= z) is gelu(z) / z; near zero that has no digits
      const Vec<S> root = Vec<S>::fill(static_cast<S>(0.39894228040143267794));
      const Vec<S> density = root * exp(Vec<S>::fill(static_cast<S>(-0.5)) * z * z);
      const Vec<S> near_zero = fma(z, root, Vec<S>::fill(static_cast<S>(0.5)));
      const Vec<S> below = select<S>(z * z < Vec<S>::fill(static_cast<S>(1e-12)), near_zero, gelu(z) / z);
      return grad * fma(z, density, below);
    }
    case Activation::silu: {
      const Vec<S> s = sigmoid(z);
      return grad * s * fma(z, one - s, one);
    }
    case Activation::sigmoid: {
      const Vec<S> s = sigmoid(z);
      return grad * (one - s) * s;
    }
    case Activation::none:
      break;
  }
  return grad;
}

template <class S>
Vec<S> gradient_before(Vec<S> grad, Vec<S> z, const Act<S>& act) {
  if (__builtin_expect(act.sloped, 1)) return select<S>(z > Vec<S>::fill(0), grad, grad * act.slope);
  return gradient_any(grad, z, act.activation, act.slope);
}

template <class T>
class Backward {
  using S = Wide<T>;
  using F = typename Numbers<T>::Factor;

  // The buffers of a block, and its sums.
  struct Buffers {
    Operand<T> h, d, u, v;
    Rows<S> slopes, rest;  // act'(z), grad s
    ChannelSums<S> of_u, of_v, of_x;
    int64_t bytes;

    Buffers(char* from, const Backward& all, int64_t pixels) : Buffers(Arena(from), from, all, pixels) {}
    Buffers(Arena arena, char* from, const Backward& all, int64_t pixels)
        : h(arena, all.all_.planes, all.inner_ ? all.call_.split : 0, pixels),
          d(arena, all.all_.planes, all.gated_ && all.weighted_ ? all.call_.distilled : 0, pixels),
          u(arena, all.all_.planes, all.weighted_ ? all.call_.distilled : 0, pixels),
          v(arena, all.all_.planes, all.gated_ ? all.call_.distilled : 0, pixels),
          slopes(buffer<S>(arena, all.all_.planes, all.gated_ && all.weighted_ ? all.call_.distilled : 0, pixels)),
          rest(buffer<S>(arena, all.all_.planes, all.gated_ ? all.call_.distilled : 0, pixels)),
          of_u(arena, all.all_.planes, all.back_.grad_weight_bias ? all.call_.distilled : 0),
          of_v(arena, all.all_.planes, all.back_.grad_gate_bias ? all.call_.distilled : 0),
          of_x(arena, all.all_.planes, all.back_.grad_bias ? all.call_.c : 0),
          bytes(arena.used(from)) {}
  };

 public:
  explicit Backward(const SplitDistillationBackward& back)
      : back_(back),
        call_(back.call),
        all_(back.call),
        value_(back.activated ? Activation::none : call_.activation, static_cast<S>(call_.negative_slope)),
        weighted_(call_.weight != nullptr),
        gated_(call_.gate_weight != nullptr),
        inner_(weighted_ || gated_),
        weight_back_(all_.planes, static_cast<const T*>(call_.weight), weighted_ ? call_.split : 0, call_.distilled, 1,
                     call_.split),
        gate_back_(all_.planes, static_cast<const T*>(call_.gate_weight), gated_ ? call_.distilled : 0, call_.distilled,
                   1, call_.distilled) {}

  void run() const {
    const int64_t d = call_.distilled, c = call_.c, split = call_.split;
    const Blocks blocks(all_.planes, call_.n, call_.pixels, split + (gated_ ? 5 : 1) * d);
    const int64_t bytes = Buffers(nullptr, *this, blocks.block).bytes;
    const int64_t numbers[] = {d * split, d, d * d, d, c};
    void* const results[] = {back_.grad_weight, back_.grad_weight_bias, back_.grad_gate_weight, back_.grad_gate_bias,
                             back_.grad_bias};
    int64_t at[6] = {};
    for (int i = 0; i < 5; ++i) at[i + 1] = at[i] + (results[i] ? numbers[i] : 0);
    const Aligned<double> sums(at[5]);
    run_with_sums(blocks, false, at[5], sums.data(), [&](const Block& block, double* to) {
      Ahead ahead;
      if (gated_) {
        blocks.following(block, [&](const Block& next) {
          next.ask_for<T>(call_.x, back_.activated ? split : c, ahead);
          next.ask_for<T>({back_.grad_distilled, d * call_.pixels, all_.planes ? call_.pixels : d}, d, ahead);
        });
      }
      this->block(block, Buffers(scratch<char>(bytes), *this, blocks.block), to, at, ahead);
    });
    for (int i = 0; i < 5; ++i) {
      for (int64_t k = at[i]; k < at[i + 1]; ++k) {
        const Vec<S> number = Vec<S>::fill(static_cast<S>(sums.data()[k]));
        number.store(static_cast<T*>(results[i]) + k - at[i], 1);
      }
    }
  }

 private:
  // The end of the way, for channels from one on.
  struct End {
    typename Parameters<T>::template Input<Stream<T>> input;
    Act<S> act;
    Rows<const T> grad_remaining;
    Rows<T> grad_x, grad_residual;
    ChannelSums<S> sums;
    bool past;
    template <class... Part>
    void operator()(Vec<S> grad, int64_t row, int64_t column, Part... part) const {
      if (grad_remaining) grad = grad + Vec<S>::load(grad_remaining.at(row, column), part...);
      grad = gradient_before(grad, input(row, column, part...), act);
      if (grad_x) put(grad, grad_x.at(row, column), past, part...);
      if (grad_residual) put(grad, grad_residual.at(row, column), past, part...);
      if (sums.data) sums.add(grad, row, column, part...);
    }
  };

  End end(const Block& block, int64_t first, const ChannelSums<S>& sums) const {
    const auto picture = [&](void* data) {
      return block.from_channel(block.of<T>(data, call_.c, call_.pixels), first);
    };
    // What lies behind the split is a picture of its own where it is given.
    const bool other = back_.activated && first > 0;
    const Stream<T> rest(other ? block.of<T>(back_.rest) : Rows<const T>{}, all_.planes);
    return {other ? all_.input(block, first, rest) : all_.input(block, first),
            all_.first,
            call_.whole ? block.of<T>(back_.grad_remaining, call_.c, call_.pixels) : Rows<const T>{},
            picture(back_.grad_x),
            picture(back_.grad_residual),
            sums.from_channel(first),
            past_cache<T>(call_.n * call_.pixels * call_.c, all_.planes ? call_.pixels : call_.c, true)};
  }

  void block(const Block& block, const Buffers& buffers, double* to, const int64_t* at, Ahead& ahead) const {
    const int64_t c = call_.c, split = call_.split, channels = call_.distilled;
    const Rows<const T> grad = block.of<T>(back_.grad_distilled, channels, call_.pixels);
    const End distilled = end(block, 0, buffers.of_x);
    buffers.of_u.clear(channels);
    buffers.of_v.clear(channels);
    buffers.of_x.clear(c);

    if (inner_) {
      const Rows<F> h = buffers.h.numbers;
      const Act<S> act = value_;
      block.every<S>(split, [=](int64_t row, int64_t column, auto... part) {
        act(distilled.input(row, column, part...)).store(h.at(row, column), part...);
      });
    }
    if (weighted_) before_gate(block, buffers, grad);
    if (gated_) through_gate(block, buffers, grad, distilled, ahead);
    if (weighted_) weight_back_.multiply(block, buffers.u, split, channels, distilled);
    if (!inner_) {
      block.every<S>(split, [=](int64_t row, int64_t column, auto... part) {
        distilled(Vec<S>::load(grad.at(row, column), part...), row, column, part...);
      });
    }
    if (!call_.whole) {
      const End others = end(block, split, buffers.of_x);
      const Rows<const T> remaining = block.of<T>(back_.grad_remaining, c - split, call_.pixels);
      block.every<S>(c - split, [=](int64_t row, int64_t column, auto... part) {
        const Vec<S> by = remaining ? Vec<S>::load(remaining.at(row, column), part...) : Vec<S>::fill(0);
        others(by, row, column, part...);
      });
    }
    if (back_.grad_weight) add_products(block, buffers.u, channels, buffers.h, split, to + at[0]);
    buffers.of_u.add_to(to + at[1], channels);
    const Operand<T>& d = weighted_ ? buffers.d : buffers.h;
    if (back_.grad_gate_weight) add_products(block, buffers.v, channels, d, channels, to + at[2]);
    buffers.of_v.add_to(to + at[3], channels);
    buffers.of_x.add_to(to + at[4], c);
  }

  // d and act'(z), or without a gate u at once.
  void before_gate(const Block& block, const Buffers& buffers, const Rows<const T>& grad) const {
    const bool gated = gated_;
    const Act<S> end = all_.second;
    const auto bias = all_.weight_bias.from_channel(0);
    const Rows<F> d = buffers.d.numbers, u = buffers.u.numbers;
    const Rows<S> slopes = buffers.slopes;
    const ChannelSums<S> sums = buffers.of_u;
    all_.weight.multiply(block, buffers.h, call_.distilled, call_.split,
                         [=](Vec<S> z, int64_t row, int64_t column, auto... part) {
                           if (bias) z = z + bias.at(row, column);
                           const Vec<S> by = gated ? Vec<S>::fill(1) : Vec<S>::load(grad.at(row, column), part...);
                           const Vec<S> found = gradient_before(by, z, end);
                           if (gated) {
                             found.store(slopes.at(row, column), part...);
                             end(z).store(d.at(row, column), part...);
                           } else {
                             found.store(u.at(row, column), part...);
                             if (sums.data) sums.add(found, row, column, part...);
                           }
                         });
  }

  // v and u from d.
  void through_gate(const Block& block, const Buffers& buffers, const Rows<const T>& grad, const End& distilled,
                    Ahead& ahead) const {
    const bool weighted = weighted_;
    const int64_t channels = call_.distilled;
    const Operand<T>& gate_of = weighted ? buffers.d : buffers.h;
    const Rows<F> d = gate_of.numbers, u = buffers.u.numbers, v = buffers.v.numbers;
    const Rows<S> slopes = buffers.slopes, rest = buffers.rest;
    const ChannelSums<S> of_u = buffers.of_u, of_v = buffers.of_v;
    const auto bias = all_.gate_bias.from_channel(0);
    all_.gate.multiply(
        block, gate_of, channels, channels,
        [=](Vec<S> z, int64_t row, int64_t column, auto... part) {
          if (bias) z = z + bias.at(row, column);
          const Vec<S> s = sigmoid(z), by = Vec<S>::load(grad.at(row, column), part...) * s;
          by.store(rest.at(row, column), part...);
          const Vec<S> found = by * Vec<S>::load(d.at(row, column), part...) * (Vec<S>::fill(1) - s);
          found.store(v.at(row, column), part...);
          if (of_v.data) of_v.add(found, row, column, part...);
        },
        &ahead);
    gate_back_.multiply(
        block, buffers.v, channels, channels,
        [=](Vec<S> found, int64_t row, int64_t column, auto... part) {
          found = found + Vec<S>::load(rest.at(row, column), part...);
          if (!weighted) return distilled(found, row, column, part...);
          found = found * Vec<S>::load(slopes.at(row, column), part...);
          found.store(u.at(row, column), part...);
          if (of_u.data) of_u.add(found, row, column, part...);
        },
        &ahead);
  }

  const SplitDistillationBackward& back_;
  const SplitDistillation& call_;
  const Parameters<T> all_;
  const Act<S> value_;  // of what is read as x, to h
  const bool weighted_, gated_, inner_;
  const Matrix<T> weight_back_, gate_back_;
};

}  // namespace lightsr::distillation
