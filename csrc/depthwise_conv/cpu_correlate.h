// The inner loop of the weight's gradient: sums for KY rows and KX columns of taps, kept in registers.
//
// The lanes are what they are in cpu_tile.h. The sum for tap row i and tap column j takes row r of x, shifted by j
// steps, times row r - i of the gradient: KY KX multiplications for KX + KY loads.
#pragma once

#include <utility>

#include "../common/simd.h"

namespace lightsr {

// What will be read soon, in bytes: a row's vectors for each row of x; fetching it while the sums are busy takes its
// time off. Several passes over the same rows share these out, so that the memory is busy all the time: of x each takes
// the rows that are `turn_x` in the bits of `shared`, and so of the gradient. Addresses that nothing stands at do no
// harm.
struct Soon {
  const char *x, *grad;
  int64_t row, vector;
  int64_t shared, turn_x, turn_grad;
};

template <class T>
struct Correlation {
  const T* x;  // the first row and the first vector under the first of these tap columns
  int64_t x_pitch, step;
  const T* grad;  // its row for the first of these tap rows; the others' are the ones above it
  int64_t grad_pitch;
  int64_t rows, vectors;
  int tail;  // lanes of one more vector in each row; the others may hold infinity, which times 0 is no number
  T* sums;   // one vector for each tap, added to
  int64_t sums_row;
  Soon soon;
};

template <class T, bool Whole, int I, int KY, int KX, int... j>
[[gnu::always_inline]] inline void add_grad(Vec<T> (&sums)[KY][KX], const Vec<T> (&x)[KX], const Correlation<T>& job,
                                            const T* grad, std::integer_sequence<int, j...> columns) {
  if constexpr (I < KY) {
    Vec<T> factor = (Whole ? Vec<T>::load(grad) : Vec<T>::load(grad, job.tail)).kept();
    (add_product(sums[I][j], factor, x[j]), ...);
    add_grad<T, Whole, I + 1>(sums, x, job, grad - job.grad_pitch, columns);
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
  add_grad<T, Whole, 0>(sums, in, job, grad, columns);
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
    const char *soon_x = job.soon.x, *soon_grad = job.soon.grad;
    int64_t x_step = 0, grad_step = 0;
    if ((row & job.soon.shared) == job.soon.turn_x) soon_x += row * job.soon.row, x_step = job.soon.vector;
    if ((row & job.soon.shared) == job.soon.turn_grad) soon_grad += row * job.soon.row, grad_step = job.soon.vector;
    for (int64_t v = 0; v < job.vectors; ++v, x += Vec<T>::size, grad += Vec<T>::size) {
      __builtin_prefetch(soon_x, 0, 3);
      __builtin_prefetch(soon_grad, 0, 3);
      soon_x += x_step, soon_grad += grad_step;
      correlate_vector<T, true>(sums, job, x, grad, columns);
    }
    if (job.tail) correlate_vector<T, false>(sums, job, x, grad, columns);
  }
  add_sums(sums, job, std::make_integer_sequence<int, KY * KX>{});
}

}  // namespace lightsr
