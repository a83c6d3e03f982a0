// The inner pass of gated_pointwise's gradients: from grad, that of out, to n and to the middle m of the gate.
//
// Of a block of pixels what the forward made is made again, and with it, in one tile of products (cpu_layer.h):
//
//   g   = out_weight^T grad                    g_a = g b where 0 < a < 6         g_b = g relu6(a)
//   g_c = g s                                  g_s = g c s (1 - s), with s = sigmoid(exit_weight m + exit_bias)
//
// Then grad_normal = weight_a^T g_a + weight_b^T g_b + weight_c^T g_c, grad_middle = exit_weight^T g_s, grad_entered =
// skip_weight^T grad_middle; and of the filters' gradients, sums over pixels: g_a, g_b and g_c with n, g_s with m, the
// star with grad, grad_middle with `entered`.
//
// The E channels are taken some at a time, so that blocks are large: the sums go through registers once a block.
#pragma once

#include <memory>
#include <vector>

#include "cpu_forward.h"
#include "cpu_sums.h"

namespace lightsr::gated {

template <class T>
class Inner {
  using S = Wide<T>;
  using F = typename Numbers<T>::Factor;
  using V = Vec<S>;
  static constexpr int64_t most_channels = 80;  // of E at a time
  static constexpr int64_t blocks_in_task = 6;  // whose sums are added before they go to float64

  // Some of the E channels.
  struct Part {
    int64_t first, count;
    Paths<T> paths;
    Filters<T> out_back, exit_back, paths_back;

    Part(const GatedPointwise& call, int64_t first, int64_t count)
        : first(first),
          count(count),
          paths(call, first, count),
          out_back(!call.channels_last, count, call.c, at(call, out_weight, first), 1, call.expanded),
          exit_back(!call.channels_last, call.gate, count, at(call, exit_weight, first * call.gate), 1, call.gate),
          paths_back(!call.channels_last, call.c, 3 * count) {
      const Parameter weights[] = {weight_a, weight_b, weight_c};
      for (int i = 0; i < 3; ++i)
        paths_back.put(at(call, weights[i], first * call.c), call.c, i * count, count, 1, call.c);
    }
    static const T* at(const GatedPointwise& call, Parameter which, int64_t first) {
      return static_cast<const T*>(call.parameters[which]) + first;
    }
  };

 public:
  explicit Inner(const GatedPointwiseInner& pass)
      : pass_(pass),
        call_(pass.call),
        planes_(!call_.channels_last),
        norm_(norm_of<T>(call_)),
        middle_(call_, pass.entered, pass.coarse),
        skip_back_(planes_, call_.gate, call_.gate, call_.parameters[skip_weight], 1, call_.gate) {
    const int64_t e = call_.expanded, parts = (e + most_channels - 1) / most_channels;
    wide_ = round_up((e + parts - 1) / parts, product_rows);
    for (int64_t first = 0; first < e; first += wide_)
      parts_.push_back(std::make_unique<Part>(call_, first, std::min(wide_, e - first)));
    for (int64_t i = 0, place = 0; i < parameters; place += call_.numbers[i++]) place_[i] = place;
  }

  void run() const {
    const Blocks blocks(planes_, call_.n, call_.h * call_.w,
                        (3 * call_.c + 5 * wide_ + 6 * call_.gate) / 2);  // they may take more than half of the cache
    Blocks large = blocks;
    large.block = std::min(blocks_in_task * blocks.block, round_up(blocks.pixels, blocks.block));
    large.each = (large.pixels + large.block - 1) / large.block;
    const int64_t bytes = Buffers(*this, blocks.block, nullptr).bytes;
    const int64_t count = pass_.sums ? place_[parameters - 1] + call_.numbers[parameters - 1] : 0;
    run_with_sums(large, false, count, pass_.sums, [&](const Block& block, double* to) {
      const Buffers at(*this, blocks.block, scratch<char>(bytes));
      if (pass_.sums) at.clear();
      for (int64_t done = 0; done < block.count; done += blocks.block) {
        const Block some{planes_, block.picture, block.pixel + done, std::min(blocks.block, block.count - done)};
        Ahead ahead;
        blocks.following(some, [&](const Block& next) {
          for (const void* each : {call_.x, pass_.grad}) next.ask_for<T>(picture_of(call_, each), call_.c, ahead);
        });
        this->block(some, at, ahead);
      }
      if (pass_.sums) hand_over(at, to);
    });
  }

