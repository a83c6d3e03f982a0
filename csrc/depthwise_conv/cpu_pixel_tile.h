// The inner loop of the convolution with a small filter where lanes are channels: R rows of V pixels of the result,
// kept in registers.
//
// A pixel of the picture is loaded once for each of the rows of taps that it is under, and used for all columns of taps
// and all R rows: row r of the picture is under tap row r - i of result row i. The taps of a row stay in registers too.
#pragma once

#include <algorithm>

#include "cpu_tile.h"

namespace lightsr {

// One vector of channels of a pixel, widened.
template <class T, class S>
struct Plain {
  using Sum = T;
  using Tap = T;
  using Value = S;
  static constexpr int halves = 1, lanes = Vec<T>::size, pixels = 1;  // pixels that are one factor together
  static constexpr int columns(int kw) { return kw; }
  static constexpr int column(int, int j) { return j; }

  Vec<T> vector;

  void first(const S*) {}
  void next(const S* pixel, int64_t) { vector = Vec<T>::load(pixel).kept(); }
  Vec<T> half(int) const { return vector; }
};

#ifdef __AVX512BF16__
// A cache line of channels of a pixel in pairs with those of the pixel to its right, 16 channels a vector.
struct Paired {
  using Sum = float;
  using Tap = Pair;
  using Value = BFloat16;
  static constexpr int halves = 2, lanes = 32, pixels = 2;
  static constexpr int columns(int kw) { return (kw + 1) / 2; }
  static constexpr int column(int kw, int j) { return std::min(2 * j, kw - 2); }

  __m512i line;
  Vec<Pair> vectors[2];

  void first(const BFloat16* pixel) { line = _mm512_loadu_si512(pixel); }
  void next(const BFloat16* pixel, int64_t apart) {
    __m512i right = _mm512_loadu_si512(pixel + apart);
    vectors[0].v = _mm512_permutex2var_epi16(line, level::by_turns(0), right);
    vectors[1].v = _mm512_permutex2var_epi16(line, level::by_turns(16), right);
    line = right;
  }
  Vec<Pair> half(int h) const { return vectors[h]; }
};
#endif

template <class Lines>
struct PixelTiles {
  const typename Lines::Value* x;  // the pixel under the first tap of the first row and column of the result
  int64_t row, column;             // of x
  int first, last;  // of the KH + 1 rows from there on, those that exist: those outside the picture do not
  int kh, tiles;    // tiles side by side
  const typename Lines::Tap* taps;   // [KH, columns, halves] vectors
  const typename Lines::Sum* start;  // [halves] vectors: what the sums begin with, the bias
  int64_t out_row, out_column;
  bool past;                          // whether results go past the caches (common/cache.h)
  const typename Lines::Value* soon;  // what will be read soon, R rows of V pixels a tile, or null
};

template <class Lines, int KW, int V>
class PixelSums {
 public:
  static constexpr int R = 2;

  template <class Out>
  [[gnu::noinline]] static void run(PixelTiles<Lines> tile, Out* out) {
    int64_t down = columns * halves * size;
    for (int until = std::min(tile.last, tile.kh); tile.tiles > 0; --tile.tiles) {
      if (tile.soon) fetch<0>(tile.soon, tile.row, tile.column, upto<R * V>);
      if (!tile.past) fetch<1>(out, tile.out_row, tile.out_column, upto<R * V>);
      All sums;
      begin(sums, tile.start, upto<R * V * halves>);
      int row = tile.first;
      const Value* x = tile.x + row * tile.row;
      const Tap* taps = tile.taps + row * down;
      if (row == 0) {
        add<0, 0>(sums, x, tile.column, taps);
        ++row, x += tile.row, taps += down;
      }
      for (; row < until; ++row, x += tile.row, taps += down) add<0, 1>(sums, x, tile.column, taps);
      if (row < tile.last) add<1, 1>(sums, x, tile.column, taps);
      finish(sums, out, tile.out_row, tile.out_column, tile.past, upto<R * V * halves>);
      tile.x += V * tile.column;
      if (tile.soon) tile.soon += V * tile.column;
      out += V * tile.out_column;
    }
  }

 private:
  using T = typename Lines::Sum;
  using Tap = typename Lines::Tap;
  using Value = typename Lines::Value;
  static constexpr int size = Vec<T>::size, halves = Lines::halves, columns = Lines::columns(KW);
  using All = Vec<T>[R][V][halves];
  using Factors = Vec<Tap>[R][columns][halves];

  // Loops are unrolled as templates: arrays stay out of memory only where every index is a constant.
  template <int count>
  static constexpr auto upto = std::make_integer_sequence<int, count>{};

  template <int... k>
  [[gnu::always_inline]] static void begin(All& sums, const T* start, Indices<k...>) {
    ((sums[k / halves / V][k / halves % V][k % halves] = Vec<T>::load(start + k % halves * size)), ...);
  }
  template <class Out, int... k>
  [[gnu::always_inline]] static void finish(const All& sums, Out* out, int64_t row, int64_t column, bool past,
                                            Indices<k...>) {
    const auto place = [=](int i) { return out + i / halves / V * row + i / halves % V * column + i % halves * size; };
    if (past)
      (sums[k / halves / V][k / halves % V][k % halves].stream(place(k)), ...);
    else
      (sums[k / halves / V][k / halves % V][k % halves].store(place(k)), ...);
  }
  template <int written, class Place, int... k>
  [[gnu::always_inline]] static void fetch(const Place* at, int64_t row, int64_t column, Indices<k...>) {
    (__builtin_prefetch(at + k / V * row + k % V * column, written, written ? 3 : 2), ...);
  }

  // Adds a row of the picture to rows First to Last of the result; `taps` are those of row 0 of the result.
  template <int First, int Last>
  [[gnu::always_inline]] static void add(All& sums, const Value* x, int64_t apart, const Tap* taps) {
    Factors factors;
    load<First>(factors, taps, upto<(Last - First + 1) * columns * halves>);
    Lines lines;
    lines.first(x);
    add_pixels<First, Last>(sums, factors, lines, x, apart, upto<V + KW - Lines::pixels>);
  }
  template <int First, int... k>
  [[gnu::always_inline]] static void load(Factors& factors, const Tap* taps, Indices<k...>) {
    constexpr int each = columns * halves;
    ((factors[First + k / each][k / halves % columns][k % halves] =
          Vec<Tap>::load(taps + (k % each - (First + k / each) * each) * size)),
     ...);
  }
  template <int First, int Last, int... p>
  [[gnu::always_inline]] static void add_pixels(All& sums, const Factors& factors, Lines& lines, const Value* x,
                                                int64_t apart, Indices<p...>) {
    ((lines.next(x + p * apart, apart),
      add_pixel<First, Last, p>(sums, factors, lines, upto<columns*(Last - First + 1) * halves>)),
     ...);
  }
  template <int First, int Last, int p, int... k>
  [[gnu::always_inline]] static void add_pixel(All& sums, const Factors& factors, const Lines& lines, Indices<k...>) {
    constexpr int rows = Last - First + 1;
    (add_one<First + k / halves % rows, p, k / halves / rows, k % halves>(sums, factors, lines), ...);
  }
  template <int i, int p, int j, int h>
  [[gnu::always_inline]] static void add_one(All& sums, const Factors& factors, const Lines& lines) {
    constexpr int v = p - Lines::column(KW, j);
    if constexpr (v >= 0 && v < V) add_product(sums[i][v][h], factors[i][j][h], lines.half(h));
  }
};

}  // namespace lightsr
