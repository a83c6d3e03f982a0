// The convolution with a small filter on the CPU where lanes are channels, [N, H, W, C]: cpu_forward.h without its
// buffer of rows, which takes longer to fill than such a filter to apply.
//
// A task is one picture of N, one of the row pictures that a dilation makes, a band of its rows and a segment of its
// columns. Pixels are read in place, along the rows and all channels of a few tiles before the next ones, as they lie
// in memory. With a dilation of columns the pixels of a tile are that far apart, as its taps are, and nothing else
// changes.
//
// Tiles at the left and right ends of a row read zeros in place of the pixels that are outside; rows above and below
// the picture are skipped. The last tile of a row, the last rows and the last vector of channels reach back over what
// is done, and give the same again.
#pragma once

#include <memory>

#include "../common/parallel.h"
#include "arguments.h"
#include "cpu_pixel_tile.h"
#include "cpu_rows.h"

namespace lightsr {

template <class Lines, int KW, int V>
class Pixels {
 public:
  static constexpr int most_kh = 7;

  static bool takes(const DepthwiseConv& call) {
    return call.channels_last && call.kw == KW && call.kh <= most_kh && call.c >= lanes &&
           call.dw <= (call.w - 1) / (KW / 2);
  }

  explicit Pixels(const DepthwiseConv& call) : call(call) {
    kh =
        2 * int(std::min<int64_t>(call.kh / 2, (call.h - 1) / call.dh)) + 1;  // taps further out never meet the picture
    groups = (call.c + lanes - 1) / lanes;
    phases = std::min(call.dh, call.h);
    rows = (call.h + phases - 1) / phases;
    row = call.dh * call.w * call.c, column = call.dw * call.c;
    finish = {call.activation,
              Vec<T>::fill(T(call.negative_slope)),
              static_cast<const Value*>(call.gate),
              static_cast<const Value*>(call.residual),
              static_cast<Value*>(call.out),
              lanes * sizeof(Value) >= 64 && past_cache<Value>(call.n * call.c * call.h * call.w, call.c, call.flip)};
    segments = ((kh + 3 * R) * call.w * call.c * int64_t(sizeof(Value)) + near_bytes - 1) / near_bytes;
    int64_t wanted = 4 * torch::stable::get_num_threads();
    auto tasks = [&] { return call.n * phases * segments * ((rows + band_rows - 1) / band_rows); };
    band_rows = (rows + R - 1) / R * R;
    while (tasks() < wanted && band_rows > 2 * kh) band_rows = (band_rows / 2 + R - 1) / R * R;
    bands = (rows + band_rows - 1) / band_rows;
  }

  void run() {
    int64_t each_group = int64_t(kh) * columns * lanes;
    std::unique_ptr<Tap[]> memory(new Tap[groups * each_group + 64 / sizeof(Tap)]);
    taps = memory.get() + (64 - reinterpret_cast<uintptr_t>(memory.get()) % 64) % 64 / sizeof(Tap);
    std::unique_ptr<T[]> biases(new T[groups * lanes]);
    start = biases.get();
    for (int64_t i = 0; i < groups * lanes; ++i)
      pack(taps + i / lanes * each_group + i % lanes, start[i], i / lanes, i % lanes);
    run_tasks(call.n * phases * bands * segments, [&](int64_t task) {
      int64_t segment = task % segments, band = task / segments % bands, phase = task / (segments * bands) % phases;
      run_task(task / (segments * bands * phases), phase, band, segment);
    });
  }

 private:
  using Sums = PixelSums<Lines, KW, V>;
  using T = typename Lines::Sum;
  using Tap = typename Lines::Tap;
  using Value = typename Lines::Value;
  static constexpr int R = Sums::R, size = Vec<T>::size, lanes = Lines::lanes, columns = Lines::columns(KW);
  static constexpr int wide = V + KW - 1, most_tiles = 8;
  static constexpr int64_t near_bytes = 640 * 1024;  // of the rows in use: some of the second-level cache

  struct RowOfTiles {
    int64_t start;  // of its first pixel's channels
    int64_t y, height, width;
    int of_use;  // of its R rows
  };

  int64_t channel(int64_t group) const { return std::min(group * lanes, call.c - lanes); }

