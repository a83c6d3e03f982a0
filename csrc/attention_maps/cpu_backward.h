// attention_maps backward on the CPU: runs of neighbouring sets, as forward goes.
//
// With n the normalised pixels of a set, A its maps, W the product of keys' and queries' weights and its scale, so that
// scores are (n W^T) n^T, and g the gradient of the maps:
//
//   D = A (g - sum over keys of g A)    Q = D n    gn = Q W + D^T (n W^T)    grad_x = the norm's gradient of gn
//
// Of the sums over sets, J of Q^T n is the gradient of W, of which come those of the two weights, and that of D is the
// position table's, entry by entry. Bound: 3 C C + 2 C window^2 multiply-adds a pixel, beside x and grad_x, 2 C
// numbers, and maps and their gradient, 2 window^2 numbers.
#pragma once

#include <cmath>
#include <vector>

#include "../common/block_tasks.h"
#include "../window_attention/cpu_joint.h"
#include "../window_attention/cpu_sets.h"
#include "../window_attention/cpu_token_gradients.h"
#include "arguments.h"

namespace lightsr::attention {

template <class T>
class MapsBackward {
  using S = Wide<T>;
  using F = typename Numbers<T>::Factor;
  using E = typename Numbers<T>::Element;
  using V = Vec<S>;
  static constexpr bool pairs = Numbers<T>::pairs;
  static constexpr int size = V::size;
  static constexpr int64_t each = pairs ? 2 : 1;
  static constexpr int64_t cache = 1 << 19;  // bytes of a run's rows

 public:
  explicit MapsBackward(const AttentionMapsBackward& back)
      : back_(back),
        call_(back.call),
        planes_(!call_.channels_last),
        tokens_(planes_, call_.c, call_.h * call_.w, call_.eps, call_.norm_weight, call_.norm_bias),
        gradients_(planes_, call_.c, call_.h * call_.w, call_.norm_weight),
        scale_(S(1) / std::sqrt(S(call_.c))),
        joint_weight_(joint_of(queries() + call_.c * call_.c, 1, call_.c, queries(), call_.c, scale_)),
        weight_(joint_weight_.data(), call_.c, call_.c, call_.c),
        weight_back_(turned_over(joint_weight_, call_.c).data(), call_.c, call_.c, call_.c),
        slot_(round_up(call_.window * call_.window, std::max(size, product_rows))),
        sets_(call_.grid, call_.window, call_.h, call_.w, cache / (3 * slot_ * tokens_.padded() * int64_t(sizeof(S))),
              planes_ ? size : 1),
        norm_(back.grad_x || back.grad_norm_weight || back.grad_norm_bias) {}

  void run() const {
    const int64_t bytes = Buffers(*this, nullptr).bytes, c = call_.c, tokens = sets_.tokens;
    const int64_t table = back_.grad_query_key_weight ? c * c : 0;
    const int64_t of_weight = table + (back_.grad_position ? tokens * tokens : 0);
    const int64_t of_bias = of_weight + (back_.grad_norm_weight ? c : 0);
    const int64_t count = of_bias + (back_.grad_norm_bias ? c : 0);
    const Aligned<double> sums(count);
    // A block of one pixel each stands for a run.
    run_with_sums(Blocks(false, sets_.tasks(call_.n), 1, 1), false, count, sums.data(),
                  [&](const Block& block, double* to) {
                    run(sets_.at(block.picture), Buffers(*this, scratch<char>(bytes)), to, to + table, to + of_weight,
                        to + of_bias);
                  });
    const auto put = [](void* to, int64_t place, double number) {
      if (to) V::fill(static_cast<S>(number)).store(static_cast<T*>(to) + place, 1);
    };
    for (int64_t i = 0; i < c && back_.grad_norm_weight; ++i)
      put(back_.grad_norm_weight, i, sums.data()[of_weight + i]);
    for (int64_t i = 0; i < c && back_.grad_norm_bias; ++i) put(back_.grad_norm_bias, i, sums.data()[of_bias + i]);
    if (back_.grad_position) {
      const int64_t window = call_.window, side = 2 * window - 1;
      std::vector<double> entries(side * side);
      for (int64_t i = 0; i < tokens * tokens; ++i) {
        const int64_t query = i / tokens, key = i % tokens;
        const int64_t below = query / window - key / window, right = query % window - key % window;
        entries[(below + window - 1) * side + right + window - 1] += sums.data()[table + i];
      }
      for (int64_t i = 0; i < side * side; ++i) put(back_.grad_position, i, entries[i]);
    }
    if (!back_.grad_query_key_weight) return;
    put_products<S>(static_cast<T*>(back_.grad_query_key_weight), 2 * c, c,
                    [&, joint = sums.data()](int64_t i, int64_t k, double* row, double& number) {
                      // Of queries by keys' weights, of keys by queries'.
                      number = double(scale_) * wide_number<S>(queries()[(i < c ? i + c : i - c) * c + k]);
                      for (int64_t j = 0; j < c; ++j) row[j] = i < c ? joint[k * c + j] : joint[j * c + k];
                    });
  }

