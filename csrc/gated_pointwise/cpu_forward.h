// The passes over pixels of gated_pointwise's forward: one into the gate, one that makes the result.
#pragma once

#include "../common/block_tasks.h"
#include "../common/channel_norm.h"
#include "../common/simd_math.h"
#include "cpu_enlarge.h"
#include "cpu_layer.h"
#include "cpu_maps.h"

namespace lightsr::gated {

template <class T>
ChannelNorm<T> norm_of(const GatedPointwise& call) {
  return {!call.channels_last, call.c, call.eps, call.parameters[norm_weight], call.parameters[norm_bias]};
}

template <class T>
Layer<T> layer_of(const GatedPointwise& call, Parameter weight, Parameter bias, int64_t outs, int64_t ins) {
  return {!call.channels_last, call.parameters[weight], call.parameters[bias], outs, ins};
}

// A dense picture of C channels.
inline Slice picture_of(const GatedPointwise& call, const void* data) {
  const int64_t pixels = call.h * call.w;
  return {data, call.c * pixels, call.channels_last ? call.c : pixels};
}

template <class T>
void enter(const GatedPointwiseEntry& pass) {
  using S = Wide<T>;
  const GatedPointwise& call = pass.call;
  const bool planes = !call.channels_last;
  const int64_t pixels = call.h * call.w;
  const ChannelNorm<T> norm = norm_of<T>(call);
  const Layer<T> entry(planes, pass.weight, pass.bias, call.gate, call.c);
  const Blocks blocks(planes, call.n, pixels, call.c + call.gate);
  const auto buffers = [&](char* from) {
    Arena arena(from);
    const Operand<T> n(arena, planes, call.c, blocks.block);
    const Rows<S> entered = buffer<S>(arena, planes, call.lanes, blocks.block);
    return std::tuple(n, entered, arena.used(from));
  };
  const int64_t bytes = std::get<2>(buffers(nullptr));
  run_tasks(blocks.count(), [&](int64_t task) {
    const auto [n, to, _] = buffers(scratch<char>(bytes));
    const Block block = blocks.at(task);
    Ahead ahead;
    blocks.after(task, [&](const Block& next) { next.ask_for<T>(picture_of(call, call.x), call.c, ahead); });
    norm(block, block.of<T>(call.x, call.c, pixels), n);
    entry(
        block, n,
        [to = to](Vec<S> value, int64_t row, int64_t column, auto... part) {
          value.store(to.at(row, column), part...);
        },
        &ahead);
    S* map = pixels_of(block, static_cast<S*>(pass.entered), pixels, call.lanes);
    to_map<S>(block, {to.data, to.step}, call.gate, map, call.lanes);
  });
}

// The middle of the gate: what `coarse` and `entered` have of a block's pixels.
template <class T>
class Middle {
  using S = Wide<T>;
  static constexpr bool turned_in_place = std::is_same_v<typename Numbers<T>::Factor, S>;

 public:
  struct Buffers {
    Operand<T> entered, middle;
    Rows<S> turned;
    S *enlarged, *row;
    Buffers(Arena& arena, const Middle& all, int64_t block)
        : entered(arena, all.planes_, turned_in_place ? all.call_.lanes : all.call_.gate, block),
          middle(arena, all.planes_, all.call_.gate, block),
          turned(buffer<S>(arena, all.planes_, all.call_.lanes, block)),
          enlarged(arena.take<S>(round_up(block, product_rows) * all.call_.lanes)),
          row(arena.take<S>(all.enlarge_.scratch())) {}
  };

  Middle(const GatedPointwise& call, const void* entered, const void* coarse)
      : call_(call),
        planes_(!call.channels_last),
        entered_(static_cast<const S*>(entered)),
        coarse_(static_cast<const S*>(coarse)),
        enlarge_(call),
        skip_(layer_of<T>(call, skip_weight, skip_bias, call.gate, call.gate)) {}

