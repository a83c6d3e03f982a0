// The inner loop of the convolution: R rows of V vectors of the result, kept in registers.
//
// What the lanes of a vector are is the caller's: neighbouring columns of one channel, whose tap is one number, or
// neighbouring channels of one pixel, which have a tap each (PerLane). Vectors of a row lie one behind the other in the
// buffer, and `step` apart from one column of taps to the next.
//
// A vector of the buffer is loaded once for each column of taps and used for all rows of the result that its row takes
// part in: row r of the buffer is under tap row r - i of result row i. Rows R - 1 to KH - 1 take part in all of them;
// row r before these takes part in the rows up to r and row KH + r in the others, so the two are one step together.
// Several rows share one loop over the columns of taps, since each end of such a loop is a branch predicted wrong.
//
// Where there are registers for a column of taps beside the sums, one loop over these columns does it all, and each tap
// is loaded once: of 68 loads for 112 products 7x7 keeps 47.
#pragma once

#include <type_traits>
#include <utility>

#include "../common/cache.h"
#include "../common/tap_column.h"

namespace lightsr {

// Taps of a row go in pairs 0 and 1, 2 and 3 and so on. The last pair, with left = 1, is of the last two: the tap that
// it shares with the one before has half its value in both. A tap of zero in its place would make NaN of an infinity
// beyond it.
inline BFloat16 halved(BFloat16 value) {
  uint32_t bits = uint32_t(value.bits) << 16;
  float number;
  std::memcpy(&number, &bits, sizeof number);
  number *= 0.5f;
  std::memcpy(&bits, &number, sizeof bits);
  return {uint16_t(bits >> 16)};
}
inline Pair pair_of_taps(BFloat16 first, BFloat16 second, int left) {
  return {left == 1 ? halved(first) : first, left == 2 ? halved(second) : second};
}

template <class T>  // what the buffer and the taps are made of
struct Tile {
  const T* x;         // the buffer, at the first vector under the leftmost tap
  int64_t row;        // of the buffer, above the first row of the result by half the filter; below 0 if not in it
  int64_t pitch;      // from row to row
  int64_t step;       // from one column of taps to the next
  int64_t last_step;  // to the last one; for float and double it is `step` again
  int first, last;    // of the R + KH - 1 rows from there on, those that exist: rows outside the picture do not
  const T* taps;      // [KW][KH], each one number or one vector
  int kh, kw;
  const Sum<T>* start;  // what the sums begin with, the bias: one number or one vector
  Sum<T>* out;
  int64_t out_row, out_vector;  // from row to row, from vector to vector
  bool past;                    // whether `out` goes past the caches (common/cache.h)
  int64_t tiles;                // side by side
  // What will be read and written soon, R rows of V vectors for each tile, and the bytes between these. Fetching it
  // while the sums are busy takes its time off; addresses that nothing stands at do no harm.
  const char *soon_read, *soon_written;  // nothing is asked for to be written where that is null
  const char* soon_met[2];               // read when the sums are done, by what becomes of them; null where not
  int64_t soon_row, soon_vector;
};

template <class T, bool PerLane>
inline Vec<T> tap(const T* at) {
  if constexpr (PerLane) return Vec<T>::load(at);
  return Vec<T>::fill(*at);
}

// The loops over R and V are unrolled as templates: arrays stay out of memory only where every index is a constant.
template <int... I>
using Indices = std::integer_sequence<int, I...>;
template <int count>
constexpr auto upto = std::make_integer_sequence<int, count>{};

template <class T, bool PerLane, int First, int Last, int R, int V, int... v>
[[gnu::always_inline]] inline void add_products(Vec<Sum<T>> (&sums)[R][V], const Vec<T> (&in)[V], const T* taps,
                                                Indices<v...> vectors) {
  if constexpr (First <= Last) {
    Vec<T> factor = tap<T, PerLane>(taps - First * (PerLane ? Vec<T>::size : 1)).kept();
    (add_product(sums[First][v], factor, in[v]), ...);
    add_products<T, PerLane, First + 1, Last>(sums, in, taps, vectors);
  }
}

// Adds one vector row of the buffer under one column of taps to the rows First to Last of the result.
template <class T, bool PerLane, int First, int Last, int R, int V, int... v>
[[gnu::always_inline]] inline void add(Vec<Sum<T>> (&sums)[R][V], const T* x, const T* taps, Indices<v...> vectors) {
  Vec<T> in[V];
  asm("" : "+r"(taps));  // or taps that the next row also uses are kept, and there are no registers left
  ((in[v] = Vec<T>::load(x + v * Vec<T>::size).kept()), ...);
  add_products<T, PerLane, First, Last>(sums, in, taps, vectors);
}

template <class T, bool PerLane, int First, int Last, int R, int V, int... q>
[[gnu::always_inline]] inline void add_each(Vec<Sum<T>> (&sums)[R][V], const T* x, int64_t pitch, const T* taps,
                                            Indices<q...>) {
  constexpr int each = PerLane ? Vec<T>::size : 1;
  (add<T, PerLane, First, Last>(sums, x + q * pitch, taps + q * each, std::make_integer_sequence<int, V>{}), ...);
}

// From this column of taps to the next, with `left` of them left, this one included.
template <class T>
[[gnu::always_inline]] inline int64_t next_step(const Tile<T>& tile, int left) {
  if constexpr (std::is_same_v<T, Pair>)
    return left == 2 ? tile.last_step : tile.step;
  else
    return tile.step;
}

// Rows `row` to `row + Rows - 1`, for rows First to Last of the result.
template <class T, bool PerLane, int Rows, int First, int Last, int R, int V>
[[gnu::always_inline]] inline void add_rows(Vec<Sum<T>> (&sums)[R][V], const Tile<T>& tile, int row) {
  constexpr int each = PerLane ? Vec<T>::size : 1;
  const T* x = tile.x + (tile.row + row) * tile.pitch;
  const T* taps = tile.taps + row * each;
  int64_t pitch = tile.pitch, down = int64_t(tile.kh) * each;
  for (int left = tile.kw; left > 0; x += next_step(tile, left), --left, taps += down)
    add_each<T, PerLane, First, Last>(sums, x, pitch, taps, std::make_integer_sequence<int, Rows>{});
}

// Rows 0 to R - 2 together with rows KH to KH + R - 2, all of which exist.
template <class T, bool PerLane, int Row, int R, int V>
[[gnu::always_inline]] inline void add_both_ends(Vec<Sum<T>> (&sums)[R][V], const T* above, const T* below,
                                                 int64_t pitch, const T* taps, int64_t down) {
  constexpr int each = PerLane ? Vec<T>::size : 1;
  if constexpr (Row < R - 1) {
    std::make_integer_sequence<int, V> vectors;
    add<T, PerLane, 0, Row>(sums, above + Row * pitch, taps + Row * each, vectors);
    add<T, PerLane, Row + 1, R - 1>(sums, below + Row * pitch, taps + down + Row * each, vectors);
    add_both_ends<T, PerLane, Row + 1>(sums, above, below, pitch, taps, down);
  }
}

// Those of the same rows that exist, one by one.
template <class T, bool PerLane, int Row, int R, int V>
[[gnu::always_inline]] inline void add_ends(Vec<Sum<T>> (&sums)[R][V], const Tile<T>& tile) {
  if constexpr (Row < R - 1) {
    if (tile.first <= Row && Row < tile.last) add_rows<T, PerLane, 1, 0, Row>(sums, tile, Row);
    int row = tile.kh + Row;
    if (tile.first <= row && row < tile.last) add_rows<T, PerLane, 1, Row + 1, R - 1>(sums, tile, row);
    add_ends<T, PerLane, Row + 1>(sums, tile);
  }
}

template <class T, int R, int V, int... i>
[[gnu::always_inline]] inline void begin(Vec<T> (&sums)[R][V], Vec<T> start, Indices<i...>) {
  ((sums[i / V][i % V] = start), ...);
}
template <class T, int R, int V, int... i>
[[gnu::always_inline]] inline void finish(const Vec<Sum<T>> (&sums)[R][V], const Tile<T>& tile, Indices<i...>) {
  if (tile.past)
    (sums[i / V][i % V].stream(tile.out + i / V * tile.out_row + i % V * tile.out_vector), ...);
  else
    (sums[i / V][i % V].store(tile.out + i / V * tile.out_row + i % V * tile.out_vector), ...);
}

template <class T, int V, int... i>
[[gnu::always_inline]] inline void fetch(const Tile<T>& tile, Indices<i...>) {
  (__builtin_prefetch(tile.soon_read + i / V * tile.soon_row + i % V * tile.soon_vector, 0, 3), ...);
  if (tile.soon_written)
    (__builtin_prefetch(tile.soon_written + i / V * tile.soon_row + i % V * tile.soon_vector, 1), ...);
  for (const char* met : tile.soon_met)
    if (met) (__builtin_prefetch(met + i / V * tile.soon_row + i % V * tile.soon_vector), ...);
}

// All rows, all of which exist, with the taps of a column in registers.
template <class T, bool PerLane, int R, int V, int... k>
[[gnu::always_inline]] inline void add_columns(Vec<Sum<T>> (&sums)[R][V], const Tile<T>& tile, Indices<k...>) {
  constexpr int each = PerLane ? Vec<T>::size : 1, KH = sizeof...(k);
  const T *x = tile.x + tile.row * tile.pitch, *at = tile.taps;
  for (int left = tile.kw; left > 0; x += next_step(tile, left), --left, at += KH * each) {
    const Vec<T> taps[KH] = {tap<T, PerLane>(at + k * each).kept()...};
    add_tap_column<0>(sums, x, tile.pitch, taps, std::make_integer_sequence<int, V>{});
  }
}

// The same where the filter's height is one of these, each of which is a variant to compile; else false.
template <class T, bool PerLane, int R, int V>
[[gnu::always_inline]] inline bool add_columns(Vec<Sum<T>> (&sums)[R][V], const Tile<T>& tile) {
  if constexpr (level::registers == 32 && R == 4 && V > 1 && !std::is_same_v<T, double>) {
    auto with = [&](auto taps) { return add_columns<T, PerLane>(sums, tile, taps), true; };
    if (tile.kh == 3) return with(std::make_integer_sequence<int, 3>{});
    if (tile.kh == 5) return with(std::make_integer_sequence<int, 5>{});
    if (tile.kh == 7) return with(std::make_integer_sequence<int, 7>{});
    if (tile.kh == 9) return with(std::make_integer_sequence<int, 9>{});
  }
  return false;
}

// All rows, a few of them at a time.
template <class T, bool PerLane, int R, int V>
[[gnu::always_inline]] inline void add_some_rows(Vec<Sum<T>> (&sums)[R][V], const Tile<T>& tile, bool whole) {
  if (whole) {
    int64_t down = int64_t(tile.kh) * (PerLane ? Vec<T>::size : 1);
    const T *above = tile.x + tile.row * tile.pitch, *below = above + tile.kh * tile.pitch, *taps = tile.taps;
    for (int left = tile.kw; left > 0; --left, taps += down) {
      add_both_ends<T, PerLane, 0>(sums, above, below, tile.pitch, taps, down);
      int64_t step = next_step(tile, left);
      above += step, below += step;
    }
  } else {
    add_ends<T, PerLane, 0>(sums, tile);
  }
  int row = tile.first > R - 1 ? tile.first : R - 1, until = tile.last < tile.kh ? tile.last : tile.kh;
  for (; row + 4 <= until; row += 4) add_rows<T, PerLane, 4, 0, R - 1>(sums, tile, row);
  if (row + 2 <= until) {
    add_rows<T, PerLane, 2, 0, R - 1>(sums, tile, row);
    row += 2;
  }
  if (row < until) add_rows<T, PerLane, 1, 0, R - 1>(sums, tile, row);
}

// R is even and at most KH + 1.
template <class T, bool PerLane, int R, int V>
void run_tiles(Tile<T> tile) {
  std::make_integer_sequence<int, R * V> all;
  bool whole = tile.first == 0 && tile.last == tile.kh + R - 1;
  for (; tile.tiles > 0; --tile.tiles) {
    fetch<T, V>(tile, all);
    Vec<Sum<T>> sums[R][V];
    begin<Sum<T>, R, V>(sums, tap<Sum<T>, PerLane>(tile.start), all);
    if (!(whole && add_columns<T, PerLane>(sums, tile))) add_some_rows<T, PerLane>(sums, tile, whole);
    finish<T, R, V>(sums, tile, all);

    tile.x += V * Vec<T>::size;
    tile.out += V * tile.out_vector;
    tile.soon_read += V * tile.soon_vector;
    if (tile.soon_written) tile.soon_written += V * tile.soon_vector;
    for (const char*& met : tile.soon_met)
      if (met) met += V * tile.soon_vector;
  }
}

}  // namespace lightsr
