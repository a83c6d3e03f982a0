// The activations of types.h on a sum, by a run-time choice that is the same for a whole launch.
#pragma once

#include <cmath>

#include "numbers.cuh"

namespace lightsr {

__device__ __forceinline__ float exponential(float x) {
  return expf(x);
}
__device__ __forceinline__ double exponential(double x) {
  return exp(x);
}
__device__ __forceinline__ float error_function(float x) {
  return erff(x);
}
__device__ __forceinline__ double error_function(double x) {
  return erf(x);
}

// A NaN stays one under every activation.
template <class S>
__device__ __forceinline__ S activate(S x, Activation activation, S negative_slope) {
  switch (activation) {
    case Activation::relu:
      return x < S(0) ? S(0) : x;
    case Activation::leaky_relu:
      return x < S(0) ? x * negative_slope : x;
    case Activation::gelu:
      return S(0.5) * x * (S(1) + error_function(x * S(0.70710678118654752440)));
    case Activation::silu:
      return x / (S(1) + exponential(-x));
    case Activation::sigmoid:
      return S(1) / (S(1) + exponential(-x));
    default:
      return x;
  }
}

}  // namespace lightsr
