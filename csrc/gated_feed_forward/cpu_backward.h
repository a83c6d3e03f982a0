// gated_feed_forward backward on the CPU: tiles of a picture, row by row, as forward goes.
//
// With h = in_weight n, a and b the depthwise convolutions of its halves, and g the gradient of the result:
//
//   s = out_weight^T g     (ga, gb) = (s b gelu'(a), s gelu(a))     gh = depthwise^T (ga, gb)
//   gn = in_weight^T gh    grad_x = g + the norm's gradient of gn (window_attention/cpu_token_gradients.h)
//
// and the filters' gradients are sums over pixels: of g (gelu(a) b)^T, of gh n^T, and for each tap of (ga, gb) times
// the h that it met. Each time round a row of h, of (ga, gb) and of gn is computed, of neighbours in the step before:
// rings of three rows, [pixel][channel] whatever the picture's layout, in the L2 cache. What two tiles need at their
// edges both compute; sums take the tile's own pixels, some rows at a time. Bound: 8 C M + 54 M multiply-adds a pixel,
// beside x, g and grad_x.
#pragma once

#include <vector>

#include "../common/block_tasks.h"
#include "../window_attention/cpu_token_gradients.h"
#include "arguments.h"
#include "cpu_cut.h"
#include "cpu_gate_gradient.h"
#include "cpu_sums.h"

namespace lightsr::feed_forward {

template <class T>
class Backward {
  using S = Wide<T>;
  using F = typename Numbers<T>::Factor;
  static constexpr int64_t highest = 48, lowest = 16, fewest_tiles = 8;  // of tiles

 public:
  explicit Backward(const GatedFeedForwardBackward& back)
      : back_(back),
        call_(back.call),
        planes_(!call_.channels_last),
        tokens_(planes_, call_.c, call_.h * call_.w, call_.eps, call_.norm_weight, call_.norm_bias),
        gradients_(planes_, call_.c, call_.h * call_.w, call_.norm_weight),
        in_(weight(call_.in_weight), 2 * call_.hidden, call_.c, call_.hidden),
        half_(in_.step() / 2),
        step_(in_.step()),
        out_back_(turned(call_.out_weight, call_.c, call_.hidden, call_.hidden, 0).data(), call_.hidden, call_.c,
                  call_.hidden),
        in_back_(turned(call_.in_weight, 2 * call_.hidden, call_.c, call_.hidden, half_ - call_.hidden).data(), call_.c,
                 ins(), call_.c),
        filters_(taps * step_),
        columns_(columns_of<T>(call_.w, planes_)),
        rows_(call_.h, std::clamp(call_.n * call_.h * columns_.parts / fewest_tiles, lowest, highest)),
        batch_(std::clamp<int64_t>(192 / columns_.longest(), 1, rows_.longest())) {
    std::fill_n(filters_.data(), taps * step_, S(0));
    each_filter([&](int64_t number, int64_t place) {
      filters_.data()[place] = wide_number<S>(weight(call_.depthwise_weight)[number]);
    });
  }

  void run() const {
    const int64_t bytes = Buffers(*this, nullptr).bytes, tiles = rows_.parts * columns_.parts;
    const int64_t c = call_.c, hidden = call_.hidden;
    const Sums at(back_.grad_in_weight ? ins() * c : 0, back_.grad_depthwise_weight ? taps * step_ : 0,
                  back_.grad_out_weight ? c * hidden : 0, back_.grad_norm_weight ? c : 0, back_.grad_norm_bias ? c : 0);
    const Aligned<double> sums(at.count);
    // A block of one pixel each stands for a tile.
    run_with_sums(
        Blocks(false, call_.n * tiles, 1, 1), false, at.count, sums.data(), [&](const Block& block, double* to) {
          const int64_t task = block.picture, row = task % tiles / columns_.parts, column = task % columns_.parts;
          tile({task / tiles, rows_.begin(row), rows_.begin(row + 1), columns_.begin(column),
                columns_.begin(column + 1)},
               Buffers(*this, scratch<char>(bytes)), at, to);
        });
    const auto put = [&](void* to, int64_t place, const double* from) {
      if (to) Vec<S>::fill(static_cast<S>(*from)).store(static_cast<T*>(to) + place, 1);
    };
    for (int64_t i = 0; back_.grad_in_weight && i < 2 * hidden * c; ++i) {
      const int64_t out = i / c, row = out < hidden ? out : half_ + out - hidden;
      put(back_.grad_in_weight, i, sums.data() + at.in + row * c + i % c);
    }
    if (back_.grad_depthwise_weight) {
      each_filter([&](int64_t number, int64_t place) {
        put(back_.grad_depthwise_weight, number, sums.data() + at.depthwise + place);
      });
    }
    for (int64_t i = 0; i < c * hidden; ++i) put(back_.grad_out_weight, i, sums.data() + at.out + i);
    for (int64_t i = 0; i < c; ++i) put(back_.grad_norm_weight, i, sums.data() + at.norm_weight + i);
    for (int64_t i = 0; i < c; ++i) put(back_.grad_norm_bias, i, sums.data() + at.norm_bias + i);
  }

