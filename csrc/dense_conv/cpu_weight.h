// The gradients of dense_conv's filters and bias on the CPU.
//
// A unit of work is a band of rows of a segment of columns of one picture. Its pixels of x, with the border that the
// filter reaches, and of the gradient are copied into buffers that hold the channels of a pixel one behind the other
// (cpu_weight_read.h); zeros stand outside the picture. The sums over the unit's pixels are then products of these two,
// for every row of the filter one of all filters with windows of KW pixels (cpu_weight_tile.h). Where such windows
// would leave much of the last vector empty, the rows of x that a filter reaches stand one behind the other in the
// buffer too, and there is one product alone.
//
// Sums over some units are taken in float32 (float64); these are added up in float64. How units make up tasks, and so
// the order of all additions, depends on the sizes alone.
#pragma once

#include "../common/parallel.h"
#include "../common/round.h"
#include "cpu_weight_read.h"
#include "cpu_weight_tile.h"
#include "weight_arguments.h"

namespace lightsr::dense_weight {

template <class T, class S>  // sums in T of numbers in S
class WeightGradient {
  static constexpr int size = Vec<T>::size;
  static constexpr int64_t most_pixels = 2048;  // about so many are added up before they are added in float64

 public:
  explicit WeightGradient(const DenseConvWeight& call) : call_(call) {
    // Taps further out than the picture is large never meet it: their gradient is 0.
    kh_ = 2 * int(std::min<int64_t>(call.kh / 2, call.h - 1)) + 1;
    kw_ = 2 * int(std::min<int64_t>(call.kw / 2, call.w - 1)) + 1;
    const int64_t apart = kh_ * round_up(kw_ * call.ins, size), stacked = round_up(kh_ * kw_ * call.ins, size);
    stack_ = stacked * 12 < apart * 11 ? kh_ : 1;
    taps_ = kh_ / stack_;
    pitch_ = stack_ * call.ins;
    columns_ = round_up(kw_ * pitch_, size);

    // What lies in memory as in a buffer is taken from there, if no vector reaches over its end.
    in_place_ = std::is_same_v<T, S> && call.channels_last && kh_ * kw_ == 1 && call.ins % size == 0;

    constexpr int64_t most_sums = 1 << 18;  // bytes
    const int64_t fit = std::max<int64_t>(most_sums / int64_t(sizeof(T)) / (taps_ * columns_), tile_rows);
    groups_ = ceil_div(call.outs, fit);
    outs_ = ceil_div(call.outs, groups_);
    sums_ = taps_ * outs_ * columns_;
    grad_pitch_ = round_up_odd(outs_, size);

    constexpr int64_t wide = 64, cache = 320 << 10;
    segments_ = ceil_div(call.w, wide);
    width_ = ceil_div(call.w, segments_);
    const int64_t row_bytes = (pitch_ + grad_pitch_) * (width_ + kw_ - 1) * int64_t(sizeof(T));
    const int64_t rows = std::clamp<int64_t>(cache / row_bytes, 4, 64);
    bands_ = ceil_div(call.h, rows);
    rows_ = ceil_div(call.h, bands_);
    units_ = call.n * bands_ * segments_;
    constexpr int64_t most_tasks = 64, most_numbers = 1 << 19;
    parts_ = std::min(units_, std::clamp<int64_t>(most_numbers / (sums_ * groups_), 4, most_tasks));
  }

  void run() const {
    const int64_t each = sums_ + outs_;
    const Aligned<double> totals(parts_ * groups_ * each);
    run_tasks(parts_ * groups_,
              [&](int64_t task) { run_part(task / groups_, task % groups_, totals.data() + task * each); });
    run_tasks(groups_ * outs_, [&](int64_t task) { finish(totals.data(), task / outs_, task % outs_); });
  }

 private:
  struct Buffers {
    T *x, *grad, *sums;
    int64_t bytes;
    Buffers(char* from, const WeightGradient& all) {
      Arena arena(from);
      x = arena.take<T>(all.x_lines() * all.x_line() + tile_vectors * size);
      grad = arena.take<T>(all.rows_ * all.grad_line());
      sums = arena.take<T>(all.sums_ + all.outs_);
      bytes = arena.used(from);
    }
  };
  int64_t x_lines() const { return stack_ > 1 ? rows_ : rows_ + kh_ - 1; }
  int64_t x_line() const { return (width_ + kw_ - 1) * pitch_; }
  int64_t grad_line() const { return width_ * grad_pitch_; }

  struct Unit {
    int64_t picture, top, rows, left, width;
  };
  Unit unit_at(int64_t index) const {
    const int64_t segment = index % segments_, band = index / segments_ % bands_;
    const int64_t top = band * rows_, left = segment * width_;
    return {index / (segments_ * bands_), top, std::min(rows_, call_.h - top), left, std::min(width_, call_.w - left)};
  }

  void run_part(int64_t part, int64_t group, double* to) const {
    const int64_t first = group * outs_, outs = std::min(outs_, call_.outs - first);
    const Buffers probe(nullptr, *this);
    const Buffers buffers(scratch<char>(probe.bytes), *this);
    std::fill_n(buffers.sums, sums_ + outs_, T(0));
    std::fill_n(to, sums_ + outs_, 0.0);
    int64_t added = 0;
    const int64_t begin = units_ * part / parts_, end = units_ * (part + 1) / parts_;
    for (int64_t index = begin; index < end; ++index) {
      const Unit unit = unit_at(index);
      if (unit.rows <= 0 || unit.width <= 0) continue;
      if (added && added + unit.rows * unit.width > most_pixels) flush(buffers, to), added = 0;
      added += unit.rows * unit.width;
      run_unit(unit, first, outs, buffers);
    }
    flush(buffers, to);
  }