  void pack(Tap* to, T& start, int64_t group, int64_t lane) const {
    int64_t c = channel(group) + Lines::channel(int(lane));
    const Value *bias = static_cast<const Value*>(call.bias), *weight = static_cast<const Value*>(call.weight);
    start = bias ? widened<T>(bias[c]) : T(0);
    weight += c * call.kh * KW + (call.kh / 2 - kh / 2) * KW;
    auto weight_at = [&](int i, int j) { return call.flip ? weight[(kh - i) * KW - 1 - j] : weight[i * KW + j]; };
    for (int i = 0; i < kh; ++i)
      for (int j = 0; j < columns; ++j, to += lanes) {
        if constexpr (Lines::pixels == 2)
          *to = pair_of_taps(weight_at(i, Lines::column(KW, j)), weight_at(i, Lines::column(KW, j) + 1), columns - j);
        else
          *to = widened<T>(weight_at(i, j));
      }
  }

  void run_task(int64_t n, int64_t phase, int64_t band, int64_t segment) const {
    RowOfTiles at{.height = (call.h - phase + call.dh - 1) / call.dh};
    int64_t begin = band * band_rows, end = std::min(at.height, begin + band_rows);
    for (int64_t y = begin; y < end; y += R) {
      at.y = std::max(begin, std::min(y, end - R));
      at.of_use = int(std::min<int64_t>(R, end - at.y));
      for (int64_t left = 0; left < std::min(call.dw, call.w); ++left) {
        at.start = ((n * call.h + phase) * call.w + left) * call.c + at.y * row;
        at.width = (call.w - left + call.dw - 1) / call.dw;
        int64_t all = (at.width + V - 1) / V, tile = all * segment / segments, until = all * (segment + 1) / segments;
        while (tile < until) {
          int64_t x = std::max<int64_t>(0, std::min(tile * V, at.width - V)), inside = (at.width - KW / 2 - x) / V;
          int64_t many = x < KW / 2 ? 0 : std::min<int64_t>({inside, most_tiles, until - tile});
          for (int64_t group = 0; group < groups; ++group) run_tiles(at, x, int(many), group);
          tile += std::max<int64_t>(1, many);
        }
      }
    }
  }

  // So many tiles from column `left` on, or one that reaches out of the picture.
  void run_tiles(const RowOfTiles& at, int64_t left, int many, int64_t group) const {
    int64_t to = at.start + left * column + channel(group);
    const Value* x = static_cast<const Value*>(call.x) + to;
    PixelTiles<Lines> tile{.x = x - kh / 2 * row - KW / 2 * column,
                           .row = row,
                           .column = column,
                           .first = int(std::max<int64_t>(0, kh / 2 - at.y)),
                           .last = int(std::min<int64_t>(kh + R - 1, at.height - at.y + kh / 2)),
                           .kh = kh,
                           .tiles = std::max(1, many),
                           .zeros = zeros,
                           .taps = taps + group * kh * columns * lanes,
                           .start = start + group * lanes,
                           .soon = at.y + R + kh / 2 < at.height ? x + (R + kh / 2) * row : nullptr};
    for (int p = 0; many == 0 && p < wide; ++p) {
      const int64_t from = left + p - KW / 2;
      if (from < 0 || from >= at.width) tile.outside |= uint32_t(1) << p;
    }
    if (finish.none() && at.of_use == R && at.width >= V) {
      tile.out_row = row, tile.out_column = column, tile.past = finish.past;
      return Sums::run(tile, finish.out + to);
    }
    alignas(64) T sums[R][most_tiles * V][lanes];
    tile.out_row = sizeof sums[0] / sizeof(T), tile.out_column = lanes;
    Sums::run(tile, sums[0][0]);
    for (int i = 0; i < at.of_use; ++i)
      for (int64_t v = 0; v < std::min<int64_t>(tile.tiles * V, at.width); ++v)
        finish(sums[i][v], to + i * row + v * column, Lines::halves, size, size, size);
  }

  const DepthwiseConv& call;
  int kh;
  int64_t groups, phases, rows, row, column, segments, bands, band_rows;
  alignas(64) Value zeros[lanes] = {};
  Tap* taps;  // [groups, KH, columns, lanes]
  T* start;   // [groups, lanes]
  Finish<T, Value> finish;
};

}  // namespace lightsr