  void ask_for(const Block& block, Ahead& ahead) const {
    const S* map = pixels_of(block, entered_, call_.h * call_.w, call_.lanes);
    ahead.add(map, 0, block.count * call_.lanes * int64_t(sizeof(S)), 1);
  }

  // Fills in `entered` and `middle`.
  void operator()(const Block& block, const Buffers& at) const {
    const int64_t pixels = call_.h * call_.w;
    const S* map = pixels_of(block, entered_, pixels, call_.lanes);
    bool turned = false;
    if constexpr (turned_in_place) {
      turned = planes_;
      if (turned) from_map<S>(block, map, call_.lanes, at.entered.numbers);
    }
    if (!turned) {
      const Rows<const S> entered = from_map<S>(block, map, call_.lanes, at.turned);
      block.every<S>(call_.gate, [=, to = at.entered.numbers](int64_t row, int64_t column, auto... part) {
        Vec<S>::load(entered.at(row, column), part...).store(to.at(row, column), part...);
      });
    }
    enlarge_(block, coarse_, at.enlarged, at.row);
    const Rows<const S> enlarged = from_map<S>(block, at.enlarged, call_.lanes, at.turned);
    skip_(block, at.entered, [=, to = at.middle.numbers](Vec<S> value, int64_t row, int64_t column, auto... part) {
      (value + Vec<S>::load(enlarged.at(row, column), part...)).store(to.at(row, column), part...);
    });
  }

 private:
  const GatedPointwise& call_;
  const bool planes_;
  const S *entered_, *coarse_;
  const Enlarge<S> enlarge_;
  const Layer<T> skip_;
};

// The paths a, b, c and the gate of a block, as products of n and of the gate's middle, and their bias.
template <class T>
struct Paths {
  using S = Wide<T>;
  using E = typename Numbers<T>::Element;
  using V = Vec<S>;
  const Layer<T> a, b, c, gate;

  // Of the E channels so many from one on.
  Paths(const GatedPointwise& call, int64_t first, int64_t count)
      : a(of(call, weight_a, bias_a, call.c, first, count)),
        b(of(call, weight_b, bias_b, call.c, first, count)),
        c(of(call, weight_c, bias_c, call.c, first, count)),
        gate(of(call, exit_weight, exit_bias, call.gate, first, count)) {}

  static Layer<T> of(const GatedPointwise& call, Parameter weight, Parameter bias, int64_t ins, int64_t first,
                     int64_t count) {
    return {!call.channels_last, static_cast<const T*>(call.parameters[weight]) + first * ins,
            static_cast<const T*>(call.parameters[bias]) + first, count, ins};
  }

  std::array<Product<E>, 4> products(const Block& block, const Operand<T>& n, const Operand<T>& middle) const {
    const Rows<const E> pixels = ready(block, n, a.filters.ins);
    return {a.filters.of(pixels), b.filters.of(pixels), c.filters.of(pixels),
            gate.filters.of(ready(block, middle, gate.filters.ins))};
  }

  struct Values {
    V a, b, c, gate;  // a behind relu6, the gate behind its sigmoid
    V star() const { return fma(c, gate, a * b); }
  };
  template <bool planes>
  struct RowOfBias {
    typename PerChannel<S>::template InRow<planes> a, b, c, gate;
    template <size_t count>
    Values operator()(const std::array<V, count>& sums, int64_t column) const {
      const V zero = V::fill(0), six = V::fill(6);
      return {min(six, max(zero, sums[0] + a.at(column))), sums[1] + b.at(column), sums[2] + c.at(column),
              sigmoid(sums[3] + gate.at(column))};
    }
  };
  struct Bias {
    typename PerChannel<S>::View a, b, c, gate;
    template <bool planes>
    RowOfBias<planes> in_row(int64_t row) const {
      return {a.template in_row<planes>(row), b.template in_row<planes>(row), c.template in_row<planes>(row),
              gate.template in_row<planes>(row)};
    }
  };
  Bias bias() const {
    return {a.bias.from_channel(0), b.bias.from_channel(0), c.bias.from_channel(0), gate.bias.from_channel(0)};
  }
};

// The star of a block, what is normed for it, and how it leaves.
template <class T>
class PlainStar {
  using V = Vec<Wide<T>>;

