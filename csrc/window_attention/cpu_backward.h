// window_attention backward on the CPU: runs of neighbouring sets, as forward goes.
//
// With n the normalised pixels of a set, A its maps, W = out_weight value_weight and g the gradient of the result:
//
//   P = A^T g    gn = P W    grad_x = g + the norm's gradient of gn (cpu_token_gradients.h)    grad_A = (g W) n^T
//
// and J, the gradient of W, is the sum over sets of P^T n, of which come those of the two weights: out_weight^T J and
// J value_weight^T. Mixing the gradient by A first leaves two products with window^2 along the maps' side, which are
// what costs most. Bound: 3 C C + 2 C window^2 multiply-adds a pixel, beside x, g and grad_x, 3 C numbers, and maps and
// their gradient, 2 window^2 numbers. Vectors lie along channels, but for grad_A, where n is turned over first.
#pragma once

#include "../common/block_tasks.h"
#include "arguments.h"
#include "cpu_joint.h"
#include "cpu_sets.h"
#include "cpu_token_gradients.h"
#include "cpu_turn.h"

namespace lightsr::attention {

template <class T>
class Backward {
  using S = Wide<T>;
  using F = typename Numbers<T>::Factor;
  using E = typename Numbers<T>::Element;
  static constexpr bool pairs = Numbers<T>::pairs;
  static constexpr int size = Vec<S>::size;
  static constexpr int64_t each = pairs ? 2 : 1;
  static constexpr int64_t cache = 1 << 19;  // bytes of a run's rows

 public:
  explicit Backward(const WindowAttentionBackward& back)
      : back_(back),
        call_(back.call),
        planes_(!call_.channels_last),
        tokens_(planes_, call_.c, call_.h * call_.w, call_.eps, call_.norm_weight, call_.norm_bias),
        gradients_(planes_, call_.c, call_.h * call_.w, call_.norm_weight),
        weight_(turned_over(joint_of(weight(call_.out_weight), call_.c, 1, weight(call_.value_weight), call_.c, S(1)),
                            call_.c)
                    .data(),
                call_.c, call_.c, call_.c),
        slot_(round_up(call_.window * call_.window, std::max(size, product_rows))),
        sets_(call_.grid, call_.window, call_.h, call_.w, cache / (4 * slot_ * tokens_.padded() * int64_t(sizeof(S))),
              planes_ ? size : 1),
        in_place_(std::is_same_v<T, F> && sets_.tokens == slot_),
        norm_(back.grad_x || back.grad_norm_weight || back.grad_norm_bias),
        joint_(back.grad_value_weight || back.grad_out_weight) {}

  void run() const {
    const int64_t bytes = Buffers(*this, nullptr).bytes, c = call_.c;
    const int64_t of_weight = joint_ ? c * c : 0, of_bias = of_weight + (back_.grad_norm_weight ? c : 0);
    const int64_t count = of_bias + (back_.grad_norm_bias ? c : 0);
    const Aligned<double> sums(count);
    // A block of one pixel each stands for a run.
    run_with_sums(
        Blocks(false, sets_.tasks(call_.n), 1, 1), false, count, sums.data(), [&](const Block& block, double* to) {
          Ahead ahead;
          if (block.picture + 1 < sets_.tasks(call_.n)) ask_for(sets_.at(block.picture + 1), ahead);
          run(sets_.at(block.picture), Buffers(*this, scratch<char>(bytes)), to, to + of_weight, to + of_bias, ahead);
        });
    for (int64_t i = 0; i < c; ++i) put(back_.grad_norm_weight, i, sums.data() + of_weight + i);
    for (int64_t i = 0; i < c; ++i) put(back_.grad_norm_bias, i, sums.data() + of_bias + i);
    if (back_.grad_value_weight) {
      put_products<S>(static_cast<T*>(back_.grad_value_weight), c, c,
                      [&, w = weight(call_.out_weight)](int64_t i, int64_t k, double* row, double& by) {
                        by = wide_number<S>(w[k * c + i]);
                        std::copy_n(sums.data() + k * c, c, row);
                      });
    }
    if (back_.grad_out_weight) {
      put_products<S>(static_cast<T*>(back_.grad_out_weight), c, c,
                      [&, w = weight(call_.value_weight)](int64_t i, int64_t k, double* row, double& by) {
                        by = sums.data()[i * c + k];
                        for (int64_t j = 0; j < c; ++j) row[j] = wide_number<S>(w[j * c + k]);
                      });
    }
  }

