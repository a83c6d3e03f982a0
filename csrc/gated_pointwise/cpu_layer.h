// 1x1 convolutions of a block's pixels, several at once where their results have one shape.
//
// Of the tile of sums that a product computes in registers (common/product.h) those of all of them are in the L1 cache
// together, so what becomes of them as a whole needs no memory for each.
#pragma once

#include <array>

#include "../common/joint_product.h"
#include "../common/pixel_product.h"
#include "arguments.h"

namespace lightsr::gated {

// The pixels of an operand as products with filters read them.
template <class T>
auto ready(const Block& block, const Operand<T>& pixels, int64_t channels) {
  const int64_t rows = block.rows(channels), columns = block.columns(channels);
  return block.planes ? pixels.across(rows, columns) : pixels.along(rows, columns);
}

// A small matrix [outs, ins] as products read it, filled up with zeros: as much as tiles of any height read beyond it.
template <class T>
class Filters {
  using F = typename Numbers<T>::Factor;
  using E = typename Numbers<T>::Element;
  static constexpr int64_t each = Numbers<T>::pairs ? 2 : 1;
  static constexpr int64_t most_rows = std::max(product_rows, joint_rows);  // of a tile

 public:
  Filters(bool planes, int64_t outs, int64_t ins)
      : outs(outs),
        ins(ins),
        planes_(planes),
        depth_(depth_of<T>(ins)),
        step_(planes ? depth_ : round_up(outs, Vec<Sum<E>>::size)),
        count_(planes ? (outs + most_rows) * step_ : depth_ * step_),
        numbers_(count_) {
    std::fill_n(reinterpret_cast<F*>(numbers_.data()), each * count_, F{});
  }
  Filters(bool planes, int64_t outs, int64_t ins, const void* from, int64_t out_step, int64_t in_step)
      : Filters(planes, outs, ins) {
    put(from, outs, 0, ins, out_step, in_step);
  }

  // Columns from `first` on: number (out, in) stands at from[out * out_step + in * in_step].
  void put(const void* from, int64_t outs, int64_t first, int64_t ins, int64_t out_step, int64_t in_step) {
    F* to = reinterpret_cast<F*>(numbers_.data());
    for (int64_t out = 0; out < outs; ++out) {
      for (int64_t i = 0; i < ins; ++i) {
        const int64_t in = first + i;
        const T number = static_cast<const T*>(from)[out * out_step + i * in_step];
        F& place = to[planes_ ? out * each * step_ + in : (in / each * step_ + out) * each + in % each];
        if constexpr (std::is_same_v<F, T>) {
          place = number;
        } else {
          place = wide_number<F>(number);
        }
      }
    }
  }

  Product<E> of(const Rows<const E>& pixels) const {
    if (planes_) return {numbers_.data(), step_, 1, pixels.data, pixels.step, depth_};
    return {pixels.data, pixels.step, 1, numbers_.data(), step_, depth_};
  }
  // Calls each(result, row, column, part...) with vectors of the filters times the pixels.
  template <class Each>
  void operator()(const Block& block, const Operand<T>& pixels, const Each& each, Ahead* ahead = nullptr) const {
    multiply(of(ready(block, pixels, ins)), block.rows(outs), block.columns(outs), each, ahead);
  }

  const int64_t outs, ins;

 private:
  const bool planes_;
  const int64_t depth_, step_, count_;
  Aligned<E> numbers_;
};

// Filters and their bias.
template <class T>
struct Layer {
  using S = Wide<T>;
  Filters<T> filters;
  PerChannel<S> bias;

  Layer(bool planes, const void* weight, const void* bias, int64_t outs, int64_t ins)
      : filters(planes, outs, ins, weight, ins, 1), bias(planes, static_cast<const T*>(bias), outs) {}

  template <class Each>
  void operator()(const Block& block, const Operand<T>& pixels, const Each& each, Ahead* ahead = nullptr) const {
    const auto offset = bias.from_channel(0);
    filters(
        block, pixels,
        [=](Vec<S> value, int64_t row, int64_t column, auto... part) {
          each(value + offset.at(row, column), row, column, part...);
        },
        ahead);
  }
};

// For each row on_row = each(row) and then on_row(sums, column, part...) with a vector of the sums of each of `count`
// products, all of the same rows and columns, which compute(row, column, half, vectors, to) makes a tile of: of rows
// from `row` on, or half as many, and of vectors from `column` on, those of each product in to[i].
template <size_t count, int tile_rows, class S, class Compute, class Each>
void tiles_together(int64_t rows, int64_t columns, const Compute& compute, const Each& given) {
  const Each each = given;  // a copy that nothing else points to, so what it holds stays in registers
  constexpr int size = Vec<S>::size, tile = tile_rows * product_vectors * size;
  alignas(64) S tiles[count][tile];
  const int64_t vectors = (columns + size - 1) / size, groups = (vectors + product_vectors - 1) / product_vectors;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t begin = vectors * group / groups, end = vectors * (group + 1) / groups, column = begin * size;
    const int wide = static_cast<int>(end - begin);
    for (int64_t row = 0; row < rows; row += tile_rows) {
      const int64_t many = std::min<int64_t>(tile_rows, rows - row);
      compute(row, column, many <= tile_rows / 2, wide, tiles);
      const int64_t last = std::min(columns, end * size);
      const S* from = tiles[0];
      const auto at = [&](int64_t i) {
        std::array<Vec<S>, count> found;
        for (size_t k = 0; k < count; ++k) found[k] = Vec<S>::load(from + k * tile + i);
        return found;
      };
      for (int64_t r = row; r < row + many; ++r, from += wide * size) {
        const auto on_row = each(r);
        int64_t i = 0;
        for (; column + i + size <= last; i += size) on_row(at(i), column + i);
        if (column + i < last) on_row(at(i), column + i, static_cast<int>(last - column - i));
      }
    }
  }
}

template <class E, size_t count, class Each>
void multiply_together(const std::array<Product<E>, count>& products, int64_t rows, int64_t columns, const Each& each,
                       Ahead* ahead = nullptr) {
  using S = Sum<E>;
  tiles_together<count, product_rows, S>(
      rows, columns,
      [&](int64_t row, int64_t column, bool half, int vectors, auto& to) {
        for (size_t i = 0; i < count; ++i)
          multiply_tile(products[i], row, column, half, vectors, to[i], vectors * Vec<S>::size, ahead);
      },
      each);
}

}  // namespace lightsr::gated
