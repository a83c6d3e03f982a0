// The inner loop of the weight's gradient: sums for KY rows and KX columns of taps, kept in registers.
//
// The lanes are what they are in cpu_tile.h. The sum for tap row i and tap column j takes row r of x, shifted by j
// steps, times row r - i of the gradient: KY KX multiplications for KX + KY loads.
#pragma once

#include <utility>

#include "../common/simd.h"

namespace lightsr {

template <class T>
struct Correlation {
  const T* x;  // the first row and the first vector under the first of these tap columns
  int64_t x_pitch, step;
  const T* grad;  // its row for the first of these tap rows; the others' are the ones above it
  int64_t grad_pitch;
  int64_t rows, vectors;
  int tail;  // lanes of one more vector in each row; the others may hold infinity in x, which times 0 is no number
  T* sums;   // one vector for each tap, added to
  int64_t sums_row;
};

template <class T, int I, int KY, int KX, int... j>
[[gnu::always_inline]] inline void add_grad(Vec<T> (&sums)[KY][KX], const Vec<T> (&x)[KX], const T* grad, int64_t pitch,
                                            std::integer_sequence<int, j...> columns) {
  if constexpr (I < KY) {
    Vec<T> factor = Vec<T>::load(grad).kept();
    (add_product(sums[I][j], factor, x[j]), ...);
    add_grad<T, I + 1>(sums, x, grad - pitch, pitch, columns);
  }
}

template <class T, bool Whole, int KY, int KX, int... j>
[[gnu::always_inline]] inline void correlate_vector(Vec<T> (&sums)[KY][KX], const Correlation<T>& job, const T* x,
                                                    const T* grad, std::integer_sequence<int, j...> columns) {
  Vec<T> in[KX];
  if constexpr (Whole)
    ((in[j] = Vec<T>::load(x + j * job.step).kept()), ...);
  else
    ((in[j] = Vec<T>::load(x + j * job.step, job.tail).kept()), ...);
  add_grad<T, 0>(sums, in, grad, job.grad_pitch, columns);
}

template <class T, int KY, int KX, int... i>
[[gnu::always_inline]] inline void add_sums(const Vec<T> (&sums)[KY][KX], const Correlation<T>& job,
                                            std::integer_sequence<int, i...>) {
  auto at = [&](int row, int column) { return job.sums + row * job.sums_row + column * Vec<T>::size; };
  ((Vec<T>::load(at(i / KX, i % KX)) + sums[i / KX][i % KX]).store(at(i / KX, i % KX)), ...);
}

template <class T, int KY, int KX>
void correlate(const Correlation<T>& job) {
  std::make_integer_sequence<int, KX> columns;
  Vec<T> sums[KY][KX] = {};
  for (int64_t row = 0; row < job.rows; ++row) {
    const T *x = job.x + row * job.x_pitch, *grad = job.grad + row * job.grad_pitch;
    for (int64_t v = 0; v < job.vectors; ++v, x += Vec<T>::size, grad += Vec<T>::size)
      correlate_vector<T, true>(sums, job, x, grad, columns);
    if (job.tail) correlate_vector<T, false>(sums, job, x, grad, columns);
  }
  add_sums(sums, job, std::make_integer_sequence<int, KY * KX>{});
}

}  // namespace lightsr