 private:
  struct Buffers {
    // The sums that one part of the channels has.
    struct PartSums {
      Sums<T> a, b, c, star, gate;
      ChannelSums<S> of_a, of_b, of_c, of_gate;
      PartSums(Arena& arena, const Inner& all, int64_t count)
          : a(arena, all.planes_, count, all.call_.c),
            b(arena, all.planes_, count, all.call_.c),
            c(arena, all.planes_, count, all.call_.c),
            star(arena, all.planes_, count, all.call_.c),
            gate(arena, all.planes_, count, all.call_.gate),
            of_a(arena, all.planes_, count),
            of_b(arena, all.planes_, count),
            of_c(arena, all.planes_, count),
            of_gate(arena, all.planes_, count) {}
    };

    const Inner& all;
    Arena arena;
    Operand<T> n, grad, star, paths, gate, grad_middle;
    typename Middle<T>::Buffers middle;
    Rows<S> wide;  // of P channels, as they come
    Turned<T> turned_n, turned_grad, turned_middle, turned_entered;
    ChannelSums<S> of_grad, of_middle;
    Sums<T> skip;
    char* parts;
    int64_t part_bytes, bytes;

    Buffers(const Inner& all, int64_t block, char* from)
        : all(all),
          arena(from),
          n(arena, all.planes_, all.call_.c, block),
          grad(arena, all.planes_, all.call_.c, block),
          star(arena, all.planes_, all.wide_, block),
          paths(arena, all.planes_, 3 * all.wide_, block),
          gate(arena, all.planes_, all.wide_, block),
          grad_middle(arena, all.planes_, all.call_.gate, block),
          middle(arena, all.middle_, block),
          wide(buffer<S>(arena, all.planes_, all.call_.lanes, block)),
          turned_n(arena, all.planes_, all.call_.c, block),
          turned_grad(arena, all.planes_, all.call_.c, block),
          turned_middle(arena, all.planes_, all.call_.gate, block),
          turned_entered(arena, all.planes_, all.call_.gate, block),
          of_grad(arena, all.planes_, all.call_.c),
          of_middle(arena, all.planes_, all.call_.gate),
          skip(arena, all.planes_, all.call_.gate, all.call_.gate) {
      parts = arena.take<char>(0);
      Arena part(nullptr);
      PartSums(part, all, all.wide_);
      part_bytes = part.used(nullptr);
      arena.take<char>(part_bytes * static_cast<int64_t>(all.parts_.size()));
      bytes = arena.used(from);
    }
    PartSums of(int64_t index) const {
      Arena arena(parts + index * part_bytes);
      return {arena, all, all.parts_[index]->count};
    }
    void clear() const {
      std::fill(parts, parts + part_bytes * static_cast<int64_t>(all.parts_.size()), char(0));
      of_grad.clear(all.call_.c);
      of_middle.clear(all.call_.gate);
      skip.clear();
    }
  };

  void block(const Block& block, const Buffers& at, Ahead& ahead) const {
    const int64_t c = call_.c, p = call_.gate, pixels = call_.h * call_.w;
    const bool summed = pass_.sums != nullptr;
    norm_(block, block.of<T>(call_.x, c, pixels), at.n);
    middle_(block, at.middle);
    block.every<S>(c, [from = block.of<T>(pass_.grad, c, pixels), to = at.grad.numbers, sums = at.of_grad](
                          int64_t row, int64_t column, auto... part) {
      const V value = V::load(from.at(row, column), part...);
      value.store(to.at(row, column), part...);
      sums.add(value, row, column, part...);
    });
    if (summed) {
      at.turned_n.fill(block, at.n);
      at.turned_grad.fill(block, at.grad);
      at.turned_middle.fill(block, at.middle.middle);
      at.turned_entered.fill(block, at.middle.entered);
    }
    for (size_t i = 0; i < parts_.size(); ++i) part(block, at, int64_t(i), ahead);

    block.every<S>(p, [from = at.wide, to = at.grad_middle.numbers, sums = at.of_middle](int64_t row, int64_t column,
                                                                                         auto... part) {
      const V value = V::load(from.at(row, column), part...);
      value.store(to.at(row, column), part...);
      sums.add(value, row, column, part...);
    });
    hand_out(block, at.wide, pass_.grad_middle);
    skip_back_(block, at.grad_middle, [wide = at.wide](V value, int64_t row, int64_t column, auto... part) {
      value.store(wide.at(row, column), part...);
    });
    hand_out(block, at.wide, pass_.grad_entered);
    if (summed) at.turned_entered.add(block, at.grad_middle, at.middle.entered, at.skip);
  }

