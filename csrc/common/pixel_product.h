// A matrix times every pixel of a block, and sums over the block's pixels of products of two buffers.
//
// Both are products of common/product.h. Of the second, the gradient of a matrix, the depth is the pixels: its sums lie
// as the matrix does, with the second buffer's channels in vectors. Where pixels lie one behind the other that buffer
// is transposed on the way, as many channels as a tile is wide and some pixels at a time, in the L1 cache. Sums of so
// many pixels are added to others in float64.
//
// Pairs of bfloat16 stand along the depth: neighbours in memory on one side, on the other two rows are interleaved.
#pragma once

#include "pixels.h"
#include "shuffle.h"

namespace lightsr {

#ifdef __AVX512BF16__
// Numbers of two neighbouring rows become pairs; the row after the last is zeros.
inline void interleave(Rows<const BFloat16> from, int64_t rows, int64_t columns, Rows<Pair> to) {
  for (int64_t row = 0; row < rows; row += 2) {
    for (int64_t column = 0; column < columns; column += 16) {
      const __m256i first = level::load16(from.at(row, column));
      const __m256i second = row + 1 < rows ? level::load16(from.at(row + 1, column)) : _mm256_setzero_si256();
      const Vec<Pair> pairs{level::pair(first, second)};
      std::memcpy(to.at(row / 2, column), &pairs.v, sizeof pairs.v);
    }
  }
}
#endif

// The factors of a product or of sums over pixels, with the memory that pairs need.
template <class T>
struct Operand {
  using F = typename Numbers<T>::Factor;
  using E = typename Numbers<T>::Element;
  bool planes;
  Rows<F> numbers;
  Rows<E> mixed{};

  Operand(Arena& arena, bool planes, int64_t channels, int64_t pixels)
      : planes(planes), numbers(buffer<F>(arena, planes, channels, pixels)) {
    if constexpr (Numbers<T>::pairs) {
      mixed = planes ? buffer<E>(arena, true, (channels + 1) / 2, pixels)
                     : buffer<E>(arena, false, channels, (pixels + 1) / 2);
    }
  }

  // Rows and columns as in memory, as elements along a row: for pairs, two columns each.
  Rows<const E> along(int64_t rows, int64_t columns) const {
    if constexpr (Numbers<T>::pairs) {
      if (columns % 2) {
        for (int64_t row = 0; row < rows; ++row) *numbers.at(row, columns) = BFloat16{0};
      }
      return {reinterpret_cast<const Pair*>(numbers.data), numbers.step / 2};
    } else {
      return {numbers.data, numbers.step};
    }
  }
  // As elements across rows: for pairs, two rows each.
  Rows<const E> across(int64_t rows, int64_t columns) const {
    if constexpr (Numbers<T>::pairs) {
      interleave({numbers.data, numbers.step}, rows, columns, mixed);
      return {mixed.data, mixed.step};
    } else {
      return {numbers.data, numbers.step};
    }
  }
};

// How many elements hold so many numbers along the depth.
template <class T>
constexpr int64_t depth_of(int64_t numbers) {
  return Numbers<T>::pairs ? (numbers + 1) / 2 : numbers;
}

// A small matrix [outs, ins] as a product with blocks reads it, filled up with zeros to whole tiles.
template <class T>
class Matrix {
  using F = typename Numbers<T>::Factor;
  using E = typename Numbers<T>::Element;

 public:
  // Number (out, in) stands at from[out * out_step + in * in_step].
  Matrix(bool planes, const T* from, int64_t outs, int64_t ins, int64_t out_step, int64_t in_step)
      : planes_(planes),
        depth_(depth_of<T>(ins)),
        step_(planes ? depth_ : round_up(outs, Vec<Sum<E>>::size)),
        numbers_(planes ? round_up(outs, product_rows) * step_ : depth_ * step_) {
    constexpr int64_t each = Numbers<T>::pairs ? 2 : 1;
    F* to = reinterpret_cast<F*>(numbers_.data());
    std::fill_n(to, each * (planes ? round_up(outs, product_rows) * step_ : depth_ * step_), F{});
    for (int64_t out = 0; from && out < outs; ++out) {
      for (int64_t in = 0; in < ins; ++in) {
        const T number = from[out * out_step + in * in_step];
        F& place = to[planes ? out * each * step_ + in : (in / each * step_ + out) * each + in % each];
        if constexpr (std::is_same_v<F, T>) {
          place = number;
        } else {
          place = wide_number<F>(number);
        }
      }
    }
  }

  // Calls each(sums, row, column, part...) with the matrix times a block's pixels, `ins` channels of them.
  template <class Each>
  void multiply(const Block& block, const Operand<T>& pixels, int64_t outs, int64_t ins, const Each& each,
                Ahead* ahead = nullptr) const {
    const int64_t rows = block.rows(ins), columns = block.columns(ins);
    const Rows<const E> in = planes_ ? pixels.across(rows, columns) : pixels.along(rows, columns);
    const Product<E> product = planes_ ? Product<E>{numbers_.data(), step_, 1, in.data, in.step, depth_}
                                       : Product<E>{in.data, in.step, 1, numbers_.data(), step_, depth_};
    lightsr::multiply(product, block.rows(outs), block.columns(outs), each, ahead);
  }

