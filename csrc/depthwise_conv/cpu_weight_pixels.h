// The gradient of 3 x 3 filters on the CPU for bfloat16 pictures [N, H, W, C], by the instructions for pairs.
//
// Of two neighbouring pixels of the gradient and the two pixels of x that a tap brings to them, 16 channels are in a
// vector as pairs (cpu_pixel_tile.h), and one instruction adds both products. The sums of all nine taps and of the bias
// stay in registers along a row. What is outside the picture is left out, not multiplied with: a product with it need
// not be 0.
//
// A part is some rows of the pictures, taken in pieces with all channels of a piece in turn. Sums over a few pieces
// are taken in float32, these in float64, and the parts' are added in order: all by the sizes alone.
#pragma once

#include <vector>

#include "../common/parallel.h"
#include "../common/round.h"
#include "arguments.h"
#include "cpu_pixel_tile.h"

namespace lightsr {

#ifdef __AVX512BF16__
class PixelWeights {
 public:
  static bool takes(const DepthwiseConvWeight& call) {
    return call.type == Type::bfloat16 && call.channels_last && call.kh == 3 && call.kw == 3 && call.c >= lanes;
  }

  explicit PixelWeights(const DepthwiseConvWeight& call)
      : call(call),
        groups(ceil_div(call.c, lanes)),
        rows(call.n * call.h),
        parts(std::clamp<int64_t>(rows * call.w / part_pixels, 1, most_parts)),
        row(call.w * call.c),
        dh(std::min(call.dh, call.h)),
        dw(std::min(call.dw, call.w)) {}

  void run() const {
    const int64_t numbers = groups * all;
    std::vector<double> sums(parts * numbers);
    run_tasks(parts, [&](int64_t part) {
      run_part(rows * part / parts, rows * (part + 1) / parts, sums.data() + part * numbers);
    });
    for (int64_t part = 1; part < parts; ++part)
      for (int64_t i = 0; i < numbers; ++i) sums[i] += sums[part * numbers + i];
    for (int64_t group = 0; group < groups; ++group) write(sums.data() + group * all, channel(group));
  }

 private:
  static constexpr int taps = 9, lanes = Paired::lanes, size = 16, all = (taps + 1) * lanes;  // the bias comes last
  static constexpr int64_t part_pixels = 1024, most_parts = 64, piece = 64, most_sums = 2048;

  using V = Vec<float>;
  int64_t channel(int64_t group) const { return std::min<int64_t>(group * lanes, call.c - lanes); }

  void run_part(int64_t begin, int64_t end, double* to) const {
    float* sums = scratch<float>(groups * all);
    std::fill_n(sums, groups * all, 0.0f);
    int64_t added = 0;
    for (int64_t y = begin; y < end; ++y) {
      for (int64_t left = 0; left < call.w; left += piece) {
        for (int64_t group = 0; group < groups; ++group)
          run_piece(y, left, std::min(left + piece, call.w), channel(group), sums + group * all);
        added += piece;
        const bool last = y + 1 == end && left + piece >= call.w;
        if (added < most_sums && !last) continue;
        for (int64_t i = 0; i < groups * all; ++i) to[i] += sums[i], sums[i] = 0;
        added = 0;
      }
    }
  }

  void run_piece(int64_t y, int64_t left, int64_t right, int64_t c, float* sums) const {
    const bool above = y % call.h >= dh, below = y % call.h + dh < call.h;
    const Piece at{static_cast<const BFloat16*>(call.grad) + y * row + c,
                   static_cast<const BFloat16*>(call.x) + y * row + c, left, right};
    if (above && below)
      run_rows<0, 2>(at, sums);
    else if (above)
      run_rows<0, 1>(at, sums);
    else if (below)
      run_rows<1, 2>(at, sums);
    else
      run_rows<1, 1>(at, sums);
  }

  struct Piece {
    const BFloat16 *grad, *x;  // some channels of the row's first pixel
    int64_t left, right;
  };

  // Channels of two pixels, or of one beside zeros.
  static PixelPair pair_of(const BFloat16* first, const BFloat16* second) {
    return {_mm512_loadu_si512(first), _mm512_loadu_si512(second)};
  }
  static PixelPair pair_of(const BFloat16* first) { return {_mm512_loadu_si512(first), _mm512_setzero_si512()}; }
  static Vec<Pair> ones() { return {_mm512_set1_epi32(0x3f803f80)}; }

