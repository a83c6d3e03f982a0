// The gradients of 3 x 3 filters by fewer multiplications.
//
// Nine taps out of 4 x 4 numbers of the gradient and the 6 x 6 of x that they meet take 144 multiplications for each
// pair of channels. By interpolation (Winograd 1980) it is one for each of 36 places:
//
//   grad_weight = A^T [ sum over pieces of (G g G^T) * (B^T d B) ] A
//
// with the transforms of cpu_weight_transform.h. They are done for a row of pieces at once, vectors along channels;
// when there are enough pieces, their products are, at each place, one of matrices [filters, pieces] and [pieces,
// channels]. A is applied, in float64, after some hundred pieces, and so each place's sums stay small.
//
// Numbers that are not finite would spread over more taps than those that see them: such a gradient is taken again by
// the plain sums of cpu_weight.h.
#pragma once

#include <atomic>
#include <cmath>
#include <vector>

#include "cpu_weight.h"
#include "cpu_weight_transform.h"

namespace lightsr::dense_weight {

template <class S>  // sums in float of numbers in S
class WinogradGradient {
  using T = float;
  using V = Vec<T>;
  static constexpr int size = V::size;
  static constexpr int most_vectors = 2;  // of a tile: with three, sums that come and go take longer than they save
  static constexpr int64_t most_pieces = 384;  // so many are added up before they are added in float64
  static constexpr int64_t together = 36;      // about so many are transformed before they are multiplied

 public:
  explicit WinogradGradient(const DenseConvWeight& call) : call_(call) {
    constexpr int64_t most_sums = 640 << 10, wide = 16;  // bytes; pieces in a row
    const int64_t filters =
        std::max<int64_t>(most_sums / (places * int64_t(sizeof(T)) * round_up(call.ins, size)), size);
    groups_ = ceil_div(call.outs, filters);
    outs_ = ceil_div(call.outs, groups_);
    const auto work = [](int64_t rows, int64_t columns) { return round_up(columns, size) * rows; };
    turned_ = work(call.ins, outs_) < work(outs_, call.ins);
    rows_ = turned_ ? call.ins : outs_;
    columns_ = round_up(turned_ ? outs_ : call.ins, size);
    sums_ = rows_ * columns_;
    x_pitch_ = round_up_odd(call.ins, size), grad_pitch_ = round_up_odd(outs_, size);

    const int64_t across = ceil_div(call.w, grad_side);
    down_ = ceil_div(call.h, grad_side);
    segments_ = ceil_div(across, wide);
    width_ = ceil_div(across, segments_);
    units_ = call.n * segments_ * down_;
    capacity_ = std::max(together / width_, int64_t(1)) * width_;
    // Of each part the sums are written once and read twice: it must be worth it.
    constexpr int64_t most_parts = 64, most_numbers = 1 << 18, least_pieces = 72;
    const int64_t fit = std::clamp<int64_t>(most_numbers / ((9 * sums_ + outs_) * groups_), 8, most_parts);
    parts_ = std::clamp<int64_t>(units_ * width_ / least_pieces, 1, std::min(units_, fit));
  }

  // Whether the sums were finite and are written.
  bool run() const {
    const int64_t each = 9 * sums_ + outs_;
    const Aligned<double> totals(parts_ * groups_ * each);
    run_tasks(parts_ * groups_,
              [&](int64_t task) { Part(*this, task / groups_, task % groups_, totals.data() + task * each).run(); });
    std::atomic<bool> finite = true;
    run_tasks(groups_ * rows_, [&](int64_t task) {
      if (!finish(totals.data(), task / rows_, task % rows_)) finite.store(false, std::memory_order_relaxed);
    });
    return finite;
  }

 private:
  // A row of pieces.
  struct Unit {
    int64_t picture, top, left, many;
  };
  Unit unit_at(int64_t index) const {
    const int64_t row = index % down_, segment = index / down_ % segments_, left = segment * width_ * grad_side;
    return {index / (down_ * segments_), row * grad_side, left,
            std::min(width_, ceil_div(std::max<int64_t>(call_.w - left, 0), grad_side))};
  }
  int64_t x_line() const { return (width_ * grad_side + 2) * x_pitch_; }
  int64_t grad_line() const { return width_ * grad_side * grad_pitch_; }
  int64_t place(int64_t pitch) const { return round_up_odd(capacity_ * pitch, size); }

