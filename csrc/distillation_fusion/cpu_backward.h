// distillation_fusion backward on the CPU: one pass over pixels, in blocks.
//
//   q         = gain scale (weight^T grad)
//   grad_part = q map                  grad_map = sum over the part's channels of q part
//   products  = sum over pixels of grad (part map)^T
//
// The gradients of weight, bias, scale and gains are small sums over products, made in Python.
#pragma once

#include "cpu_forward.h"

namespace lightsr::fusion {

template <class T>
class Backward {
  using S = Wide<T>;
  using F = typename Numbers<T>::Factor;

  // The buffers of a block: the incoming gradient, q, the parts times their maps, sums over a part's channels.
  struct Buffers {
    Operand<T> grad, joined;
    Rows<S> q;
    S* map;
    ChannelSums<S> sums;
    int64_t bytes;

    Buffers(char* from, const Backward& all, int64_t pixels) : Buffers(Arena(from), from, all, pixels) {}
    Buffers(Arena arena, char* from, const Backward& all, int64_t pixels)
        : grad(arena, all.all_.planes, all.call_.out_channels, pixels),
          joined(arena, all.all_.planes, all.back_.products ? all.call_.in : 0, pixels),
          q(buffer<S>(arena, all.all_.planes, all.inner_ ? all.call_.in : 0, pixels)),
          map(arena.take<S>(pixels + Vec<S>::size)),
          sums(arena, all.all_.planes, all.back_.sums ? all.call_.out_channels : 0),
          bytes(arena.used(from)) {}
  };

 public:
  explicit Backward(const DistillationFusionBackward& back)
      : back_(back),
        call_(back.call),
        all_(back.call),
        inner_(std::any_of(back.grad_part, back.grad_part + call_.parts, [](void* to) { return to != nullptr; }) ||
               std::any_of(back.grad_map, back.grad_map + call_.parts, [](void* to) { return to != nullptr; })),
        weight_(all_.planes, static_cast<const T*>(call_.weight), call_.in, call_.out_channels, 1, call_.in) {}

  void run() const {
    const int64_t in = call_.in, outs = call_.out_channels;
    const Blocks blocks(all_.planes, call_.n, call_.pixels, outs + in + (inner_ ? in : 0));
    const int64_t bytes = Buffers(nullptr, *this, blocks.block).bytes;
    const int64_t products = back_.products ? outs * in : 0, sums = back_.sums ? outs : 0;
    const int64_t numbers = products + sums + (back_.residual_product ? 1 : 0);
    const int64_t targets = back_.each_picture ? call_.n : 1;
    const Aligned<double> found(targets * numbers);
    run_with_sums(blocks, back_.each_picture, numbers, found.data(), [&](const Block& block, double* to) {
      Ahead ahead;
      blocks.following(block, [&](const Block& next) {
        next.ask_for<T>({back_.grad, outs * call_.pixels, all_.planes ? call_.pixels : outs}, outs, ahead);
        for (int k = 0; back_.products && k < call_.parts; ++k)
          next.ask_for<T>(call_.part[k], call_.channels[k], ahead);
      });
      this->block(block, Buffers(scratch<char>(bytes), *this, blocks.block), to, to + products, to + products + sums,
                  ahead);
    });
    if (back_.residual_product) *back_.residual_product = 0;
    for (int64_t i = 0; i < targets; ++i) {
      const double* from = found.data() + i * numbers;
      if (products) std::copy_n(from, products, back_.products + i * products);
      if (sums) std::copy_n(from + products, sums, back_.sums + i * sums);
      if (back_.residual_product) *back_.residual_product += from[products + sums];
    }
  }

 private:
  void block(const Block& block, const Buffers& buffers, double* products, double* sums, double* residual_product,
             Ahead& ahead) const {
    const int64_t in = call_.in, outs = call_.out_channels;
    take_gradient(block, buffers, residual_product);
    buffers.sums.add_to(sums, outs);
    if (back_.products) {
      all_.gather(block, buffers.joined, false);
      add_products(block, buffers.grad, outs, buffers.joined, in, products);
    }
    if (!inner_) return;
    const Vec<S> gain = all_.gain;
    const auto scale = all_.scale.from_channel(block.picture * in);
    const Rows<S> to = buffers.q;
    weight_.multiply(
        block, buffers.grad, in, outs,
        [=](Vec<S> q, int64_t row, int64_t column, auto... part) {
          q = q * gain;
          if (scale) q = q * scale.at(row, column);
          q.store(to.at(row, column), part...);
        },
        &ahead);
    all_.every_part(block, [&](int k, int64_t first, const Rows<const T>& from) {
      const Rows<S> q = block.from_channel(buffers.q, first);
      if (back_.grad_part[k]) give_part(block, k, q);
      if (back_.grad_map[k]) give_map(block, k, q, from, buffers.map);
    });
  }