 private:
  bool planes_;
  int64_t depth_, step_;
  Aligned<E> numbers_;
};

// Lane i of the result is the sum of all lanes of sums[i].
template <class S>
Vec<S> sum_each(Vec<S> (&sums)[Vec<S>::size]) {
#pragma GCC unroll 4
  for (int half = Vec<S>::size / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
      sums[i] = shuffled<ByTurns<false>>(sums[i], sums[i + half]) + shuffled<ByTurns<true>>(sums[i], sums[i + half]);
    }
  }
  return sums[0];
}

// to(c, r) = from(r, c), for up to a vector's rows, the missing ones zero, and so many columns rounded up to a
// vector's.
template <class E>
void transpose_rows(Rows<const E> from, int64_t rows, int64_t columns, Rows<E> to) {
  using S = Sum<E>;
  static_assert(sizeof(E) == sizeof(S));
  constexpr int size = Vec<S>::size;
  for (int64_t column = 0; column < columns; column += size) {
    Vec<S> lines[size];
#pragma GCC unroll 16
    for (int r = 0; r < size; ++r) {
      lines[r] = Vec<S>::fill(0);
      if (r < rows) std::memcpy(&lines[r].v, from.at(r, column), sizeof lines[r].v);
    }
    transpose(lines);
#pragma GCC unroll 16
    for (int r = 0; r < size; ++r) std::memcpy(to.at(column + r, 0), &lines[r].v, sizeof lines[r].v);
  }
}

// to[i, j] += sum over the block's pixels of a[i] b[j].
template <class T>
void add_products(const Block& block, const Operand<T>& a, int64_t outs, const Operand<T>& b, int64_t ins, double* to) {
  using E = typename Numbers<T>::Element;
  using S = Sum<E>;
  constexpr int size = Vec<S>::size;
  const int64_t depth = depth_of<T>(block.count);
  const auto add = [=](double* to, int64_t ins) {
    return [=](Vec<S> sums, int64_t row, int64_t column, auto... part) {
      S lanes[size];
      sums.store(lanes);
      double* at = to + row * ins + column;
      if constexpr (sizeof...(part) == 0) {
        for (int i = 0; i < size; ++i) at[i] += lanes[i];
      } else {
        for (int i = 0; i < (part, ...); ++i) at[i] += lanes[i];
      }
    };
  };
  if (!block.planes) {
    const Rows<const E> left = a.across(block.count, outs), right = b.across(block.count, ins);
    multiply(Product<E>{left.data, 1, left.step, right.data, right.step, depth}, outs, ins, add(to, ins));
    return;
  }
  constexpr int64_t wide = product_vectors * size, deep = 128;
  alignas(64) E turned[deep * wide];
  const Rows<const E> left = a.along(outs, block.count), right = b.along(ins, block.count);
  for (int64_t k = 0; k < depth; k += deep) {
    const int64_t some = std::min(deep, depth - k);
    for (int64_t j = 0; j < ins; j += wide) {
      const int64_t many = std::min(wide, ins - j);
      for (int64_t c = 0; c < many; c += size) {
        transpose_rows<E>({right.at(j + c, k), right.step}, std::min<int64_t>(size, many - c), some,
                          {turned + c, wide});
      }
      multiply(Product<E>{left.at(0, k), left.step, 1, turned, wide, some}, outs, many,
               [=, each = add(to + j, ins)](auto... values) { each(values...); });
    }
  }
}

// Sums over a block's pixels of vectors of a rectangle, a vector of sums for each channel where vectors lie along
// pixels.
template <class S>
struct ChannelSums {
  S* data;  // or null: nobody wants them
  bool planes;

  ChannelSums(Arena& arena, bool planes, int64_t channels) : data(nullptr), planes(planes) {
    if (channels) data = arena.take<S>(planes ? channels * Vec<S>::size : channels + Vec<S>::size);
  }
  void clear(int64_t channels) const {
    if (data) std::fill_n(data, planes ? channels * Vec<S>::size : channels, S(0));
  }
  template <class... Part>
  void add(Vec<S> value, int64_t row, int64_t column, Part... part) const {
    S* to = data + (planes ? row * Vec<S>::size : column);
    (Vec<S>::load(to) + value).store(to, part...);
  }
  ChannelSums from_channel(int64_t channel) const {
    ChannelSums sums = *this;
    if (data) sums.data += channel * (planes ? Vec<S>::size : 1);
    return sums;
  }
  void add_to(double* to, int64_t channels) const {
    for (int64_t c = 0; data && c < channels; ++c)
      to[c] += planes ? sum(Vec<S>::load(data + c * Vec<S>::size)) : data[c];
  }
};

}  // namespace lightsr
