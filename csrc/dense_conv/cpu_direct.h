// Convolutions of any size by one multiply-add for each tap and channel.
//
// A task has a stretch of columns in some rows of a picture. It copies the pixels that these read into a buffer in the
// L2 cache, with zeros around the picture: [C][rows][columns], or [rows][columns][C] where pictures lie as
// [N, H, W, C]. There the pixels of a channel that a tap reads for all results lie one after the other from its place
// on, those of the next row behind those of this one. So results are numbered the same way, those beside the stretch
// with them, and are computed as products are (cpu_taps.h): 48 pixels at a time for 8 channels each, or 8 pixels for as
// many channels as there are. Each sum runs over rows of taps, taps and channels in this order, from the first to the
// last, whatever the size of the picture.
#pragma once

#include "../common/pixel_product.h"
#include "cpu_finish.h"
#include "cpu_input.h"
#include "cpu_taps.h"

namespace lightsr::dense {

template <class E, class S, bool last>
class Direct {
  static constexpr int size = Vec<E>::size;
  static constexpr int64_t wide = product_vectors * size;

 public:
  explicit Direct(const DenseConv& call)
      : call_(call),
        finish_(call),
        taps_(call.kh * call.kw),
        depth_(taps_ * call.c),
        outs_(round_up(call.outs, last ? size : product_rows)),
        factors_(depth_ * outs_),
        table_(depth_) {
    plan();
    pack(Filters<E, S>(call));
  }

  void run() const {
    run_tasks(call_.n * down_ * across_, [&](int64_t task) { run(part(task), part(task + 1)); });
  }

 private:
  // How large the parts are that a picture is cut into.
  void plan() {
    constexpr int64_t most = (int64_t(1) << 19) / sizeof(E);
    const int64_t halo_h = call_.kh - 1, halo_w = call_.kw - 1, channels = std::max<int64_t>(call_.c, 1);
    const int64_t fit = most / (channels * call_.kh) - halo_w;  // columns, if there is one row
    const int64_t stretches = (call_.w + std::max(fit, wide) - 1) / std::max(fit, wide);
    columns_ = round_up((call_.w + stretches - 1) / stretches, stretches > 1 ? wide : 1);
    pitch_ = columns_ + halo_w;
    const int64_t rows = std::clamp<int64_t>(most / (channels * pitch_) - halo_h, 1, call_.h);
    // Enough parts for many threads, but not too small.
    const int64_t parts = call_.n * ((call_.w + columns_ - 1) / columns_);
    const int64_t fewer = std::max((call_.h * parts + 63) / 64, (4 * wide + pitch_ - 1) / pitch_);
    rows_ = std::min(rows, std::max<int64_t>(fewer, 1));
    across_ = (call_.w + columns_ - 1) / columns_;
    down_ = (call_.h + rows_ - 1) / rows_;
    plane_ = round_up((rows_ + halo_h) * pitch_, per_line<E>) + wide;
  }

  // Factors as [block of rows][k][rows], or [k][outs]; and where the pixel of step k stands.
  void pack(const Filters<E, S>& filters) {
    std::fill_n(factors_.data(), depth_ * outs_, E(0));
    const int64_t rows = product_rows;
    for (int64_t tap = 0, k = 0; tap < taps_; ++tap) {
      const int64_t place = tap / call_.kw * pitch_ + tap % call_.kw;
      for (int64_t in = 0; in < call_.c; ++in, ++k) {
        table_.data()[k] = last ? place * call_.c + in : in * plane_ + place;
        for (int64_t out = 0; out < call_.outs; ++out) {
          const int64_t to = last ? k * outs_ + out : (out - out % rows) * depth_ + k * rows + out % rows;
          factors_.data()[to] = filters.at(out, in, tap);
        }
      }
    }
  }

  // The columns of a task, beginning with its first row; `at` has the number of its rows.
  Run part(int64_t task) const {
    const int64_t y = task / across_ % down_ * rows_, x = task % across_ * columns_;
    return {task / across_ / down_, y, x, std::min(columns_, call_.w - x), std::min(rows_, call_.h - y)};
  }

  // Asks for the pixels of the task that is likely to be this thread's next.
  void ask_for_pixels(const Run& part, Ahead& ahead) const {
    if (part.n >= call_.n) return;
    constexpr int64_t each = sizeof(S);
    const int64_t area = call_.h * call_.w, step = last ? call_.c : 1;
    const S* from = static_cast<const S*>(call_.x) + part.n * call_.c * area + (part.y * call_.w + part.x) * step;
    for (int64_t i = 0; i < (columns_ == call_.w ? 1 : part.at); ++i) {
      const int64_t pixels = columns_ == call_.w ? part.at * call_.w : part.count;
      ahead.add(from + i * call_.w * step, area * each, pixels * step * each, last ? 1 : call_.c);
    }
  }