 private:
  struct Buffers {
    Arena arena;
    S *work, *before, *moments;  // before: rows of gn
    Operand<T> n, mixed;         // rows of n and of Q
    F *inner, *scores;           // of a set: rows of n W^T, D
    E *pairs_of_rows, *pairs_of_scores;
    S* table;  // sums of D
    ChannelSums<S> of_weight, of_bias;
    int64_t bytes;

    Buffers(const MapsBackward& all, char* from)
        : arena(from),
          work(arena.take<S>(std::max(all.tokens_.work(), all.gradients_.work()))),
          before(arena.take<S>(all.rows() * all.tokens_.padded())),
          moments(arena.take<S>(2 * all.rows())),
          n(arena, false, all.tokens_.padded() - 1, all.rows()),
          mixed(arena, false, all.tokens_.padded() - 1, all.rows()),
          inner(arena.take<F>((all.slot_ + 1) * all.tokens_.padded())),
          scores(arena.take<F>((all.slot_ + 1) * all.slot_)),
          pairs_of_rows(arena.take<E>(pairs ? all.slot_ / 2 * all.tokens_.padded() : 0)),
          pairs_of_scores(arena.take<E>(pairs ? all.slot_ / 2 * all.slot_ : 0)),
          table(arena.take<S>(all.sets_.tokens * all.slot_)),
          of_weight(arena, all.planes_, all.back_.grad_norm_weight ? all.call_.c : 0),
          of_bias(arena, all.planes_, all.back_.grad_norm_bias ? all.call_.c : 0),
          bytes(arena.used(from)) {
      n.numbers.step = mixed.numbers.step = all.tokens_.padded();
    }
  };

  int64_t rows() const { return sets_.run * slot_; }
  const T* queries() const { return static_cast<const T*>(call_.query_key_weight); }

  void run(const Sets::Run& run, const Buffers& at, double* joint, double* table, double* of_weight,
           double* of_bias) const {
    const int64_t step = tokens_.padded(), tokens = sets_.tokens, picture = run.picture * tokens_.picture();
    const T* x = static_cast<const T*>(call_.x) + picture;
    F* const normed = at.n.numbers.data;
    int64_t done = 0;
    sets_.stretches(run, slot_, [&](int64_t pixel, int64_t count, const auto& place) {
      tokens_.normed(
          x + tokens_.first(pixel), count, at.work, [&](int64_t p) { return normed + place(p) * step; },
          at.moments + done, rows());
      done += count;
    });
    std::fill_n(at.table, tokens * slot_, S(0));
    for (int64_t s = 0; s < run.count; ++s) {
      const int64_t place = s * slot_ * step, missing = (slot_ - tokens) * step;
      for (F* rows : {normed, at.mixed.numbers.data}) std::fill_n(rows + place + tokens * step, missing, F{});
      before_softmax(run.set + s, at);
      if (!norm_ && !back_.grad_query_key_weight) continue;
      F* const mixed = at.mixed.numbers.data + place;
      multiply_to(product(at, normed + place, false), tokens, step, mixed, step);
      if (!norm_) continue;
      weight_.multiply_to({normed + place, step}, tokens, step, Rows<F>{at.inner, step});
      S* const before = at.before + place;
      weight_back_.multiply_to({mixed, step}, tokens, step, Rows<S>{before, step});
      multiply(product(at, at.inner, true), tokens, step, [=](Vec<S> sums, int64_t row, int64_t column, auto... part) {
        S* to = before + row * step + column;
        (sums + V::load(to, part...)).store(to, part...);
      });
    }
    for (int64_t i = 0; back_.grad_position && i < tokens * tokens; ++i) {
      table[i] += at.table[i / tokens * slot_ + i % tokens];
    }
    if (back_.grad_query_key_weight) {
      add_products(Block{false, 0, 0, run.count * slot_}, at.mixed, call_.c, at.n, call_.c, joint);
    }
    if (!norm_) return;
    at.of_weight.clear(call_.c);
    at.of_bias.clear(call_.c);
    T* grad_x = back_.grad_x ? static_cast<T*>(back_.grad_x) + picture : nullptr;
    done = 0;
    sets_.stretches(run, slot_, [&](int64_t pixel, int64_t count, const auto& place) {
      const int64_t first = tokens_.first(pixel);
      gradients_.before(
          x + first, nullptr, grad_x ? grad_x + first : nullptr, count, at.moments + done, rows(), at.work,
          [&](int64_t p) { return at.before + place(p) * step; }, at.of_weight, at.of_bias);
      done += count;
    });
    at.of_weight.add_to(of_weight, call_.c);
    at.of_bias.add_to(of_bias, call_.c);
  }