  // The incoming gradient into its buffer, and what depends on it and the residual alone.
  void take_gradient(const Block& block, const Buffers& buffers, double* residual_product) const {
    const int64_t outs = call_.out_channels;
    const Rows<const T> grad = block.of<T>(back_.grad, outs, call_.pixels), residual = block.of<T>(call_.residual);
    const Rows<T> grad_residual = block.of<T>(back_.grad_residual, outs, call_.pixels);
    const Rows<F> to = buffers.grad.numbers;
    const ChannelSums<S> sums = buffers.sums;
    const Vec<S> gain = all_.residual_gain;
    const bool past = past_cache<T>(call_.n * call_.pixels * outs, all_.planes ? call_.pixels : outs, true);
    sums.clear(outs);
    block.every<S>(outs, [=](int64_t row, int64_t column, auto... part) {
      const Vec<S> value = Vec<S>::load(grad.at(row, column), part...);
      value.store(to.at(row, column), part...);
      if (grad_residual) put(value * gain, grad_residual.at(row, column), past, part...);
      if (sums.data) sums.add(value, row, column, part...);
    });
    if (!back_.residual_product) return;
    const int64_t rows = block.rows(outs), columns = block.columns(outs);
    for (int64_t row = 0; row < rows; ++row) *residual_product += dot(grad.at(row, 0), residual.at(row, 0), columns);
  }

  template <class A>
  static S dot(const A* a, const T* b, int64_t count) {
    Vec<S> total = Vec<S>::fill(0);
    Block{true, 0, 0, count}.every<S>(1, [&total, a, b](int64_t, int64_t column, auto... part) {
      total = fma(Vec<S>::load(a + column, part...), Vec<S>::load(b + column, part...), total);
    });
    return sum(total);
  }

  void give_part(const Block& block, int k, const Rows<S>& q) const {
    const Rows<T> to = block.of<T>(back_.grad_part[k], call_.channels[k], call_.pixels);
    const T* map = all_.map(block, k);
    const bool planes = all_.planes;
    const bool past = past_cache<T>(call_.n * call_.pixels * call_.in, planes ? call_.pixels : call_.channels[k], true);
    block.every<S>(call_.channels[k], [=](int64_t row, int64_t column, auto... part) {
      Vec<S> value = Vec<S>::load(q.at(row, column), part...);
      if (map) value = value * Parameters<T>::factor(planes, map, row, column, part...);
      put(value, to.at(row, column), past, part...);
    });
  }

  void give_map(const Block& block, int k, const Rows<S>& q, const Rows<const T>& from, S* totals) const {
    T* to = static_cast<T*>(back_.grad_map[k]) + block.picture * call_.pixels + block.pixel;
    const Block line{true, 0, 0, block.count};
    if (all_.planes) {
      std::fill_n(totals, block.count, S(0));
      block.every<S>(call_.channels[k], [=](int64_t row, int64_t column, auto... part) {
        const Vec<S> before = Vec<S>::load(totals + column);
        const Vec<S> value = Vec<S>::load(q.at(row, column), part...);
        fma(value, Vec<S>::load(from.at(row, column), part...), before).store(totals + column);
      });
    } else {
      for (int64_t p = 0; p < block.count; ++p) totals[p] = dot(q.at(p, 0), from.at(p, 0), call_.channels[k]);
    }
    line.every<S>(
        1, [=](int64_t, int64_t column, auto... part) { Vec<S>::load(totals + column).store(to + column, part...); });
  }

  const DistillationFusionBackward& back_;
  const DistillationFusion& call_;
  const Parameters<T> all_;
  const bool inner_;
  const Matrix<T> weight_;
};

}  // namespace lightsr::fusion
