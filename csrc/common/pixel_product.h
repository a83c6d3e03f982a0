// A matrix times every pixel of a block, and sums over the block's pixels of products of two buffers.
//
// The first is the product of common/product.h. The second, the gradient of a matrix, is that product too where
// channels lie one behind the other: the depth is the pixels. Where pixels do, both factors are read along them, a tile
// of 4 x 4 sums (4 x 2 where there are 16 registers) has as many sums as a vector has lanes, and these are added up
// across lanes at the end of a block, 3 instructions a sum. Sums of a block are added to others in float64.
//
// Pairs of bfloat16 stand along the depth: neighbours in memory on one side, on the other two rows are interleaved.
#pragma once

#include "pixels.h"

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
  void multiply(const Block& block, const Operand<T>& pixels, int64_t outs, int64_t ins, const Each& each) const {
    const int64_t rows = block.rows(ins), columns = block.columns(ins);
    const Rows<const E> in = planes_ ? pixels.across(rows, columns) : pixels.along(rows, columns);
    const Product<E> product = planes_ ? Product<E>{numbers_.data(), step_, 1, in.data, in.step, depth_}
                                       : Product<E>{in.data, in.step, 1, numbers_.data(), step_, depth_};
    lightsr::multiply(product, block.rows(outs), block.columns(outs), each);
  }

 private:
  bool planes_;
  int64_t depth_, step_;
  Aligned<E> numbers_;
};

template <class S, bool last, int... i>
Vec<S> halves_mixed(Vec<S> a, Vec<S> b, std::integer_sequence<int, i...>) {
  constexpr int size = Vec<S>::size, from = last ? size / 2 : 0;
#if defined(__clang__) || __GNUC__ >= 12
  return {__builtin_shufflevector(a.v, b.v, (from + i / 2 + i % 2 * size)...)};
#else
  return {__builtin_shuffle(a.v, b.v, typename Vec<S>::Bits{(from + i / 2 + i % 2 * size)...})};
#endif
}

// Lane i of the result is the sum of all lanes of sums[i].
template <class S>
Vec<S> sum_each(Vec<S> (&sums)[Vec<S>::size]) {
  constexpr auto order = std::make_integer_sequence<int, Vec<S>::size>{};
#pragma GCC unroll 4
  for (int half = Vec<S>::size / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
      sums[i] = halves_mixed<S, false>(sums[i], sums[i + half], order) +
                halves_mixed<S, true>(sums[i], sums[i + half], order);
    }
  }
  return sums[0];
}

// Sums over so many vectors of the products of 4 rows of a with some rows of b.
template <class E>
__attribute__((noinline)) void dots_tile(Rows<const E> a, Rows<const E> b, int64_t vectors, Sum<E>* to) {
  using S = Sum<E>;
  constexpr int size = Vec<S>::size, rows = size >= 8 ? 4 : 2, columns = size / rows;
  Vec<S> sums[size];
#pragma GCC unroll 16
  for (int i = 0; i < size; ++i) sums[i] = Vec<S>::fill(0);
  for (int64_t v = 0; v < vectors; ++v) {
    Vec<E> left[rows];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) left[r] = Vec<E>::load(a.at(r, v * size)).kept();
#pragma GCC unroll 4
    for (int c = 0; c < columns; ++c) {
      const Vec<E> right = Vec<E>::load(b.at(c, v * size)).kept();
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) add_product(sums[r * columns + c], left[r], right);
    }
  }
  sum_each(sums).store(to);
}

// to[i, j] += sum over the block's pixels of a[i] b[j].
template <class T>
void add_products(const Block& block, const Operand<T>& a, int64_t outs, const Operand<T>& b, int64_t ins, double* to) {
  using E = typename Numbers<T>::Element;
  using S = Sum<E>;
  constexpr int size = Vec<S>::size;
  const int64_t count = block.count;
  if (!block.planes) {
    const Rows<const E> left = a.across(count, outs), right = b.across(count, ins);
    const Product<E> product{left.data, 1, left.step, right.data, right.step, depth_of<T>(count)};
    multiply(product, outs, ins, [&](Vec<S> sums, int64_t row, int64_t column, auto... part) {
      S lanes[size];
      sums.store(lanes, part...);
      const int many = sizeof...(part) ? static_cast<int>(ins - column) : size;
      for (int i = 0; i < many; ++i) to[row * ins + column + i] += lanes[i];
    });
    return;
  }
  constexpr int rows = size >= 8 ? 4 : 2, columns = size / rows, unit = size * (Numbers<T>::pairs ? 2 : 1);
  const int64_t padded = round_up(count, unit);
  if (padded > count) {
    const auto zeros = [&](const Operand<T>& operand, int64_t channels) {
      for (int64_t c = 0; c < channels; ++c)
        std::fill_n(operand.numbers.at(c, count), padded - count, typename Numbers<T>::Factor{});
    };
    zeros(a, outs);
    zeros(b, ins);
  }
  const Rows<const E> left = a.along(outs, padded), right = b.along(ins, padded);
  for (int64_t i = 0; i < outs; i += rows) {
    for (int64_t j = 0; j < ins; j += columns) {
      S sums[size];
      dots_tile<E>({left.at(i, 0), left.step}, {right.at(j, 0), right.step}, padded / unit, sums);
      for (int64_t r = 0; r < std::min<int64_t>(rows, outs - i); ++r) {
        for (int64_t c = 0; c < std::min<int64_t>(columns, ins - j); ++c) {
          to[(i + r) * ins + j + c] += sums[r * columns + c];
        }
      }
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
