// The softmax of rows of scores, as many rows at a time as a vector has lanes: what is largest in each row, and each
// row's sum, are found across lanes together.
#pragma once

#include <limits>

#include "../common/simd_math.h"
#include "../window_attention/cpu_tokens.h"

namespace lightsr {

// exp(x) for x up to 0 as simd_math.h's, without what larger numbers need; 0 where the result would be below 2^-126.
inline Vec<float> share(Vec<float> x) {
  using F = Vec<float>;
  const F round = F::fill(0x1.8p23f);  // adding it leaves whole numbers only, in the last bits
  x = max(F::fill(-88.02969f), x);     // 2^-127
  const F shifted = fma(x, F::fill(1.44269504f), round), n = shifted - round;
  const F r = fma(n, F::fill(2.12194440e-4f), fma(n, F::fill(-0.693359375f), x));
  const F::Bits whole = (F::Bits)shifted.v - (F::Bits)round.v;
  return exp_near_zero(r) * F{(F::Raw)((whole + 127) << 23)};
}
inline Vec<double> share(Vec<double> x) {
  return exp(x);
}

// Lane i of the result is the largest of all lanes of values[i].
template <class S>
Vec<S> largest_each(Vec<S> (&values)[Vec<S>::size]) {
  transpose(values);
#pragma GCC unroll 4
  for (int half = Vec<S>::size / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) values[i] = max(values[i], values[i + half]);
  }
  return values[0];
}

// scores: rows of `columns` numbers, filled up to whole vectors with what becomes 0; they are overwritten. to: `many`
// rows of `columns` numbers, one behind the other.
template <class S, class T>
void softmax(Rows<S> scores, int many, int64_t columns, T* to) {
  using V = Vec<S>;
  constexpr int size = V::size;
  const int64_t padded = round_up(columns, size);
  V found[size];
  S shifts[size], shares[size];
  for (int r = 0; r < size; ++r) {
    found[r] = V::load(scores.at(std::min(r, many - 1), 0));
    for (int64_t c = size; c < padded && r < many; c += size) found[r] = max(found[r], V::load(scores.at(r, c)));
  }
  largest_each(found).store(shifts);
  for (int r = 0; r < size; ++r) found[r] = V::fill(1);
  for (int r = 0; r < many; ++r) {
    const V shift = V::fill(shifts[r]);
    V total = V::fill(0);
    for (int64_t c = 0; c < padded; c += size) {
      const V value = share(V::load(scores.at(r, c)) - shift);
      value.store(scores.at(r, c));
      total = total + value;
    }
    found[r] = total;
  }
  (V::fill(1) / sum_each(found)).store(shares);
  const int64_t whole = columns / size * size;
  for (int r = 0; r < many; ++r) {
    const V share = V::fill(shares[r]);
    T* row = to + r * columns;
    for (int64_t c = 0; c < whole; c += size) (V::load(scores.at(r, c)) * share).store(row + c);
    if (whole < columns) (V::load(scores.at(r, whole)) * share).store(row + whole, static_cast<int>(columns - whole));
  }
}

}  // namespace lightsr
