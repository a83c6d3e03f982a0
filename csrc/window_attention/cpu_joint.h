// The product of two square matrices of channels, for weights that meet with nothing but a mixing of pixels between
// them.
#pragma once

#include <vector>

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

}  // namespace lightsr