 private:
  struct Buffers {
    Arena arena;
    S *work, *before, *moments;  // before: rows of gn
    Operand<T> n, mixed;         // rows of n and of P
    F *grads, *weighed;          // rows of g; of a set, of g W
    E *keys, *pairs_of_grads;    // of a set: n turned over, pairs of rows of g
    F* maps;                     // of a set, where they have to be widened or filled up
    E* pairs_of_maps;
    ChannelSums<S> of_weight, of_bias;
    int64_t bytes;

    Buffers(const Backward& all, char* from)
        : arena(from),
          work(arena.take<S>(std::max(all.tokens_.work(), all.gradients_.work()))),
          before(arena.take<S>(all.norm_ ? all.rows() * all.tokens_.padded() : 0)),
          moments(arena.take<S>(2 * all.rows())),
          n(arena, false, all.tokens_.padded() - 1, all.rows()),
          mixed(arena, false, all.tokens_.padded() - 1, all.rows()),
          grads(arena.take<F>((all.rows() + 1) * all.tokens_.padded())),
          weighed(arena.take<F>((all.slot_ + 1) * all.tokens_.padded())),
          keys(arena.take<E>(all.tokens_.padded() * all.slot_)),
          pairs_of_grads(arena.take<E>(pairs ? all.slot_ / 2 * all.tokens_.padded() : 0)),
          maps(arena.take<F>(all.in_place_ ? 0 : all.slot_ * all.slot_)),
          pairs_of_maps(arena.take<E>(pairs ? all.slot_ / 2 * all.slot_ : 0)),
          of_weight(arena, all.planes_, all.back_.grad_norm_weight ? all.call_.c : 0),
          of_bias(arena, all.planes_, all.back_.grad_norm_bias ? all.call_.c : 0),
          bytes(arena.used(from)) {
      n.numbers.step = mixed.numbers.step = all.tokens_.padded();
    }
  };

  int64_t rows() const { return sets_.run * slot_; }
  static const T* weight(const void* data) { return static_cast<const T*>(data); }
  static void put(void* to, int64_t place, const double* from) {
    if (to) Vec<S>::fill(static_cast<S>(*from)).store(static_cast<T*>(to) + place, 1);
  }

  void ask_for(const Sets::Run& run, Ahead& ahead) const {
    for (const void* each : {call_.x, back_.grad}) {
      tokens_.ask_for(weight(each) + run.picture * tokens_.picture(), sets_, run, ahead);
    }
  }

  void run(const Sets::Run& run, const Buffers& at, double* to, double* of_weight, double* of_bias,
           Ahead& ahead) const {
    const int64_t step = tokens_.padded(), tokens = sets_.tokens, picture = run.picture * tokens_.picture();
    const T *x = weight(call_.x) + picture, *grad = weight(back_.grad) + picture;
    F* const normed = at.n.numbers.data;
    int64_t done = 0;
    sets_.stretches(run, slot_, [&](int64_t pixel, int64_t count, const auto& place) {
      const int64_t first = tokens_.first(pixel);
      tokens_.normed(
          x + first, count, at.work, [&](int64_t p) { return normed + place(p) * step; }, at.moments + done, rows());
      gradients_.rows(grad + first, count, [&](int64_t p) { return at.grads + place(p) * step; });
      done += count;
    });
    T* grad_x = back_.grad_x ? static_cast<T*>(back_.grad_x) + picture : nullptr;
    Ahead own;
    if (grad_x) tokens_.ask_for(grad_x, sets_, run, own);
    for (int64_t s = 0; s < run.count; ++s) {
      const int64_t place = s * slot_ * step, missing = (slot_ - tokens) * step;
      for (F* rows : {normed, at.mixed.numbers.data, at.grads}) std::fill_n(rows + place + tokens * step, missing, F{});
      if (back_.grad_maps) grad_maps(run.set + s, normed + place, at.grads + place, at, own);
      if (norm_ || joint_) mix(run.set + s, at.grads + place, at.mixed.numbers.data + place, at, ahead);
      if (!norm_) continue;
      weight_.multiply_to({at.mixed.numbers.data + place, step}, tokens, step, Rows<S>{at.before + place, step},
                          &ahead);
    }
    if (joint_) add_products(Block{false, 0, 0, run.count * slot_}, at.mixed, call_.c, at.n, call_.c, to);
    if (!norm_) return;
    at.of_weight.clear(call_.c);
    at.of_bias.clear(call_.c);
    done = 0;
    sets_.stretches(run, slot_, [&](int64_t pixel, int64_t count, const auto& place) {
      const int64_t first = tokens_.first(pixel);
      gradients_.before(
          x + first, grad + first, grad_x ? grad_x + first : nullptr, count, at.moments + done, rows(), at.work,
          [&](int64_t p) { return at.before + place(p) * step; }, at.of_weight, at.of_bias);
      done += count;
    });
    at.of_weight.add_to(of_weight, call_.c);
    at.of_bias.add_to(of_bias, call_.c);
  }