  // A share of the units, for one group of filters.
  struct Part {
    const WinogradGradient& all;
    const DenseConvWeight& call;
    const int64_t begin, end, first, outs;
    double* const to;
    T *x[x_side], *grad, *x_places, *grad_places, *sums, *bias;

    Part(const WinogradGradient& all, int64_t part, int64_t group, double* to)
        : all(all),
          call(all.call_),
          begin(all.units_ * part / all.parts_),
          end(all.units_ * (part + 1) / all.parts_),
          first(group * all.outs_),
          outs(std::min(all.outs_, call.outs - first)),
          to(to) {
      place_buffers(scratch<char>(place_buffers(nullptr)));
    }
    int64_t place_buffers(char* from) {
      Arena arena(from);
      for (T*& line : x) line = arena.take<T>(all.x_line());
      grad = arena.take<T>(grad_side * all.grad_line());
      x_places = arena.take<T>(places * all.place(all.x_pitch_));
      grad_places = arena.take<T>(places * all.place(all.grad_pitch_));
      sums = arena.take<T>(places * all.sums_);
      bias = arena.take<T>(all.outs_);
      return arena.used(from);
    }

    void run() {
      std::fill_n(sums, places * all.sums_, T(0));
      std::fill_n(bias, all.outs_, T(0));
      std::fill_n(to, 9 * all.sums_ + all.outs_, 0.0);
      int64_t pieces = 0, added = 0;
      Unit before{.picture = -1};
      for (int64_t index = begin; index < end; ++index) {
        const Unit unit = all.unit_at(index);
        if (unit.many == 0) continue;
        read(unit, before.picture == unit.picture && before.left == unit.left);
        before = unit;
        transform(pieces, unit.many);
        pieces += unit.many;
        if (pieces + all.width_ <= all.capacity_ && index + 1 < end) continue;
        multiply(pieces);
        added += pieces, pieces = 0;
        if (added + all.capacity_ > most_pieces) flush(), added = 0;
      }
      if (pieces) multiply(pieces);
      flush();
    }

    // Where the unit before stands right above, its last two rows of x are this one's first.
    void read(const Unit& unit, bool follows) {
      const auto pixels = x_picture(unit);
      const auto grads = grad_picture(unit);
      const int64_t wide = unit.many * grad_side;
      if (follows) std::rotate(x, x + grad_side, x + x_side);
      for (int y = follows ? 2 : 0; y < x_side; ++y)
        read_line(pixels, unit.top + y - 1, unit.left - 1, wide + 2, x[y], all.x_pitch_);
      for (int y = 0; y < grad_side; ++y) {
        T* line = grad + y * all.grad_line();
        read_line(grads, unit.top + y, unit.left, wide, line, all.grad_pitch_);
        if (call.grad_bias) add_line(line, wide, all.grad_pitch_, outs, bias);
      }
    }
    Picture<S> x_picture(const Unit& unit) const {
      return picture_of<T, S>(call.x, call.channels_last, unit.picture, call.ins, call.h, call.w, 0, call.ins);
    }
    Picture<S> grad_picture(const Unit& unit) const {
      return picture_of<T, S>(call.grad, call.channels_last, unit.picture, call.outs, call.h, call.w, first, outs);
    }

    void transform(int64_t piece, int64_t many) const {
      const int64_t x_pitch = all.x_pitch_, grad_pitch = all.grad_pitch_;
      for (int64_t k = 0; k < many; ++k) {
        const T* lines[x_side];
        for (int64_t c = 0; c < call.ins; c += size) {
          for (int y = 0; y < x_side; ++y) lines[y] = x[y] + k * grad_side * x_pitch + c;
          transform_piece<x_side>(lines, x_pitch, x_places + (piece + k) * x_pitch + c, all.place(x_pitch),
                                  transform_x<V>);
        }
        for (int64_t c = 0; c < outs; c += size) {
          for (int y = 0; y < grad_side; ++y) lines[y] = grad + y * all.grad_line() + k * grad_side * grad_pitch + c;
          transform_piece<grad_side>(lines, grad_pitch, grad_places + (piece + k) * grad_pitch + c,
                                     all.place(grad_pitch), transform_grad<V>);
        }
      }
    }