 private:
  struct Tile {
    int64_t picture, top, bottom, left, right;
    int64_t width() const { return right - left; }
  };

  struct Buffers {
    Arena arena;
    S* work;
    F *normed, *grads;     // pixels of a row
    S *hidden, *products;  // three rows of h, three of (ga, gb)
    S *star, *before;      // s and gn of a row
    S* moments;            // three rows
    Operand<T> n, gh, g, gated;
    S* taps_sums;
    ChannelSums<S> of_weight, of_bias;
    int64_t bytes;

    Buffers(const Backward& all, char* from)
        : arena(from),
          work(arena.take<S>(std::max(all.tokens_.work(), all.gradients_.work()))),
          normed(arena.take<F>(all.pixels() * all.tokens_.padded())),
          grads(arena.take<F>(all.pixels() * all.tokens_.padded())),
          hidden(arena.take<S>(3 * all.pixels() * all.step_)),
          products(arena.take<S>(3 * all.pixels() * all.step_)),
          star(arena.take<S>(all.pixels() * all.half_)),
          before(arena.take<S>(all.pixels() * all.tokens_.padded())),
          moments(arena.take<S>(3 * 2 * all.pixels())),
          n(all.operand(arena, all.tokens_.padded(), all.batch_ + 2)),
          gh(all.operand(arena, all.step_, all.batch_)),
          g(all.operand(arena, all.tokens_.padded(), all.batch_)),
          gated(all.operand(arena, all.half_, all.batch_)),
          taps_sums(arena.take<S>(taps * all.step_)),
          of_weight(arena, all.planes_, all.back_.grad_norm_weight ? all.call_.c : 0),
          of_bias(arena, all.planes_, all.back_.grad_norm_bias ? all.call_.c : 0),
          bytes(arena.used(from)) {}
  };

  int64_t pixels() const { return round_up(columns_.longest() + 4, product_rows); }
  int64_t ins() const { return half_ + call_.hidden; }  // channels of h, with the padding between its halves
  Operand<T> operand(Arena& arena, int64_t channels, int64_t rows) const {
    return Operand<T>(arena, false, channels - 1, rows * columns_.longest() + product_rows);
  }
  static const T* weight(const void* data) { return static_cast<const T*>(data); }

  // A matrix [outs, ins] turned over; `gap` columns of zeros follow each group of columns but the last.
  static std::vector<T> turned(const void* from, int64_t outs, int64_t ins, int64_t group, int64_t gap) {
    const int64_t wide = outs + (outs / group - 1) * gap;
    std::vector<T> to(ins * wide, T{});
    for (int64_t out = 0; out < outs; ++out) {
      for (int64_t in = 0; in < ins; ++in) to[in * wide + out + out / group * gap] = weight(from)[out * ins + in];
    }
    return to;
  }

  // Calls each(number, place) for each number of depthwise_weight: where it stands there and in rows of taps.
  template <class Each>
  void each_filter(const Each& each) const {
    for (int64_t m = 0; m < 2 * call_.hidden; ++m) {
      const int64_t column = m < call_.hidden ? m : half_ + m - call_.hidden;
      for (int64_t t = 0; t < taps; ++t) each(m * taps + t, t * step_ + column);
    }
  }

