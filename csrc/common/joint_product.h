// Matrix products with fewer multiplications than terms, for processors that add beside multiplying.
//
// Two terms of a sum take one multiplication, and what the rows and the columns contribute on their own is taken off
// before (S. Winograd, "A new algorithm for inner product", IEEE Transactions on Computers C-17, 1968):
//
//   r0 c0 + r1 c1 = (r0 + c1) (r1 + c0) - r0 r1 - c0 c1
//
// Of three terms the first two are joined so and the third is multiplied as ever: two additions and two multiply-adds.
// Where additions have units of their own, two beside two that multiply (AMD since Zen), both are busy all the time,
// and the bound is two thirds of that of product.h. Measured on Zen 5, at a depth of 52: 0.72 of its time.
//
// Sums go through numbers of the size of r r and c c. Where rows and columns are of one size they round by a quarter
// more than in a plain product, else by any factor: whoever uses this scales them, by powers of two.
#pragma once

#include "product.h"

namespace lightsr {

constexpr int joint_rows = 6, joint_terms = 3;  // of a tile, with product_vectors; of which two are joined

// Whether joint products are faster here: additions of this width take nothing from multiplications, and sums and
// factors of a tile find room in the registers.
inline bool joint_products() {
#if defined(LIGHTSR_JOINT_PRODUCTS)
  return LIGHTSR_JOINT_PRODUCTS;  // for tests
#elif defined(__x86_64__)
  return level::registers >= 32 && __builtin_cpu_is("amd");
#else
  return false;
#endif
}

// A product whose rows' numbers lie one behind the other. Its sums begin with of_rows[r] + of_columns[c], which have
// the joined terms' own products in them, taken off. Both can be read up to the end of the last tile.
template <class E>
struct JointProduct {
  Product<E> plain;
  const E *of_rows, *of_columns;
};

// Where joined terms end among `depth` of them: before, each at a multiple of joint_terms is joined with the next.
constexpr int64_t joined(int64_t depth) {
  return depth / joint_terms * joint_terms;
}

template <class E, int rows, int vectors>
__attribute__((noinline)) void joint_tile(const JointProduct<E>& product, int64_t row, int64_t column, E* to,
                                          int64_t step, Ahead& ahead) {
  using V = Vec<E>;
  constexpr int size = V::size;
  const int64_t next = product.plain.row, column_step = product.plain.column_step, depth = product.plain.depth;
  V sums[rows][vectors];
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    const V of_columns = V::load(product.of_columns + column + v * size);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) sums[r][v] = V::fill(product.of_rows[row + r]) + of_columns;
  }
  const E* a = product.plain.rows + row * next;
  const E* b = product.plain.columns + column;
  for (int64_t left = depth / joint_terms; left > 0;) {
    Ahead::Run soon = ahead.next(left);
    left -= soon.steps;
    for (int64_t k = soon.steps; k > 0; --k, soon.at += soon.step) {
      __builtin_prefetch(soon.at, 0, 3);
      V values[joint_terms][vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
#pragma GCC unroll 3
        for (int i = 0; i < joint_terms; ++i) values[i][v] = V::load(b + i * column_step + v * size).kept();
      }
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const E* const from = a + r * next;
        const V one = V::fill(from[0]).kept(), other = V::fill(from[1]).kept(), third = V::fill(from[2]).kept();
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
          const V left = (one + values[1][v]).kept(), right = (other + values[0][v]).kept();
          sums[r][v] = fma(left, right, fma(third, values[2][v], sums[r][v]));
        }
      }
      a += joint_terms;
      b += joint_terms * column_step;
    }
  }
  for (int64_t k = joined(depth); k < depth; ++k, ++a, b += column_step) {
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const V number = V::fill(a[r * next]).kept();
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[r][v] = fma(number, V::load(b + v * size), sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[r][v].store(to + r * step + v * size);
  }
}

// As multiply_tile for a tile of joint_rows.
template <class E>
void multiply_tile(const JointProduct<E>& product, int64_t row, int64_t column, bool half, int64_t vectors, E* to,
                   int64_t step, Ahead& ahead) {
  constexpr int some = joint_rows / 2;
  switch (2 * vectors + half) {
    case 2:
      return joint_tile<E, joint_rows, 1>(product, row, column, to, step, ahead);
    case 3:
      return joint_tile<E, some, 1>(product, row, column, to, step, ahead);
    case 4:
      return joint_tile<E, joint_rows, 2>(product, row, column, to, step, ahead);
    case 5:
      return joint_tile<E, some, 2>(product, row, column, to, step, ahead);
    case 6:
      return joint_tile<E, joint_rows, 3>(product, row, column, to, step, ahead);
    case 7:
      return joint_tile<E, some, 3>(product, row, column, to, step, ahead);
  }
}

}  // namespace lightsr