 public:
  const ChannelNorm<T> norm;
  const Layer<T> out;

  explicit PlainStar(const GatedPointwise& call)
      : norm(norm_of<T>(call)),
        out(layer_of<T>(call, out_weight, out_bias, call.c, call.expanded)),
        paths_(call, 0, call.expanded) {}

  void operator()(const Block& block, const Operand<T>& n, const Operand<T>& middle, const Operand<T>& to,
                  Ahead& ahead) const {
    block.planes ? run<true>(block, n, middle, to, ahead) : run<false>(block, n, middle, to, ahead);
  }

 private:
  template <bool planes>
  void run(const Block& block, const Operand<T>& n, const Operand<T>& middle, const Operand<T>& to,
           Ahead& ahead) const {
    const int64_t channels = out.filters.ins;
    multiply_together(
        paths_.products(block, n, middle), block.rows(channels), block.columns(channels),
        [bias = paths_.bias(), to = to.numbers](int64_t row) {
          return [=, bias = bias.template in_row<planes>(row)](const std::array<V, 4>& sums, int64_t column,
                                                               auto... part) {
            bias(sums, column).star().store(to.at(row, column), part...);
          };
        },
        &ahead);
  }

  const Paths<T> paths_;
};

template <class T, class Star = PlainStar<T>>  // Star is given what comes after the pass
class Exit {
  using V = Vec<Wide<T>>;

 public:
  template <class... Given>
  explicit Exit(const GatedPointwiseExit& pass, const Given&... given)
      : call_(pass.call),
        planes_(!call_.channels_last),
        result_(pass.out),
        middle_(call_, pass.entered, pass.coarse),
        star_(call_, given...) {}

  void run() const {
    const Blocks blocks(planes_, call_.n, call_.h * call_.w, call_.c + call_.expanded + 4 * call_.gate);
    const int64_t bytes = Buffers(*this, blocks.block, nullptr).bytes;
    run_tasks(blocks.count(), [&](int64_t task) {
      Ahead ahead;
      blocks.after(task, [&](const Block& next) {
        middle_.ask_for(next, ahead);
        next.ask_for<T>(picture_of(call_, call_.x), call_.c, ahead);
      });
      block(blocks.at(task), Buffers(*this, blocks.block, scratch<char>(bytes)), ahead);
    });
  }

 private:
  struct Buffers {
    Arena arena;
    Operand<T> n, star;
    typename Middle<T>::Buffers gate;
    int64_t bytes;

    Buffers(const Exit& all, int64_t block, char* from)
        : arena(from),
          n(arena, all.planes_, all.call_.c, block),
          star(arena, all.planes_, all.call_.expanded, block),
          gate(arena, all.middle_, block),
          bytes(arena.used(from)) {}
  };

  void block(const Block& block, const Buffers& at, Ahead& ahead) const {
    const int64_t pixels = call_.h * call_.w;
    star_.norm(block, block.of<T>(call_.x, call_.c, pixels), at.n);
    middle_(block, at.gate);
    star_(block, at.n, at.gate.middle, at.star, ahead);
    const bool past = past_cache<T>(call_.n * pixels * call_.c, planes_ ? pixels : call_.c);
    star_.out(block, at.star,
              [past, to = block.of<T>(result_, call_.c, pixels)](V value, int64_t row, int64_t column, auto... part) {
                put(value, to.at(row, column), past, part...);
              });
  }

  const GatedPointwise& call_;
  const bool planes_;
  void* const result_;
  const Middle<T> middle_;
  const Star star_;
};

}  // namespace lightsr::gated
