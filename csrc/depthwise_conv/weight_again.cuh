// A number of the weights' gradient summed up once more, slowly, by one thread: only pixels that meet inside the
// picture. The fast kernels multiply with the zeros around it too, and infinity times zero is no number, which would
// get into taps that never touch the infinite pixel.
#pragma once

#include "../common/numbers.cuh"
#include "arguments.h"

namespace lightsr {

template <class S>
__device__ __forceinline__ bool is_finite(S x) {
  return x - x == S(0);
}

template <class T>
__device__ Sum<T> weight_again(const DepthwiseConvWeight& call, int64_t channel, int tap) {
  const int64_t down = (tap / call.kw - call.kh / 2) * call.dh, right = (tap % call.kw - call.kw / 2) * call.dw;
  const int64_t step = call.channels_last ? call.c : 1, line = call.w * step;
  const int64_t rows = call.h - larger(down, -down), columns = call.w - larger(right, -right);
  const int64_t first = channel * (call.channels_last ? 1 : call.h * call.w);
  const int64_t at = first + larger<int64_t>(0, -down) * line + larger<int64_t>(0, -right) * step;
  const T* grad = static_cast<const T*>(call.grad) + at;
  const T* x = static_cast<const T*>(call.x) + at + down * line + right * step;
  Sum<T> sum = 0;
#pragma unroll 1
  for (int64_t n = 0; n < call.n && sum == sum; ++n) {
#pragma unroll 1
    for (int64_t row = 0; row < rows; ++row) {
#pragma unroll 1
      for (int64_t column = 0; column < columns; ++column) {
        const int64_t offset = row * line + column * step;
        sum += to_sum(grad[offset]) * to_sum(x[offset]);
      }
    }
    grad += call.c * call.h * call.w;
    x += call.c * call.h * call.w;
  }
  return sum;
}

}  // namespace lightsr