  void run(const Run& part, const Run& next) const {
    const int64_t numbers = last ? (rows_ + call_.kh) * pitch_ * call_.c + product_rows * call_.c : call_.c * plane_;
    const int64_t tiles = product_rows * wide;
    Arena arena(scratch<char>((numbers + tiles + 2 * wide) * static_cast<int64_t>(sizeof(E)) + 256));
    E* pixels = arena.take<E>(numbers + wide);
    E* tile = arena.take<E>(tiles);
    const S* picture = static_cast<const S*>(call_.x) + part.n * call_.c * call_.h * call_.w;
    const int64_t top = part.y - call_.kh / 2, left = part.x - call_.kw / 2, all = part.at + call_.kh - 1;
    for (int64_t plane = 0; plane < (last ? 1 : call_.c); ++plane) {
      const S* from = picture + plane * call_.h * call_.w;
      for (int64_t i = 0; i < all; ++i) {
        const int64_t each = last ? call_.c : 1;
        padded_row(from, call_, each, top + i, left, pitch_, pixels + plane * plane_ + i * pitch_ * each);
      }
    }
    const int64_t end = (part.at - 1) * pitch_ + part.count;
    Ahead ahead;
    ask_for_pixels(next, ahead);
    if constexpr (last) {
      pixels_first(pixels, part, end, tile, ahead);
    } else {
      channels_first(pixels, part, end, tile, ahead);
    }
  }

  // The results from one on, in the order in which their pixels lie in the buffer.
  struct Walk {
    const Run& part;
    int64_t pitch, y, x;

    // Calls each(run) for those among the next `count` that are in the part of the picture.
    template <class Each>
    void every(int64_t count, const Each& each) {
      for (int64_t at = 0; at < count;) {
        const int64_t some = std::min(count - at, pitch - x), inside = std::min(some, part.count - x);
        if (inside > 0) each(Run{part.n, part.y + y, part.x + x, inside, at});
        at += some;
        x += some;
        if (x == pitch) x = 0, ++y;
      }
    }
  };

  void channels_first(const E* pixels, const Run& part, int64_t end, E* tile, Ahead& ahead) const {
    for (int64_t first = 0; first < call_.outs; first += product_rows) {
      const int64_t many = std::min<int64_t>(product_rows, call_.outs - first);
      const E* factors = factors_.data() + first * depth_;
      Walk walk{part, pitch_, 0, 0};
      for (int64_t at = 0; at < end; at += wide) {
        const int64_t count = std::min(wide, end - at), step = round_up(count, size);
        Walk(walk).every(count, [&](const Run& run) { finish_.ask_for(run, first, many); });
        const Taps<E> taps{factors, pixels + at, product_rows, 0, table_.data(), depth_};
        taps_tile<E, false>(taps, many <= product_rows / 2, static_cast<int>(step / size), tile, ahead);
        walk.every(count, [&](const Run& run) { finish_.channels(run, first, many, tile + run.at, step); });
      }
    }
  }

  void pixels_first(const E* pixels, const Run& part, int64_t end, E* tile, Ahead& ahead) const {
    Walk walk{part, pitch_, 0, 0};
    for (int64_t at = 0; at < end; at += product_rows) {
      const int64_t count = std::min<int64_t>(product_rows, end - at);
      const Walk here = walk;
      every_group<size>(outs_, [&](int64_t first, int64_t many) {
        const Taps<E> taps{pixels + at * call_.c, factors_.data() + first, call_.c, outs_, table_.data(), depth_};
        taps_tile<E, true>(taps, count <= product_rows / 2, static_cast<int>(many / size), tile, ahead);
        walk.y = here.y, walk.x = here.x;
        walk.every(count, [&](const Run& run) {
          finish_.pixels(run, first, std::min(many, call_.outs - first), tile + run.at * many, many);
        });
      });
    }
  }

  const DenseConv& call_;
  Finish<E, S, last> finish_;
  int64_t taps_, depth_, outs_;
  int64_t columns_, rows_, across_, down_;  // of the results of a task; how many tasks
  int64_t pitch_, plane_;                   // of its buffer
  Aligned<E> factors_;
  Aligned<int64_t> table_;
};

}  // namespace lightsr::dense
