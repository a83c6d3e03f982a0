// Sums over pixels of products of two buffers' channels, the gradients of filters, as they grow from block to block.
//
// A tile of sums is taken into registers, grows by all the block's pixels and is put back, in float32 for float32; few
// blocks later they are added to others in float64. Rows of a tile are channels of one buffer, vectors those of the
// other, which is turned where pixels lie one behind the other.
//
// Of 52 channels 48 fill vectors. The four that are left do not get a vector each pixel but one every four pixels:
// lane 4 j + i is channel j of pixel i, and the other buffer's four pixels come as a load that repeats them. Such a
// vector's sums are added four by four in the end.
#pragma once

#include "../common/pixel_product.h"

namespace lightsr::gated {

template <class T>
constexpr bool has_quads = Vec<Wide<T>>::size == 16 && !Numbers<T>::pairs;

template <class E, int rows, int vectors>
__attribute__((noinline)) void add_tile(const Product<E>& product, int64_t row, int64_t column, Sum<E>* to,
                                        int64_t step) {
  using S = Sum<E>;
  constexpr int size = Vec<S>::size;
  Vec<S> sums[rows][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[r][v] = Vec<S>::load(to + r * step + v * size);
  }
  const E* a = product.rows + row * product.row;
  const E* b = product.columns + column;
  const int64_t next = product.row;
  for (int64_t k = product.depth; k > 0; --k, a += product.row_step, b += product.column_step) {
    Vec<E> values[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) values[v] = Vec<E>::load(b + v * size).kept();
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const Vec<E> number = Vec<E>::fill(a[r * next]).kept();
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        Vec<S> sum = sums[r][v];  // the array itself would be kept in memory
        add_product(sum, number, values[v]);
        sums[r][v] = sum;
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[r][v].store(to + r * step + v * size);
  }
}

// The same for four pixels at a time: rows(r, k) are four numbers in memory.
template <int rows>
__attribute__((noinline)) void add_quads(const float* a, int64_t next, const float* b, int64_t depth, float* to,
                                         int64_t step) {
#ifdef __AVX512F__
  __m512 sums[rows];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) sums[r] = _mm512_loadu_ps(to + r * step);
  for (int64_t k = 0; k < depth; ++k, a += 4, b += 16) {
    const __m512 values = _mm512_loadu_ps(b);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
      sums[r] = _mm512_fmadd_ps(_mm512_broadcast_f32x4(_mm_loadu_ps(a + r * next)), values, sums[r]);
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) _mm512_storeu_ps(to + r * step, sums[r]);
#endif
}

// The sums [outs, ins] themselves.
template <class T>
struct Sums {
  using S = Wide<T>;
  using E = typename Numbers<T>::Element;
  static constexpr int size = Vec<S>::size;
  bool planes;
  int64_t outs, ins;
  S* data;

  Sums(Arena& arena, bool planes, int64_t outs, int64_t ins)
      : planes(planes), outs(outs), ins(ins), data(arena.take<S>(numbers(planes, outs, ins))) {}

  static int64_t numbers(bool planes, int64_t outs, int64_t ins) {
    return round_up(planes ? outs : ins, 2 * product_rows) * round_up(planes ? ins : outs, size);
  }
  void clear() const { std::fill_n(data, numbers(planes, outs, ins), S(0)); }

  // Where pixels lie one behind the other, rows are the outs and columns the ins; else the other way round.
  int64_t rows() const { return planes ? outs : ins; }
  int64_t columns() const { return planes ? ins : outs; }
  int64_t step() const { return round_up(columns(), size); }
  // The columns in vectors of their own; what is left comes in quads.
  static int64_t whole(bool planes, int64_t columns) {
    const int64_t rest = columns % size;
    return has_quads<T> && planes && rest > 0 && rest <= 4 ? columns - rest : columns;
  }
  void add_to(double* to, int64_t out_step, int64_t in_step) const {
    const int64_t full = whole(planes, columns()), step_down = planes ? out_step : in_step,
                  step_along = planes ? in_step : out_step;
    for (int64_t row = 0; row < rows(); ++row) {
      const S* from = data + row * step();
      double* at = to + row * step_down;
      if (step_along == 1) {
        for (int64_t column = 0; column < full; ++column) at[column] += from[column];
      } else {
        for (int64_t column = 0; column < full; ++column) at[column * step_along] += from[column];
      }
      from += full;
      for (int64_t column = full; column < columns(); ++column, from += 4)
        at[column * step_along] += (double(from[0]) + from[1]) + (double(from[2]) + from[3]);
    }
  }
};

