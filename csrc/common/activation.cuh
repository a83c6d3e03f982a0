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
// P(N <= x) with N normal; by 1 + erf the lower tail would cancel.
__device__ __forceinline__ float below_normal(float x) {
  return 0.5f * erfcf(x * -0.70710678118654752440f);
}
__device__ __forceinline__ double below_normal(double x) {
  return 0.5 * erfc(x * -0.70710678118654752440);
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
      return x * below_normal(x);
    case Activation::silu:
      return x / (S(1) + exponential(-x));
    case Activation::sigmoid:
      return S(1) / (S(1) + exponential(-x));
    default:
      return x;
  }
}

// The gradient of activate(x), given that of its result.
template <class S>
__device__ __forceinline__ S activation_gradient(S grad, S x, Activation activation, S negative_slope) {
  switch (activation) {
    case Activation::relu:
      return x <= S(0) ? S(0) : grad;
    case Activation::leaky_relu:
      return x > S(0) ? grad : grad * negative_slope;
    case Activation::gelu:
      return grad * (below_normal(x) + x * exponential(S(-0.5) * x * x) * S(0.39894228040143267794));
    case Activation::silu: {
      const S share = S(1) / (S(1) + exponential(-x));
      return grad * share * (S(1) + x * (S(1) - share));
    }
    case Activation::sigmoid: {
      const S result = S(1) / (S(1) + exponential(-x));
      return grad * (S(1) - result) * result;
    }
    default:
      return grad;
  }
}

// Calls `run` with the activation as a constant (Chosen::value): one choice for a whole run of numbers.
template <Activation activation>
struct Chosen {
  static constexpr Activation value = activation;
};

template <class Run>
__device__ __forceinline__ void choose(Activation activation, const Run& run) {
  switch (activation) {
    case Activation::relu:
      return run(Chosen<Activation::relu>());
    case Activation::leaky_relu:
      return run(Chosen<Activation::leaky_relu>());
    case Activation::gelu:
      return run(Chosen<Activation::gelu>());
    case Activation::silu:
      return run(Chosen<Activation::silu>());
    case Activation::sigmoid:
      return run(Chosen<Activation::sigmoid>());
    default:
      return;
  }
}

// x = activate(x).
template <class S, int many>
__device__ __forceinline__ void activate_run(S (&x)[many], Activation activation, S negative_slope) {
  choose(activation, [&](auto chosen) {
#pragma unroll
    for (int i = 0; i < many; ++i) x[i] = activate(x[i], decltype(chosen)::value, negative_slope);
  });
}

// grad = activation_gradient(grad, x).
template <class S, int many>
__device__ __forceinline__ void activation_gradient_run(S (&grad)[many], const S (&x)[many], Activation activation,
                                                        S negative_slope) {
  choose(activation, [&](auto chosen) {
#pragma unroll
    for (int i = 0; i < many; ++i) {
      grad[i] = activation_gradient(grad[i], x[i], decltype(chosen)::value, negative_slope);
    }
  });
}

}  // namespace lightsr
