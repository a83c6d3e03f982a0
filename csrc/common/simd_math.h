// The activations on vectors.
#pragma once

#include "simd_math_everywhere.h"
#include "types.h"
#ifdef LIGHTSR_AVX512
#include "simd_math_avx512.h"
#endif

namespace lightsr {

#ifndef LIGHTSR_AVX512
using everywhere::gelu;
using everywhere::sigmoid;
#endif

template <class T>
inline Vec<T> activate(Vec<T> x, Activation activation, Vec<T> negative_slope) {
  Vec<T> zero = Vec<T>::fill(0);
  switch (activation) {
    case Activation::relu:
      return max(zero, x);  // x where it is NaN
    case Activation::leaky_relu:
      return select<T>(x > zero, x, x * negative_slope);
    case Activation::gelu:
      return gelu(x);
    case Activation::silu:
      return x / (Vec<T>::fill(1) + exp(-x));
    case Activation::sigmoid:
      return sigmoid(x);
    case Activation::none:
      break;
  }
  return x;
}

}  // namespace lightsr
