// The product of two square matrices of channels, for weights that meet with nothing but a mixing of pixels between
// them.
#pragma once

#include <vector>

#include "../common/parallel.h"
#include "../common/pixels.h"

namespace lightsr {

// [size, size], scale times the sum over k of a(i, k) b(k, j), where a(i, k) stands at i row + k step and b(k, j) at
// k size + j. One thread, one order of sums: the same numbers each time.
template <class S, class T>
std::vector<S> joint_of(const T* a, int64_t row, int64_t step, const T* b, int64_t size, S scale) {
  std::vector<S> wide(size * size), joint(size * size);
  for (int64_t i = 0; i < size * size; ++i) wide[i] = scale * wide_number<S>(b[i]);
  for (int64_t i = 0; i < size; ++i) {
    S* to = joint.data() + i * size;
    for (int64_t k = 0; k < size; ++k) {
      const S number = wide_number<S>(a[i * row + k * step]);
      const S* from = wide.data() + k * size;
      for (int64_t j = 0; j < size; ++j) to[j] += number * from[j];
    }
  }
  return joint;
}

// Row i of to [rows, size] is the sum over k below size of a number times a row of `size`, both of which
// factors(i, k, row, number) gives: the gradient of one such weight from that of the joint one.
template <class S, class T, class Factors>
void put_products(T* to, int64_t rows, int64_t size, const Factors& factors) {
  run_tasks(rows, [&](int64_t i) {
    std::vector<double> row(size), sums(size);
    for (int64_t k = 0; k < size; ++k) {
      double number = 0;
      factors(i, k, row.data(), number);
      for (int64_t j = 0; j < size; ++j) sums[j] += number * row[j];
    }
    for (int64_t j = 0; j < size; ++j) Vec<S>::fill(static_cast<S>(sums[j])).store(to + i * size + j, 1);
  });
}

// [size, size] turned over.
template <class S>
std::vector<S> turned_over(const std::vector<S>& from, int64_t size) {
  std::vector<S> to(from.size());
  for (int64_t i = 0; i < size * size; ++i) to[i % size * size + i / size] = from[i];
  return to;
}

}  // namespace lightsr