  void tile(const Tile& tile, const Buffers& at, const Sums& sums, double* to) const {
    const int64_t length = pixels() * step_;
    const auto hidden_row = [&](int64_t row) { return at.hidden + (row + 3) % 3 * length; };
    const auto product_row = [&](int64_t row) { return at.products + (row + 3) % 3 * length; };
    const int64_t width = tile.width(), most = batch_;
    const auto batch = [&](int64_t count) { return Block{false, 0, 0, count * width}; };
    clear(at);
    int64_t normed = 0, gated = 0, done = 0;  // rows in the buffers that sums are taken of
    for (int64_t row = tile.top - 2; row < tile.bottom + 2; ++row) {
      const bool own = row >= tile.top && row < tile.bottom;
      hidden(tile, row, at, hidden_row(row), own ? at.n.numbers.at(normed * width, 0) : nullptr, at.n.numbers.step);
      normed += own;
      if (row < tile.top) continue;
      const bool whole = row > tile.top && row <= tile.bottom;  // the row before is the tile's
      products(tile, row - 1, at, {hidden_row(row - 2), hidden_row(row - 1), hidden_row(row)}, product_row(row - 1),
               whole ? gated * width : -1);
      gated += whole;
      if (gated == most || (whole && row == tile.bottom)) {
        if (back_.grad_out_weight) {
          add_products(batch(gated), at.g, call_.c, at.gated, call_.hidden, to + sums.out);
        }
        gated = 0;
      }
      if (row < tile.top + 2) continue;
      const Rows<F> gh{at.gh.numbers.at(done * width, 0), at.gh.numbers.step};
      const int64_t above = row - 2;
      before_depthwise<S, F>({product_row(above - 1), product_row(above), product_row(above + 1)},
                             hidden_row(above) + 2 * step_, step_, filters_.data(), width, gh, at.taps_sums);
      result(tile, above, at, gh);
      if (++done < most && above + 1 < tile.bottom) continue;
      if (back_.grad_in_weight) add_products(batch(done), at.gh, ins(), at.n, call_.c, to + sums.in);
      // Up to two rows of n are of the next batch.
      normed -= done;
      std::memmove(at.n.numbers.data, at.n.numbers.at(done * width, 0), normed * width * at.n.numbers.step * sizeof(F));
      done = 0;
      for (int64_t i = 0; back_.grad_depthwise_weight && i < taps * step_; ++i) {
        to[sums.depthwise + i] += at.taps_sums[i];
      }
      at.of_weight.add_to(to + sums.norm_weight, call_.c);
      at.of_bias.add_to(to + sums.norm_bias, call_.c);
      clear(at);
    }
  }

  void clear(const Buffers& at) const {
    std::fill_n(at.taps_sums, taps * step_, S(0));
    at.of_weight.clear(call_.c);
    at.of_bias.clear(call_.c);
  }

  S* moments(const Buffers& at, int64_t row) const { return at.moments + (row + 3) % 3 * 2 * pixels(); }
  int64_t first(const Tile& tile, int64_t row, int64_t column) const {
    return tile.picture * tokens_.picture() + tokens_.first(row * call_.w + column);
  }

  // A row of h, from two columns before the tile to two behind it; its own normalised pixels also to n.
  void hidden(const Tile& tile, int64_t row, const Buffers& at, S* to, F* n, int64_t n_step) const {
    const int64_t columns = tile.width() + 4, step = step_, padded = tokens_.padded();
    if (row < 0 || row >= call_.h) {
      std::fill_n(to, columns * step, S(0));
      return;
    }
    const int64_t begin = std::max<int64_t>(tile.left - 2, 0), end = std::min(tile.right + 2, call_.w);
    const int64_t before = begin - (tile.left - 2), after = tile.right + 2 - end;
    tokens_.normed(
        weight(call_.x) + first(tile, row, begin), end - begin, at.work,
        [=, to = at.normed](int64_t p) { return to + p * padded; }, moments(at, row) + before, pixels());
    std::fill_n(to, before * step, S(0));
    std::fill_n(to + (columns - after) * step, after * step, S(0));
    Ahead ahead;
    if (row + 1 < std::min(tile.bottom + 2, call_.h)) {
      tokens_.ask_for(weight(call_.x) + first(tile, row + 1, begin), end - begin, ahead);
    }
    if (row < std::min(tile.bottom + 1, call_.h)) {
      tokens_.ask_for(weight(back_.grad) + first(tile, row, begin), end - begin, ahead);
    }
    in_.multiply_to({at.normed, padded}, end - begin, step, Rows<S>{to + before * step, step}, &ahead);
    for (int64_t p = 0; n && p < tile.width(); ++p) {
      std::copy_n(at.normed + (tile.left - begin + p) * padded, padded, n + p * n_step);
    }
  }

