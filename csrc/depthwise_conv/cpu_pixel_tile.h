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
  static constexpr int channel(int lane) { return lane; }

  Vec<T> vector;

  void first(const S*) {}
  void next(const S* pixel, const S*) { vector = Vec<T>::load(pixel).kept(); }
  Vec<T> half(int) const { return vector; }

  template <class Out>
  static void store(const Vec<T> (&sums)[1], Out* to) {
    sums[0].store(to);
  }
  static void stream(const Vec<T> (&sums)[1], S* to) { sums[0].stream(to); }
};

#ifdef __AVX512BF16__
// A cache line of channels of a pixel in pairs with those of another one. Of each eight channels the first four are in
// one vector and the others in the other, as the quickest instructions have them.
struct PixelPair {
  Vec<Pair> half[2];
  PixelPair() = default;
  PixelPair(__m512i first, __m512i second)
      : half{{_mm512_unpacklo_epi16(first, second)}, {_mm512_unpackhi_epi16(first, second)}} {}
  static constexpr int channel(int lane) { return lane % 16 / 4 * 8 + lane / 16 * 4 + lane % 4; }
};

// A pixel in pairs with the one to its right.
struct Paired {
  using Sum = float;
  using Tap = Pair;
  using Value = BFloat16;
  static constexpr int halves = 2, lanes = 32, pixels = 2;
  static constexpr int columns(int kw) { return (kw + 1) / 2; }
  static constexpr int column(int kw, int j) { return std::min(2 * j, kw - 2); }
  static constexpr int channel(int lane) { return PixelPair::channel(lane); }

  __m512i line;
  PixelPair pair;

  void first(const BFloat16* pixel) { line = _mm512_loadu_si512(pixel); }
  void next(const BFloat16*, const BFloat16* pixel) {
    __m512i right = _mm512_loadu_si512(pixel);
    asm("" : "+v"(right));  // or it is loaded again for each use
    pair = {line, right};
    line = right;
  }
  Vec<Pair> half(int h) const { return pair.half[h]; }

  static void store(const Vec<float> (&sums)[2], float* to) {
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i last = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    _mm512_storeu_ps(to, _mm512_permutex2var_ps(sums[0].v, first, sums[1].v));
    _mm512_storeu_ps(to + 16, _mm512_permutex2var_ps(sums[0].v, last, sums[1].v));
  }
  static void store(const Vec<float> (&sums)[2], BFloat16* to) { _mm512_storeu_si512(to, narrow(sums)); }
  static void stream(const Vec<float> (&sums)[2], BFloat16* to) {
    if (reinterpret_cast<uintptr_t>(to) % 64 == 0)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to), narrow(sums));
    else
      store(sums, to);
  }

 private:
  static __m512i narrow(const Vec<float> (&sums)[2]) {
    const __m512i numbers = (__m512i)_mm512_cvtne2ps_pbh(sums[1].v, sums[0].v);
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), numbers);
  }
};
#endif

template <class Lines>
struct PixelTiles {
  const typename Lines::Value* x;  // the pixel under the first tap of the first row and column of the result
  int64_t row, column;             // of x
  int first, last;   // of the KH + 1 rows from there on, those that exist: those outside the picture do not
  int kh, tiles;     // tiles side by side
  uint32_t outside;  // bit p: column p from x on is outside the picture; of one tile alone
  const typename Lines::Value* zeros;  // what such a column has
  const typename Lines::Tap* taps;     // [KH, columns, halves] vectors
  const typename Lines::Sum* start;    // [halves] vectors: what the sums begin with, the bias
  int64_t out_row, out_column;
  bool past;                          // whether results go past the caches (common/cache.h)
  const typename Lines::Value* soon;  // what will be read soon, R rows of V pixels a tile, or null
};

template <class Lines, int KW, int V>
class PixelSums {
 public:
  static constexpr int R = 2;

 private:
  using T = typename Lines::Sum;
  using Tap = typename Lines::Tap;
  using Value = typename Lines::Value;
  static constexpr int size = Vec<T>::size, halves = Lines::halves, columns = Lines::columns(KW);
  using All = Vec<T>[R][V][halves];
  using Factors = Vec<Tap>[R][columns][halves];

