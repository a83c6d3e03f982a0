// The 1x1 convolutions of large_kernel_attention on a block of pixels: products (common/product.h) with what comes
// after them.
#pragma once

#include "../common/cache.h"
#include "../common/product.h"
#include "cpu_field.h"

namespace lightsr::attention {

constexpr int mix_rows = product_rows;
constexpr int mix_vectors = product_vectors;

// What becomes of the sums s: (s + bias) * gate + residual; gate and out lie `step` numbers a row apart.
template <class T, class S>
struct Finish {
  const S* bias;  // or null; one for each row, or one for each column
  bool bias_by_row;
  const T* gate;  // or null
  int64_t step;
  const T* residual;  // or null
  int64_t residual_step;
  T* out;     // or null, and then the result goes to `block`
  bool past;  // the caches
  S* block;
  int64_t block_step;
};

// One vector of the sums, or its first `part` numbers.
template <class T, class S, class... Part>
inline void finish_vector(const Finish<T, S>& finish, Vec<S> value, int64_t row, int64_t column, Part... part) {
  const int64_t at = row * finish.step + column;
  if (finish.bias) {
    value = value + (finish.bias_by_row ? Vec<S>::fill(finish.bias[row]) : Vec<S>::load(finish.bias + column, part...));
  }
  if (finish.gate) value = value * Vec<S>::load(finish.gate + at, part...);
  if (finish.residual) value = value + Vec<S>::load(finish.residual + row * finish.residual_step + column, part...);
  if (finish.out) {
    put(value, finish.out + at, finish.past, part...);
  } else {
    value.store(finish.block + row * finish.block_step + column, part...);
  }
}

template <class T, class S>
void multiply(const Product<S>& product, const Finish<T, S>& finish, int64_t rows, int64_t columns, Ahead& ahead) {
  lightsr::multiply(
      product, rows, columns,
      [=](Vec<S> sums, int64_t row, int64_t column, auto... part) {
        finish_vector(finish, sums, row, column, part...);
      },
      &ahead);
}

}  // namespace lightsr::attention
