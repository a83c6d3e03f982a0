// The convolution on the CPU: out = act(conv(x, weight) + bias) * gate + residual.
//
// Rows a dilation apart form pictures of their own, so rows are never dilated here: a task is one picture of N, one
// channel (or one vector of channels), one of those row pictures, a band of its rows and a segment of its columns. It
// reads the rows it needs once, converted and with zeros to the left and right, into a buffer that stays in the cache,
// and slides that buffer down; rows above and below the picture are skipped. cpu_tile.h does the sums.
#pragma once

#include <cstring>
#include <memory>
#include <utility>

#include "../common/parallel.h"
#include "../common/round.h"
#include "arguments.h"
#include "cpu_rows.h"
#include "cpu_tile.h"

namespace lightsr {

constexpr int64_t buffer_bytes = 384 * 1024;  // of a task's rows: some of the second-level cache

// Where lanes are channels of 16 bits, two vectors of channels share a cache line: one task does as many of them in
// turn as have their pixels, a patch of so many columns and some 24 rows, in the cache together.
constexpr int64_t near_bytes = 512 * 1024;
constexpr int64_t pixels = 64;

// Rows and vectors of the result in one tile. Sums, one row of the buffer and a tap fill the registers.
constexpr int most_rows = level::registers == 32 ? 4 : 6;
constexpr int most_vectors = level::registers == 32 ? 4 : 2;

template <class E, bool PerLane>
void run_tiles(const Tile<E>& tile, int rows, int vectors) {
  auto with = [&](auto r) {
    constexpr int R = decltype(r)::value;
    if constexpr (most_vectors == 4)
      if (vectors == 4) return run_tiles<E, PerLane, R, 4>(tile);
    if constexpr (!std::is_same_v<E, double>) {  // which is seldom enough for two variants less to compile
      if constexpr (most_vectors == 4)
        if (vectors == 3) return run_tiles<E, PerLane, R, 3>(tile);
      if (vectors == 2) return run_tiles<E, PerLane, R, 2>(tile);
    }
    return run_tiles<E, PerLane, R, 1>(tile);
  };
  if constexpr (most_rows == 6)
    if (rows == 6) return with(std::integral_constant<int, 6>{});
  return rows == 4 ? with(std::integral_constant<int, 4>{}) : with(std::integral_constant<int, 2>{});
}

template <class E, class S, bool PerLane>  // a picture of S in a buffer of E
class Forward {
 public:
  explicit Forward(const DepthwiseConv& call) : call(call) {
    // Taps further out than the picture is wide never meet it.
    kh = 2 * int(std::min<int64_t>(call.kh / 2, (call.h - 1) / call.dh)) + 1;
    kw = 2 * int(std::min<int64_t>(call.kw / 2, (call.w - 1) / call.dw)) + 1;
    groups = PerLane ? (call.c + size - 1) / size : call.c;
    phases = std::min(call.dh, call.h);
    rows = (call.h + phases - 1) / phases;  // of the first row picture; the others may have one less
    around = (kw - 1) * call.dw;
    tap_columns = std::is_same_v<E, Pair> ? (kw + 1) / 2 : kw;
    finish = {call.activation,
              Vec<T>::fill(T(call.negative_slope)),
              static_cast<const S*>(call.gate),
              static_cast<const S*>(call.residual),
              static_cast<S*>(call.out),
              !shared_lines && past_cache<S>(call.n * call.c * call.h * call.w, PerLane ? call.c : call.w, call.flip)};
    plan();
  }

  void run() {
    int64_t each_group = int64_t(tap_columns) * kh * each;
    std::unique_ptr<E[]> memory(new E[groups * each_group + 64 / sizeof(E)]);
    E* taps = memory.get() + (64 - reinterpret_cast<uintptr_t>(memory.get()) % 64) % 64 / sizeof(E);
    std::unique_ptr<T[]> start(new T[groups * each]);
    for (int64_t c = 0; c < groups * each; ++c) pack(taps + c / each * each_group + c % each, start.get(), c);
    int64_t runs = (groups + group_run - 1) / group_run;
    run_tasks(call.n * phases * bands * segments * runs, [&](int64_t task) {
      int64_t run = task % runs, segment = task / runs % segments, band = task / (runs * segments) % bands;
      int64_t phase = task / (runs * segments * bands) % phases, n = task / (runs * segments * bands * phases);
      for (int64_t group = run * group_run; group < std::min(groups, (run + 1) * group_run); ++group)
        run_task(taps + group * each_group, start.get() + group * each, n, group, phase, band, segment);
    });
  }