  // What some of the E channels add to the gradients.
  void part(const Block& block, const Buffers& at, int64_t index, Ahead& ahead) const {
    const int64_t c = call_.c, count = parts_[index]->count;
    const bool more = index > 0;
    const auto sums = at.of(index);
    expand(block, at, *parts_[index], sums, ahead);
    const auto put = [more](const Rows<S>& to) {
      return [to, more](V value, int64_t row, int64_t column, auto... part) {
        if (more) value = value + V::load(to.at(row, column), part...);
        value.store(to.at(row, column), part...);
      };
    };
    parts_[index]->paths_back(block, at.paths, put(block.of<S>(pass_.grad_normal, c, call_.h * call_.w)));
    parts_[index]->exit_back(block, at.gate, put(at.wide));
    if (!pass_.sums) return;
    const Sums<T>* found[] = {&sums.a, &sums.b, &sums.c};
    for (int i = 0; i < 3; ++i) {
      Operand<T> path = at.paths;
      path.numbers = block.from_channel(path.numbers, i * count);
      at.turned_n.add(block, path, at.n, *found[i]);
    }
    at.turned_grad.add(block, at.star, at.grad, sums.star);
    at.turned_middle.add(block, at.gate, at.middle.middle, sums.gate);
  }

  // The star and the gradients before it.
  void expand(const Block& block, const Buffers& at, const Part& all, const typename Buffers::PartSums& sums,
              Ahead& ahead) const {
    block.planes ? expand_as<true>(block, at, all, sums, ahead) : expand_as<false>(block, at, all, sums, ahead);
  }

  template <bool planes>
  void expand_as(const Block& block, const Buffers& at, const Part& all, const typename Buffers::PartSums& sums,
                 Ahead& ahead) const {
    const auto forward = all.paths.products(block, at.n, at.middle.middle);
    const std::array products{forward[0], forward[1], forward[2], forward[3],
                              all.out_back.of(ready(block, at.grad, call_.c))};
    const Rows<F> star = at.star.numbers, gate = at.gate.numbers, to_a = at.paths.numbers,
                  to_b = block.from_channel(to_a, all.count), to_c = block.from_channel(to_a, 2 * all.count);
    multiply_together(
        products, block.rows(all.count), block.columns(all.count),
        [=, bias = all.paths.bias(), of_a = sums.of_a, of_b = sums.of_b, of_c = sums.of_c,
         of_gate = sums.of_gate](int64_t row) {
          return [=, bias = bias.template in_row<planes>(row)](const std::array<V, 5>& found, int64_t column,
                                                               auto... part) {
            const V zero = V::fill(0), six = V::fill(6), g = found[4];
            const auto [a, b, c, s] = bias(found, column);
            fma(c, s, a * b).store(star.at(row, column), part...);
            const V limited = select<S>((a.v <= zero.v) | (a.v >= six.v), zero, g * b), other = g * a;
            limited.store(to_a.at(row, column), part...);
            other.store(to_b.at(row, column), part...);
            const V gated = g * s, inner = gated * c * (V::fill(1) - s);
            gated.store(to_c.at(row, column), part...);
            inner.store(gate.at(row, column), part...);
            of_a.add(limited, row, column, part...);
            of_b.add(other, row, column, part...);
            of_c.add(gated, row, column, part...);
            of_gate.add(inner, row, column, part...);
          };
        },
        &ahead);
  }

  void hand_out(const Block& block, const Rows<S>& from, void* map) const {
    S* to = pixels_of(block, static_cast<S*>(map), call_.h * call_.w, call_.lanes);
    to_map<S>(block, {from.data, from.step}, call_.gate, to, call_.lanes);
  }

  // The sums, to their places among all parameters' gradients.
  void hand_over(const Buffers& at, double* to) const {
    const int64_t c = call_.c, e = call_.expanded, p = call_.gate;
    for (size_t i = 0; i < parts_.size(); ++i) {
      const auto sums = at.of(int64_t(i));
      const int64_t first = parts_[i]->first, count = parts_[i]->count;
      sums.a.add_to(to + place_[weight_a] + first * c, c, 1);
      sums.b.add_to(to + place_[weight_b] + first * c, c, 1);
      sums.c.add_to(to + place_[weight_c] + first * c, c, 1);
      sums.star.add_to(to + place_[out_weight] + first, 1, e);
      sums.gate.add_to(to + place_[exit_weight] + first * p, p, 1);
      sums.of_a.add_to(to + place_[bias_a] + first, count);
      sums.of_b.add_to(to + place_[bias_b] + first, count);
      sums.of_c.add_to(to + place_[bias_c] + first, count);
      sums.of_gate.add_to(to + place_[exit_bias] + first, count);
    }
    at.skip.add_to(to + place_[skip_weight], p, 1);
    at.of_grad.add_to(to + place_[out_bias], c);
    at.of_middle.add_to(to + place_[skip_bias], p);
  }

  const GatedPointwiseInner& pass_;
  const GatedPointwise& call_;
  const bool planes_;
  const ChannelNorm<T> norm_;
  const Middle<T> middle_;
  const Filters<T> skip_back_;
  int64_t wide_, place_[parameters];
  std::vector<std::unique_ptr<Part>> parts_;
};

}  // namespace lightsr::gated