  // (g W) n^T. While g W is computed memory for its results comes into the cache, and what `ahead` asks for; after that
  // the maps.
  void grad_maps(int64_t set, const F* normed, const F* grads, const Buffers& at, Ahead& ahead) const {
    const int64_t step = tokens_.padded(), tokens = sets_.tokens, wide = tokens * int64_t(sizeof(T));
    T* to = static_cast<T*>(back_.grad_maps) + set * tokens * tokens;
    weight_.multiply(
        {grads, step}, tokens, step,
        [=, rows = at.weighed](Vec<S> sums, int64_t row, int64_t column, auto...) {
          sums.store(rows + row * step + column);
          if (column) return;
          const char* result = reinterpret_cast<const char*>(to + row * tokens);
          for (int64_t b = 0; b < wide; b += 64) __builtin_prefetch(result + b, 1);
        },
        &ahead);
    turn_rows<T>(normed, slot_, step, at.keys);
    const E* rows = reinterpret_cast<const E*>(at.weighed);
    Ahead maps;
    maps.add(weight(call_.maps) + set * tokens * tokens, 0, tokens * wide, 1);
    multiply_to(Product<E>{rows, step / each, 1, at.keys, slot_, depth_of<T>(call_.c)}, tokens, tokens, to, tokens,
                &maps);
  }

  // P, a set's maps turned over times its gradients.
  void mix(int64_t set, const F* grads, F* to, const Buffers& at, Ahead& ahead) const {
    const int64_t tokens = sets_.tokens, step = tokens_.padded();
    const T* from = weight(call_.maps) + set * tokens * tokens;
    Rows<const F> maps{at.maps, slot_};
    if constexpr (std::is_same_v<T, F>) {
      if (in_place_) maps = {from, tokens};
    }
    for (int64_t row = 0; !in_place_ && row < tokens; ++row) {
      if constexpr (std::is_same_v<T, F>) {
        std::copy_n(from + row * tokens, tokens, at.maps + row * slot_);
      } else {
        widen(at.maps + row * slot_, from + row * tokens, tokens);
      }
    }
    Product<E> product;
    if constexpr (pairs) {
      interleave(maps, tokens, slot_, Rows<E>{at.pairs_of_maps, slot_});
      interleave(Rows<const F>{grads, step}, tokens, step, Rows<E>{at.pairs_of_grads, step});
      product = {at.pairs_of_maps, 1, slot_, at.pairs_of_grads, step, depth_of<T>(tokens)};
    } else {
      product = {maps.data, 1, maps.step, grads, step, tokens};
    }
    multiply_to(product, tokens, step, to, step, &ahead);
  }

  const WindowAttentionBackward& back_;
  const WindowAttention& call_;
  bool planes_;
  Tokens<T> tokens_;
  TokenGradients<T> gradients_;
  Columns<T> weight_;
  int64_t slot_;  // rows of a set
  Sets sets_;
  bool in_place_, norm_, joint_;
};

}  // namespace lightsr::attention