 private:
  using T = Sum<E>;
  static constexpr int size = Vec<T>::size, each = PerLane ? size : 1, along = PerLane ? 1 : size;
  static constexpr bool shared_lines = PerLane && size * sizeof(S) < 64;

  // How many columns, rows and groups a task has, and how many rows the buffer.
  void plan() {
    int64_t need = kh - 1 + most_rows, budget = buffer_bytes / int64_t(sizeof(E)) / each;  // rows times columns
    int64_t fit = shared_lines ? pixels : budget / need - around;
    segment_width =
        std::max<int64_t>({fit, around, most_vectors * along}) / (most_vectors * along) * (most_vectors * along);
    segment_width = std::min(call.w, segment_width);
    segments = (call.w + segment_width - 1) / segment_width;
    columns = (segment_width + along - 1) / along * along + around;
    pitch = ((columns + along - 1) / along | 1) * size;  // odd, so that the rows do not fall on the same cache lines

    band_rows = rows;
    group_run = 1;
    if (shared_lines) {
      band_rows = std::min<int64_t>(rows, std::max(24, kh));
      int64_t bytes = 2 * band_rows * segment_width * size * int64_t(sizeof(S));
      group_run = std::clamp<int64_t>(near_bytes / bytes, 1, groups);
    }
    int64_t wanted = 4 * torch::stable::get_num_threads(), runs = (groups + group_run - 1) / group_run;
    auto tasks = [&] { return call.n * phases * segments * runs * ((rows + band_rows - 1) / band_rows); };
    while (tasks() < wanted && band_rows > std::max(2 * most_rows, kh / 2)) band_rows = (band_rows + 1) / 2;
    band_rows = (band_rows + most_rows - 1) / most_rows * most_rows;
    bands = (rows + band_rows - 1) / band_rows;
    capacity = std::max(need, std::min(band_rows + kh - 1, buffer_bytes / int64_t(sizeof(E)) / pitch));
  }

  // Tap columns of KH taps each, and the bias, of one channel; zeros for lanes that are none.
  void pack(E* to, T* start, int64_t c) const {
    const S *weight = static_cast<const S*>(call.weight) + c * call.kh * call.kw,
            *bias = static_cast<const S*>(call.bias);
    start[c] = bias && c < call.c ? widened<T>(bias[c]) : T(0);
    auto weight_at = [&](int i, int j) {
      if (c >= call.c) return S{};
      i += call.kh / 2 - kh / 2, j += call.kw / 2 - kw / 2;
      return call.flip ? weight[(call.kh - 1 - i) * call.kw + call.kw - 1 - j] : weight[i * call.kw + j];
    };
    for (int j = 0; j < tap_columns; ++j)
      for (int i = 0; i < kh; ++i) {
        E& tap = to[(j * kh + i) * each];
        if constexpr (std::is_same_v<E, Pair>) {
          int column = j + 1 < tap_columns ? 2 * j : kw - 2;
          tap = pair_of_taps(weight_at(i, column), weight_at(i, column + 1), tap_columns - j);
        } else {
          tap = widened<T>(weight_at(i, j));
        }
      }
  }
  Plane plane(int64_t n, int64_t group, int64_t phase) const {
    if (PerLane)
      return {(n * call.h + phase) * call.w * call.c + group * size, call.dh * call.w * call.c, call.c,
              int(std::min<int64_t>(size, call.c - group * size))};
    return {((n * call.c + group) * call.h + phase) * call.w, call.dh * call.w, 1, 0};
  }