    void multiply(int64_t pieces) const {
      const int64_t rows = all.turned_ ? call.ins : outs, columns = all.turned_ ? outs : call.ins;
      const int64_t vectors = ceil_div(columns, size), across = ceil_div(vectors, most_vectors);
      const int64_t down = ceil_div(rows, tile_rows);
      Tile<T> tile{.lines = 1, .pixels = pieces, .sums_row = all.columns_};
      tile.grad_pixel = all.turned_ ? all.x_pitch_ : all.grad_pitch_;
      tile.x_pixel = all.turned_ ? all.grad_pitch_ : all.x_pitch_;
      const T* left = all.turned_ ? x_places : grad_places;
      const T* right = all.turned_ ? grad_places : x_places;
      for (int p = 0; p < places; ++p) {
        for (int64_t j = 0; j < across; ++j) {
          const int64_t from = vectors * j / across, until = vectors * (j + 1) / across;
          tile.x = right + p * all.place(tile.x_pixel) + from * size;
          for (int64_t i = 0; i < down; ++i) {
            const int64_t row = rows * i / down, last = rows * (i + 1) / down;
            tile.grad = left + p * all.place(tile.grad_pixel) + row;
            tile.sums = sums + p * all.sums_ + row * all.columns_ + from * size;
            add_tile(tile, last - row, until - from);
          }
        }
      }
    }

    // Adds the taps of the sums to those in float64.
    void flush() const {
      for (int64_t i = 0; i < all.sums_; i += Vec<double>::size) take_taps(sums + i, all.sums_, to + i, all.sums_);
      for (int64_t o = 0; o < all.outs_; ++o) to[9 * all.sums_ + o] += bias[o];
      std::fill_n(bias, all.outs_, T(0));
    }
  };

  // Adds up the parts of a row of sums and writes its gradients; false if one is not finite.
  bool finish(const double* totals, int64_t group, int64_t row) const {
    const int64_t each = 9 * sums_ + outs_, first = group * outs_, outs = std::min(outs_, call_.outs - first);
    if (outs <= 0 || (!turned_ && row >= outs)) return true;
    const auto sum_up = [&](int64_t from, int64_t count, double* to) {
      std::fill_n(to, count, 0.0);
      for (int64_t part = 0; part < parts_; ++part) {
        const double* other = totals + (part * groups_ + group) * each + from;
        for (int64_t i = 0; i < count; ++i) to[i] += other[i];
      }
    };
    bool finite = true;
    const auto store = [&](S* to, double value) {
      finite = finite && std::isfinite(value);
      V::fill(T(value)).store(to, 1);
    };
    std::vector<double> sum(columns_);
    S* to = static_cast<S*>(call_.grad_weight);
    for (int tap = 0; tap < 9; ++tap) {
      sum_up(tap * sums_ + row * columns_, columns_, sum.data());
      for (int64_t i = 0; i < (turned_ ? outs : call_.ins); ++i) {
        const int64_t pair = turned_ ? (first + i) * call_.ins + row : (first + row) * call_.ins + i;
        store(to + pair * 9 + tap, sum[i] / (taps_scale * taps_scale));
      }
    }
    if (call_.grad_bias && row == 0) {
      sum.resize(outs_);
      sum_up(9 * sums_, outs_, sum.data());
      for (int64_t o = 0; o < outs; ++o) store(static_cast<S*>(call_.grad_bias) + first + o, sum[o]);
    }
    return finite;
  }

  const DenseConvWeight& call_;
  bool turned_;  // vectors lie along filters, not along channels of x
  int64_t groups_, outs_, rows_, columns_, sums_, x_pitch_, grad_pitch_;
  int64_t down_, segments_, width_, units_, parts_, capacity_;
};

}  // namespace lightsr::dense_weight