 public:
  // Square filters have loops of their own, a known number of rows of taps long.
  template <class Out>
  static void run(const PixelTiles<Lines>& tile, Out* out) {
    if (tile.outside)
      run_rows<0, AtEnd>(tile, out);
    else
      tile.kh == KW ? run_rows<KW, Inside>(tile, out) : run_rows<0, Inside>(tile, out);
  }

 private:
  // The pixels of a row, from a tile's first column on.
  struct Inside {
    const Value* x;
    int64_t apart;
    Inside(const PixelTiles<Lines>& tile, const Value* x) : x(x), apart(tile.column) {}
    const Value* at(int p) const { return x + p * apart; }
  };
  struct AtEnd {
    const Value *x, *zeros;
    int64_t apart;
    uint32_t outside;
    AtEnd(const PixelTiles<Lines>& tile, const Value* x)
        : x(x), zeros(tile.zeros), apart(tile.column), outside(tile.outside) {}
    const Value* at(int p) const { return outside >> p & 1 ? zeros : x + p * apart; }
  };

  template <int KH, class Row, class Out>
  [[gnu::noinline]] static void run_rows(PixelTiles<Lines> tile, Out* out) {
    int64_t down = columns * halves * size;
    for (int until = std::min(tile.last, KH ? KH : tile.kh); tile.tiles > 0; --tile.tiles) {
      if (tile.soon) fetch<0>(tile.soon, tile.row, tile.column, upto<R * V>);
      if (!tile.past) fetch<1>(out, tile.out_row, tile.out_column, upto<R * V>);
      All sums;
      begin(sums, tile.start, upto<R * V * halves>);
      int row = tile.first;
      const Value* x = tile.x + row * tile.row;
      const Tap* taps = tile.taps + row * down;
      if (row == 0) {
        add<0, 0>(sums, Row(tile, x), taps);
        ++row, x += tile.row, taps += down;
      }
      for (; row < until; ++row, x += tile.row, taps += down) add<0, 1>(sums, Row(tile, x), taps);
      if (row < tile.last) add<1, 1>(sums, Row(tile, x), taps);
      finish(sums, out, tile, upto<R * V>);
      tile.x += V * tile.column;
      if (tile.soon) tile.soon += V * tile.column;
      out += V * tile.out_column;
    }
  }

  template <int... k>
  [[gnu::always_inline]] static void begin(All& sums, const T* start, Indices<k...>) {
    ((sums[k / halves / V][k / halves % V][k % halves] = Vec<T>::load(start + k % halves * size)), ...);
  }
  template <class Out, int... k>
  [[gnu::always_inline]] static void finish(const All& sums, Out* out, const PixelTiles<Lines>& tile, Indices<k...>) {
    const int64_t row = tile.out_row, column = tile.out_column;
    const auto place = [=](int i) { return out + i / V * row + i % V * column; };
    if constexpr (std::is_same_v<Out, Value>) {
      if (tile.past) {
        (Lines::stream(sums[k / V][k % V], place(k)), ...);
        return;
      }
    }
    (Lines::store(sums[k / V][k % V], place(k)), ...);
  }
  template <int written, class Place, int... k>
  [[gnu::always_inline]] static void fetch(const Place* at, int64_t row, int64_t column, Indices<k...>) {
    (__builtin_prefetch(at + k / V * row + k % V * column, written, written ? 3 : 2), ...);
  }

  // Adds a row of the picture to rows First to Last of the result; `taps` are those of row 0 of the result.
  template <int First, int Last, class Row>
  [[gnu::always_inline]] static void add(All& sums, const Row& pixels, const Tap* taps) {
    Factors factors;
    load<First>(factors, taps, upto<(Last - First + 1) * columns * halves>);
    Lines lines;
    lines.first(pixels.at(0));
    add_pixels<First, Last>(sums, factors, lines, pixels, upto<V + KW - Lines::pixels>);
  }
  template <int First, int... k>
  [[gnu::always_inline]] static void load(Factors& factors, const Tap* taps, Indices<k...>) {
    constexpr int each = columns * halves;
    ((factors[First + k / each][k / halves % columns][k % halves] =
          Vec<Tap>::load(taps + (k % each - (First + k / each) * each) * size)),
     ...);
  }
  template <int First, int Last, class Row, int... p>
  [[gnu::always_inline]] static void add_pixels(All& sums, const Factors& factors, Lines& lines, const Row& pixels,
                                                Indices<p...>) {
    ((lines.next(pixels.at(p), pixels.at(p + 1)),
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