  void run_task(const E* taps, const T* start, int64_t n, int64_t group, int64_t phase, int64_t band,
                int64_t segment) const {
    Plane at = plane(n, group, phase);
    int64_t height = (call.h - phase + call.dh - 1) / call.dh;
    int64_t y = band * band_rows, end = std::min(height, y + band_rows);
    int64_t left = segment * segment_width, width = std::min(call.w - left, segment_width);
    const S* x = static_cast<const S*>(call.x);
    E* buffer = scratch<E>(capacity * pitch);
    int64_t top = std::max<int64_t>(0, y - kh / 2), filled = top;  // the buffer holds rows top to filled

    while (y < end) {
      int64_t remain = end - y;
      int tile_rows = remain > 4 && kh >= 5 ? most_rows : remain > 2 && kh >= 3 ? 4 : 2;
      int64_t first = std::max<int64_t>(0, y - kh / 2), last = std::min(height, y + tile_rows + kh / 2);
      if (last - top > capacity) {
        std::memmove(buffer, buffer + (first - top) * pitch, (filled - first) * pitch * sizeof(E));
        top = first;
      }
      for (; filled < last; ++filled)
        read_row(buffer + (filled - top) * pitch, x, at, filled, left - around / 2, columns, call.w, call.dw);
      Tile<E> tile{.x = buffer,
                   .row = y - kh / 2 - top,
                   .pitch = pitch,
                   .step = (std::is_same_v<E, Pair> ? 2 : 1) * call.dw * each,
                   .last_step = call.dw * each,
                   .first = int(first - (y - kh / 2)),
                   .last = int(last - (y - kh / 2)),
                   .taps = taps,
                   .kh = kh,
                   .kw = tap_columns,
                   .start = start};
      run_row(tile, at, y, left, width, tile_rows, int(std::min<int64_t>(tile_rows, remain)), filled);
      y += tile_rows;
    }
  }

  // How wide the next tile is of so many vectors, and how many such tiles come first. They are of nearly one width: a
  // narrow one at the end has too few sums at a time to keep the processor busy.
  static std::pair<int, int64_t> cut(int64_t vectors) {
    if constexpr (std::is_same_v<E, double>) {
      constexpr int64_t widest = most_vectors == 2 ? 1 : most_vectors;
      return vectors >= widest ? std::pair(int(widest), vectors / widest) : std::pair(1, vectors);
    } else {
      int64_t tiles = ceil_div(vectors, most_vectors), wide = ceil_div(vectors, tiles);
      return {int(wide), vectors - tiles * (wide - 1)};
    }
  }

  // The tiles of one row of tiles, of which `remain` rows are of use, some at a time.
  void run_row(Tile<E>& tile, const Plane& at, int64_t y, int64_t left, int64_t width, int tile_rows, int remain,
               int64_t next) const {
    constexpr int64_t most_tiles = 6;
    alignas(64) T sums[most_rows * most_tiles * most_vectors * size];
    const E* x = tile.x;
    int64_t vectors = ceil_div(width, along), apart = along * at.column;
    tile.soon_row = at.row * int64_t(sizeof(S)), tile.soon_vector = apart * int64_t(sizeof(S));
    for (int64_t j = 0; j < vectors;) {
      auto [wide, tiles] = cut(vectors - j);
      tile.tiles = std::min(tiles, most_tiles);
      int many = int(tile.tiles) * wide;
      int64_t to = at.start + y * at.row + (left + j * along) * at.column;
      tile.x = x + j * size;
      auto bytes = [&](const S* map) { return map ? reinterpret_cast<const char*>(map + to) : nullptr; };
      tile.soon_read = bytes(static_cast<const S*>(call.x) + (next - y) * at.row);
      tile.soon_written = bytes(finish.past ? nullptr : finish.out);
      tile.soon_met[0] = bytes(finish.gate), tile.soon_met[1] = bytes(finish.residual);
      bool whole = PerLane ? at.lanes == size : (j + many) * size <= width;
      if (std::is_same_v<T, S> && finish.none() && whole && remain == tile_rows) {
        tile.out = reinterpret_cast<T*>(finish.out + to);
        tile.out_row = at.row, tile.out_vector = apart, tile.past = finish.past;
        run_tiles<E, PerLane>(tile, tile_rows, wide);
      } else {
        tile.out = sums, tile.out_row = many * size, tile.out_vector = size, tile.past = false;
        run_tiles<E, PerLane>(tile, tile_rows, wide);
        int lanes = PerLane ? at.lanes : size;
        int last = PerLane ? at.lanes : int(std::min<int64_t>(size, width - (j + many - 1) * size));
        for (int i = 0; i < remain; ++i) finish(sums + i * many * size, to + i * at.row, many, apart, lanes, last);
      }
      j += many;
    }
  }

  const DepthwiseConv& call;
  int kh, kw, tap_columns;
  int64_t groups, phases, rows, around;  // around: columns beside a segment that its taps reach
  int64_t segment_width, segments, columns, pitch, bands, band_rows, group_run, capacity;
  Finish<T, S> finish;
};

}  // namespace lightsr