  // Taps of these rows. Where a tap brings no pixel to one of the gradient, pixels are taken one at a time, and the
  // sums in memory.
  template <int First, int Last>
  void run_rows(const Piece& piece, float* sums) const {
    const int64_t begin = std::clamp(dw, piece.left, piece.right);
    const int64_t end = std::clamp(call.w - dw, begin, piece.right), pairs = (end - begin) / 2;
    for (int64_t p = piece.left; p < begin; ++p) add_pixel<First, Last>(piece, p, sums);
    add_pairs<First, Last>(piece, begin, pairs, sums, upto<3 * (Last - First + 1)>, upto<2 * taps + 2>);
    for (int64_t p = begin + 2 * pairs; p < piece.right; ++p) add_pixel<First, Last>(piece, p, sums);
  }

  template <int First, int Last, int... k, int... s>
  [[gnu::noinline]] void add_pairs(const Piece& piece, int64_t p, int64_t pairs, float* to, Indices<k...>,
                                   Indices<s...>) const {
    V sums[sizeof...(s)] = {V::load(to + s * size)...};
    const int64_t apart = call.c, next = (dh + 1) * row;
    const int64_t steps[] = {((First + k / 3 - 1) * dh * row + (k % 3 - 1) * dw * call.c)...};
    const BFloat16 *grad = piece.grad + p * apart, *x = piece.x + p * apart;
    for (; pairs > 0; --pairs, grad += 2 * apart, x += 2 * apart) {
      for (int64_t ahead : {int64_t(0), apart}) {  // what the next row needs
        __builtin_prefetch(grad + row + ahead);
        __builtin_prefetch(x + next + ahead);
      }
      const PixelPair g = pair_of(grad, grad + apart);
      add_product(sums[2 * taps], g.half[0], ones());
      add_product(sums[2 * taps + 1], g.half[1], ones());
      (add_tap(sums[6 * First + 2 * k], sums[6 * First + 2 * k + 1], g, x + steps[k], apart), ...);
    }
    (sums[s].store(to + s * size), ...);
  }
  [[gnu::always_inline]] static void add_tap(V& low, V& high, const PixelPair& g, const BFloat16* x, int64_t apart) {
    const PixelPair brought = pair_of(x, x + apart);
    add_product(low, g.half[0], brought.half[0]);
    add_product(high, g.half[1], brought.half[1]);
  }

  template <int First, int Last>
  void add_pixel(const Piece& piece, int64_t p, float* to) const {
    const BFloat16 *grad = piece.grad + p * call.c, *x = piece.x + p * call.c;
    const PixelPair g = pair_of(grad);
    const auto add = [&](int tap, const Vec<Pair>(&with)[2]) {
      for (int h = 0; h < 2; ++h) {
        V sum = V::load(to + (2 * tap + h) * size);
        add_product(sum, g.half[h], with[h]);
        sum.store(to + (2 * tap + h) * size);
      }
    };
    add(taps, {ones(), ones()});
    for (int i = First; i <= Last; ++i) {
      for (int j = 0; j < 3; ++j) {
        const int64_t right = (j - 1) * dw;
        if (p + right >= 0 && p + right < call.w) add(3 * i + j, pair_of(x + (i - 1) * dh * row + right * call.c).half);
      }
    }
  }

  void write(const double* sums, int64_t c) const {
    for (int lane = 0; lane < lanes; ++lane) {
      const int64_t at = c + PixelPair::channel(lane);
      for (int tap = 0; tap <= taps; ++tap) {
        auto* to = static_cast<BFloat16*>(tap < taps ? call.grad_weight : call.grad_bias);
        if (to) V::fill(float(sums[tap * lanes + lane])).store(to + (tap < taps ? at * taps + tap : at), 1);
      }
    }
  }

  const DepthwiseConvWeight& call;
  const int64_t groups, rows, parts, row, dh, dw;  // a dilation beyond the picture is like one as large as it
};
#endif

}  // namespace lightsr