// The buffer of `ins` channels, turned where that is needed: once for all products with it.
template <class T>
class Turned {
  using S = Wide<T>;
  using E = typename Numbers<T>::Element;
  static constexpr int size = Vec<S>::size;

 public:
  Turned(Arena& arena, bool planes, int64_t ins, int64_t pixels)
      : ins_(ins),
        step_(round_up(ins, size)),
        whole_(Sums<T>::whole(planes, ins)),
        data_(arena.take<E>(planes ? round_up(depth_of<T>(pixels), size) * step_ : 0)),
        quads_(arena.take<S>(planes && whole_ < ins ? round_up(pixels, 4) * 4 : 0)) {}

  void fill(const Block& block, const Operand<T>& operand) const {
    if (!block.planes) return;
    const Rows<const E> from = operand.along(ins_, block.count);
    const int64_t depth = depth_of<T>(block.count);
    for (int64_t c = 0; c < whole_; c += size)
      transpose_rows<E>({from.at(c, 0), from.step}, std::min<int64_t>(size, ins_ - c), depth, {data_ + c, step_});
    if (whole_ == ins_) return;
    const auto numbers = operand.numbers;
    for (int64_t p = 0; p < block.count; p += 4) {
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t c = whole_ + i / 4, pixel = p + i % 4;
        quads_[p * 4 + i] = c < ins_ && pixel < block.count ? wide_number<S>(*numbers.at(c, pixel)) : S(0);
      }
    }
  }

  // Adds the products of the channels of `left` with those of `right`, which this was filled from.
  void add(const Block& block, const Operand<T>& left, const Operand<T>& right, const Sums<T>& to) const {
    const int64_t depth = depth_of<T>(block.count);
    if (!block.planes) {
      const Rows<const E> a = right.across(block.count, to.ins), b = left.across(block.count, to.outs);
      tiles(Product<E>{a.data, 1, a.step, b.data, b.step, depth}, to.ins, to.outs, to);
      return;
    }
    const Rows<const E> a = left.along(to.outs, block.count);
    if constexpr (has_quads<T>) {
      if (whole_ < ins_) {
        const int64_t end = round_up(block.count, 4);
        for (int64_t row = 0; block.count < end && row < to.outs; ++row)
          std::fill(left.numbers.at(row, block.count), left.numbers.at(row, end), S(0));
        for (int64_t row = 0; row < to.outs; row += 16) {
          S* sums = to.data + row * to.step() + whole_;
          if (to.outs - row > 8) {
            add_quads<16>(a.at(row, 0), a.step, quads_, end / 4, sums, to.step());
          } else {
            add_quads<8>(a.at(row, 0), a.step, quads_, end / 4, sums, to.step());
          }
        }
      }
    }
    tiles(Product<E>{a.data, a.step, 1, data_, step_, depth}, to.outs, whole_, to);
  }

 private:
  static void tiles(const Product<E>& product, int64_t rows, int64_t columns, const Sums<T>& to) {
    constexpr int many = product_rows;
    const int64_t vectors = (columns + size - 1) / size, step = to.step();
    for (int64_t at = 0; at < vectors;) {
      // Four vectors are two and two, and one alone has twice the rows.
      const int64_t left = vectors - at, wide = left == 4 || left == 2 ? 2 : std::min<int64_t>(left, 3);
      for (int64_t row = 0; row < rows;) {
        const int64_t rest = rows - row;
        S* sums = to.data + row * step + at * size;
        const int64_t column = at * size;
        if (wide == 1) {
          if (rest > many) {
            add_tile<E, 2 * many, 1>(product, row, column, sums, step);
            row += 2 * many;
          } else {
            add_tile<E, many, 1>(product, row, column, sums, step);
            row += many;
          }
          continue;
        }
        if (wide == 2) {
          if (rest > many / 2)
            add_tile<E, many, 2>(product, row, column, sums, step);
          else
            add_tile<E, many / 2, 2>(product, row, column, sums, step);
        } else {
          if (rest > many / 2)
            add_tile<E, many, 3>(product, row, column, sums, step);
          else
            add_tile<E, many / 2, 3>(product, row, column, sums, step);
        }
        row += many;
      }
      at += wide;
    }
  }

  int64_t ins_, step_, whole_;
  E* data_;
  S* quads_;
};

}  // namespace lightsr::gated
