// gated_feed_forward on the CPU: tiles of a picture, row by row; hidden numbers exist for three rows of a tile.
//
// Bound: 3 C M + 18 M multiply-adds a pixel, beside x and out, 2 C numbers: at C = M = 48 in float32 7776
// multiply-adds, 384 bytes, and 48 gelus of some 30 instructions a vector. A tile's rows of hidden numbers,
// [pixel][channel] whatever the layout of the picture, are a ring in the L2 cache; two rows and two columns at its edge
// are computed by its neighbour too, which is what the tile's size is for.
#include "../common/by_type.h"
#include "../common/parallel.h"
#include "../window_attention/cpu_tokens.h"
#include "arguments.h"
#include "cpu_cut.h"
#include "cpu_gate.h"

namespace lightsr {
namespace {

using feed_forward::Cut;

template <class T>
class Forward {
  using S = Wide<T>;
  using F = typename Numbers<T>::Factor;
  static constexpr int64_t highest = 48;  // of a tile

 public:
  explicit Forward(const GatedFeedForward& call)
      : call_(call),
        planes_(!call.channels_last),
        tokens_(planes_, call.c, call.h * call.w, call.eps, call.norm_weight, call.norm_bias),
        in_(static_cast<const T*>(call.in_weight), 2 * call.hidden, call.c, call.hidden),
        out_(static_cast<const T*>(call.out_weight), call.c, call.hidden, call.c),
        step_(in_.step()),
        filters_(feed_forward::taps * step_),
        rows_(call.h, highest),
        columns_(feed_forward::columns_of<T>(call.w, planes_)) {
    const T* from = static_cast<const T*>(call.depthwise_weight);
    std::fill_n(filters_.data(), feed_forward::taps * step_, S(0));
    for (int64_t m = 0; m < 2 * call.hidden; ++m) {
      const int64_t column = m < call.hidden ? m : step_ / 2 + m - call.hidden;
      for (int64_t t = 0; t < feed_forward::taps; ++t) {
        filters_.data()[t * step_ + column] = wide_number<S>(from[m * feed_forward::taps + t]);
      }
    }
  }

  void run() const {
    const int64_t bytes = Buffers(*this, nullptr).bytes, tiles = rows_.parts * columns_.parts;
    run_tasks(call_.n * tiles, [&](int64_t task) {
      const int64_t row = task % tiles / columns_.parts, column = task % columns_.parts;
      tile({task / tiles, rows_.begin(row), rows_.begin(row + 1), columns_.begin(column), columns_.begin(column + 1)},
           Buffers(*this, scratch<char>(bytes)));
    });
  }

 private:
  struct Tile {
    int64_t picture, top, bottom, left, right;
  };

  struct Buffers {
    Arena arena;
    S* work;
    F* normed;  // pixels of a row, and what products read beyond
    S* hidden;  // three rows
    F* gated;
    S* sums;
    int64_t bytes;

    Buffers(const Forward& all, char* from)
        : arena(from),
          work(arena.take<S>(all.tokens_.work())),
          normed(arena.take<F>(all.pixels() * all.tokens_.padded())),
          hidden(arena.take<S>(3 * all.pixels() * all.step_)),
          gated(arena.take<F>(all.pixels() * all.step_ / 2)),
          sums(arena.take<S>(all.planes_ ? all.pixels() * all.tokens_.padded() : 0)),
          bytes(arena.used(from)) {}
  };
  int64_t pixels() const { return round_up(columns_.longest() + 2, product_rows); }

  void tile(const Tile& tile, const Buffers& at) const {
    const auto ring = [&](int64_t row) { return at.hidden + (row + 3) % 3 * pixels() * step_; };
    for (int64_t row = tile.top - 1; row <= tile.bottom; ++row) {
      hidden(tile, row, at, ring(row));
      if (row <= tile.top) continue;
      const S* const rows[3] = {ring(row - 2), ring(row - 1), ring(row)};
      const Rows<F> gated{at.gated, step_ / 2};
      feed_forward::gate(rows, step_, step_ / 2, filters_.data(), tile.right - tile.left, gated);
      result(tile, row - 1, at);
    }
  }

  // A row of hidden numbers, from one column before the tile to one behind it.
  void hidden(const Tile& tile, int64_t row, const Buffers& at, S* to) const {
    const int64_t columns = tile.right - tile.left + 2, step = step_, padded = tokens_.padded();
    if (row < 0 || row >= call_.h) {
      std::fill_n(to, columns * step, S(0));
      return;
    }
    const int64_t begin = std::max<int64_t>(tile.left - 1, 0), end = std::min(tile.right + 1, call_.w);
    const T* x = static_cast<const T*>(call_.x) + tile.picture * tokens_.picture();
    tokens_.normed(x + tokens_.first(row * call_.w + begin), end - begin, at.work,
                   [=, to = at.normed](int64_t p) { return to + p * padded; });
    if (begin == tile.left) std::fill_n(to, step, S(0));
    if (end == tile.right) std::fill_n(to + (columns - 1) * step, step, S(0));
    Ahead ahead;
    if (row < std::min(tile.bottom, call_.h - 1)) {
      tokens_.ask_for(x + tokens_.first((row + 1) * call_.w + begin), end - begin, ahead);
    }
    in_.multiply_to({at.normed, padded}, end - begin, step, Rows<S>{to + (begin - tile.left + 1) * step, step}, &ahead);
  }

  void result(const Tile& tile, int64_t row, const Buffers& at) const {
    const int64_t first = tile.picture * tokens_.picture() + tokens_.first(row * call_.w + tile.left);
    const T* x = static_cast<const T*>(call_.x) + first;
    T* out = static_cast<T*>(call_.out) + first;
    const bool past = past_cache<T>(call_.n * tokens_.picture(), planes_ ? call_.h * call_.w : call_.c);
    const int64_t count = tile.right - tile.left, padded = tokens_.padded(), c = call_.c;
    const Rows<const F> gated{at.gated, step_ / 2};
    if (planes_) {
      out_.multiply_to(gated, count, padded, Rows<S>{at.sums, padded});
      tokens_.add(x, out, count, past, [=, from = at.sums](int64_t p) { return from + p * padded; });
    } else {
      out_.multiply(gated, count, c, [=](Vec<S> sums, int64_t r, int64_t column, auto... part) {
        const int64_t place = r * c + column;
        put(sums + Vec<S>::load(x + place, part...), out + place, past, part...);
      });
    }
  }

  const GatedFeedForward& call_;
  bool planes_;
  Tokens<T> tokens_;
  Columns<T> in_, out_;
  int64_t step_;        // numbers of a hidden pixel, padding and all: gating ones, then gated ones
  Aligned<S> filters_;  // [tap][channel]
  Cut rows_, columns_;
};

}  // namespace

void gated_feed_forward_cpu(const GatedFeedForward& call) {
  by_type(call.type, [&]<class T>() { Forward<T>(call).run(); });
}

}  // namespace lightsr