  // D of a set, and its sums.
  void before_softmax(int64_t set, const Buffers& at) const {
    const int64_t tokens = sets_.tokens, whole = tokens / size * size;
    const int part = static_cast<int>(tokens - whole);
    const T* maps = static_cast<const T*>(back_.maps) + set * tokens * tokens;
    const T* grad = static_cast<const T*>(back_.grad) + set * tokens * tokens;
    for (int64_t row = 0; row < tokens; ++row, maps += tokens, grad += tokens) {
      V all = part ? V::load(maps + whole, part) : V::fill(0);
      V total = part ? all * V::load(grad + whole, part) : V::fill(0);
      for (int64_t c = 0; c < whole; c += size) {
        const V share = V::load(maps + c);
        all = all + share;
        total = lightsr::fma(share, V::load(grad + c), total);
      }
      const V shift = V::fill(sum(total) / sum(all));  // shares as rounded do not sum to 1, and D must to 0
      F* to = at.scores + row * slot_;
      S* table = at.table + row * slot_;
      const auto put = [&](int64_t c, auto... some) {
        const V value = V::load(maps + c, some...) * (V::load(grad + c, some...) - shift);
        value.store(to + c, some...);
        (V::load(table + c, some...) + value).store(table + c, some...);
      };
      for (int64_t c = 0; c < whole; c += size) put(c);
      if (part) put(whole, part);
      if (pairs && tokens % 2) to[tokens] = F{};
    }
  }

  // D, or D turned over, times rows of a set.
  Product<E> product(const Buffers& at, const F* rows, bool over) const {
    const int64_t tokens = sets_.tokens, step = tokens_.padded(), depth = depth_of<T>(tokens);
    if constexpr (pairs) {
      interleave(Rows<const F>{rows, step}, tokens, step, Rows<E>{at.pairs_of_rows, step});
      if (!over) return {reinterpret_cast<const E*>(at.scores), slot_ / each, 1, at.pairs_of_rows, step, depth};
      interleave(Rows<const F>{at.scores, slot_}, tokens, slot_, Rows<E>{at.pairs_of_scores, slot_});
      return {at.pairs_of_scores, 1, slot_, at.pairs_of_rows, step, depth};
    } else {
      return {at.scores, over ? 1 : slot_, over ? slot_ : 1, rows, step, depth};
    }
  }

  const AttentionMapsBackward& back_;
  const AttentionMaps& call_;
  bool planes_;
  Tokens<T> tokens_;
  TokenGradients<T> gradients_;
  S scale_;
  std::vector<S> joint_weight_;
  Columns<T> weight_, weight_back_;
  int64_t slot_;  // rows of a set, and columns of its scores
  Sets sets_;
  bool norm_;
};

}  // namespace lightsr::attention