  // A row of (ga, gb), from the column before the tile to the one behind it. Pixels of the tile's own rows, from `own`
  // on, also of gelu(a) b and g.
  void products(const Tile& tile, int64_t row, const Buffers& at, const S* const (&rows)[3], S* to, int64_t own) const {
    const int64_t columns = tile.width() + 2, step = step_, half = half_, padded = tokens_.padded();
    if (row < 0 || row >= call_.h) {
      std::fill_n(to, columns * step, S(0));
      return;
    }
    const int64_t begin = std::max<int64_t>(tile.left - 1, 0), end = std::min(tile.right + 1, call_.w);
    const int64_t before = begin - (tile.left - 1), after = tile.right + 1 - end;
    gradients_.rows(weight(back_.grad) + first(tile, row, begin), end - begin,
                    [=, to = at.grads](int64_t p) { return to + p * padded; });
    out_back_.multiply_to({at.grads, padded}, end - begin, half, Rows<S>{at.star, half});
    std::fill_n(to, before * step, S(0));
    std::fill_n(to + (columns - after) * step, after * step, S(0));
    // Pixels from one column of the tile's row on; a row of h begins a column before.
    const auto gradient = [&](int64_t from, int64_t count, Rows<F> gated) {
      const int64_t skip = (from - (tile.left - 1)) * step;
      gate_gradient<S, F>({rows[0] + skip, rows[1] + skip, rows[2] + skip}, step, half, filters_.data(),
                          at.star + (from - begin) * half, count, to + skip, gated);
    };
    if (own < 0) return gradient(begin, end - begin, {nullptr, 0});
    if (begin < tile.left) gradient(begin, 1, {nullptr, 0});
    gradient(tile.left, tile.width(), {at.gated.numbers.at(own, 0), at.gated.numbers.step});
    if (end > tile.right) gradient(tile.right, 1, {nullptr, 0});
    for (int64_t p = 0; p < tile.width(); ++p) {
      std::copy_n(at.grads + (tile.left - begin + p) * padded, padded, at.g.numbers.at(own + p, 0));
    }
  }

  // A row of grad_x.
  void result(const Tile& tile, int64_t row, const Buffers& at, Rows<F> gh) const {
    if (!back_.grad_x && !at.of_weight.data && !at.of_bias.data) return;
    const int64_t padded = tokens_.padded(), place = first(tile, row, tile.left);
    T* grad_x = back_.grad_x ? static_cast<T*>(back_.grad_x) + place : nullptr;
    Ahead ahead;
    if (grad_x) tokens_.ask_for(grad_x, tile.width(), ahead);
    in_back_.multiply_to({gh.data, gh.step}, tile.width(), padded, Rows<S>{at.before, padded}, &ahead);
    gradients_.before(
        weight(call_.x) + place, weight(back_.grad) + place, grad_x, tile.width(), moments(at, row) + 2, pixels(),
        at.work, [=, from = at.before](int64_t p) { return from + p * padded; }, at.of_weight, at.of_bias);
  }

  const GatedFeedForwardBackward& back_;
  const GatedFeedForward& call_;
  bool planes_;
  Tokens<T> tokens_;
  TokenGradients<T> gradients_;
  Columns<T> in_;
  int64_t half_, step_;  // numbers of a hidden pixel, padding and all: of one branch and of both
  Columns<T> out_back_, in_back_;
  Aligned<S> filters_;  // [tap][channel]
  Cut columns_, rows_;
  int64_t batch_;  // rows that sums are taken of at a time
};

}  // namespace lightsr::feed_forward