  void flush(const Buffers& buffers, double* to) const {
    for (int64_t i = 0; i < sums_ + outs_; ++i) to[i] += buffers.sums[i];
    std::fill_n(buffers.sums, sums_ + outs_, T(0));
  }

  // Where the pixels of a unit stand that are multiplied.
  struct View {
    const T *x, *grad;
    int64_t x_line, grad_line, grad_pixel;
  };

  void run_unit(const Unit& unit, int64_t first, int64_t outs, const Buffers& buffers) const {
    const auto x =
        picture_of<T, S>(call_.x, call_.channels_last, unit.picture, call_.ins, call_.h, call_.w, 0, call_.ins);
    const auto grad =
        picture_of<T, S>(call_.grad, call_.channels_last, unit.picture, call_.outs, call_.h, call_.w, first, outs);
    View view{buffers.x, buffers.grad, x_line(), grad_line(), grad_pitch_};
    if constexpr (std::is_same_v<T, S>) {
      if (in_place_) {
        view.x = x.data + unit.top * x.row + unit.left * x.column;
        view.grad = grad.data + unit.top * grad.row + unit.left * grad.column;
        view.x_line = x.row, view.grad_line = grad.row, view.grad_pixel = grad.column;
      }
    }
    if (!in_place_) {
      read_x(x, unit, buffers.x);
      for (int64_t y = 0; y < unit.rows; ++y)
        read_line(grad, unit.top + y, unit.left, unit.width, buffers.grad + y * grad_line(), grad_pitch_);
    }
    for (int64_t y = 0; call_.grad_bias && y < unit.rows; ++y)
      add_line(view.grad + y * view.grad_line, unit.width, view.grad_pixel, outs, buffers.sums + sums_);
    multiply(unit, outs, view, buffers.sums);
  }

  void read_x(const Picture<S>& x, const Unit& unit, T* to) const {
    const int64_t wide = unit.width + kw_ - 1, top = unit.top - kh_ / 2, left = unit.left - kw_ / 2;
    const int64_t lines = stack_ > 1 ? unit.rows : unit.rows + kh_ - 1;
    for (int64_t y = 0; y < lines; ++y) {
      for (int64_t a = 0; a < stack_; ++a)
        read_line(x, top + y + a, left, wide, to + y * x_line() + a * call_.ins, pitch_);
    }
  }

  void multiply(const Unit& unit, int64_t outs, const View& view, T* sums) const {
    constexpr int64_t some = 96;  // pixels whose part of the window stays in the L1 cache
    const int64_t vectors = columns_ / size, across = ceil_div(vectors, tile_vectors), down = ceil_div(outs, tile_rows);
    const int64_t lines = std::max<int64_t>(1, some / unit.width);
    Tile<T> tile{.grad_pixel = view.grad_pixel, .grad_line = view.grad_line, .x_pixel = pitch_, .x_line = view.x_line};
    tile.pixels = unit.width, tile.sums_row = columns_;
    for (int64_t y = 0; y < unit.rows; y += lines) {
      tile.lines = std::min(lines, unit.rows - y);
      for (int64_t a = 0; a < taps_; ++a) {
        for (int64_t j = 0; j < across; ++j) {
          const int64_t from = vectors * j / across, until = vectors * (j + 1) / across;
          tile.x = view.x + (y + a) * view.x_line + from * size;
          for (int64_t i = 0; i < down; ++i) {
            const int64_t row = outs * i / down, last = outs * (i + 1) / down;
            tile.grad = view.grad + y * view.grad_line + row;
            tile.sums = sums + (a * outs_ + row) * columns_ + from * size;
            add_tile(tile, last - row, until - from);
          }
        }
      }
    }
  }

  // Adds the parts up, in the first of them, and writes one filter's gradients.
  void finish(double* totals, int64_t group, int64_t out) const {
    const int64_t each = sums_ + outs_, o = group * outs_ + out;
    if (o >= call_.outs) return;
    double* total = totals + group * each;
    for (int64_t part = 1; part < parts_; ++part) {
      const double* other = total + part * groups_ * each;
      for (int64_t a = 0; a < taps_; ++a) {
        const int64_t row = (a * outs_ + out) * columns_;
        for (int64_t i = row; i < row + columns_; ++i) total[i] += other[i];
      }
      total[sums_ + out] += other[sums_ + out];
    }
    const auto store = [](S* to, double value) { Vec<T>::fill(T(value)).store(to, 1); };
    S* to = static_cast<S*>(call_.grad_weight) + o * call_.ins * call_.kh * call_.kw;
    for (int64_t i = 0; i < call_.ins; ++i) {
      for (int a = 0; a < call_.kh; ++a) {
        for (int b = 0; b < call_.kw; ++b, ++to) {
          const int row = a - call_.kh / 2 + kh_ / 2, column = b - call_.kw / 2 + kw_ / 2;
          if (row < 0 || row >= kh_ || column < 0 || column >= kw_) {
            store(to, 0);
            continue;
          }
          const int64_t tap = stack_ > 1 ? 0 : row, lane = column * pitch_ + (stack_ > 1 ? row * call_.ins : 0) + i;
          store(to, total[(tap * outs_ + out) * columns_ + lane]);
        }
      }
    }
    if (call_.grad_bias) store(static_cast<S*>(call_.grad_bias) + o, total[sums_ + out]);
  }

  const DenseConvWeight& call_;
  int kh_, kw_;
  bool in_place_;
  int64_t stack_, taps_, pitch_, columns_;     // rows of taps in a window, and windows; numbers of a pixel and a window
  int64_t groups_, outs_, sums_, grad_pitch_;  // filters are cut into groups of so many
  int64_t segments_, width_, bands_, rows_, units_, parts_;
};

}  // namespace lightsr::dense_weight
