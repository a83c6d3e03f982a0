// What the passes share: y of a number, and dy of a number.
//
//   y  = scale (x - centre) + shift
//   dy = grad gate + grad_pooled[0] / C + (y == pooled[1] ? grad_pooled[1] share : 0)
//
// y is compared with the maximum that another kernel found, so every kernel makes it here: one subtraction, one
// multiply-add, nothing left for the compiler to contract.
#pragma once

#include <cmath>
#include <type_traits>

#include "../common/launch.cuh"
#include "../common/numbers.cuh"
#include "arguments.h"

namespace lightsr::norm {

constexpr int block_threads = 256;
constexpr int invalid_configuration = 9;  // cudaErrorInvalidConfiguration
constexpr int most_channels = 256;        // that lie in a block's shared memory at once
constexpr int64_t enough_blocks = 528;    // four for each multiprocessor of an H100 or H200, on every device

inline bool at_16(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// Neighbours that move as 16 bytes.
template <class T>
constexpr int vector_of = static_cast<int>(16 / sizeof(T));

// One channel or one pixel is the same memory in both layouts; the vectors run along what there are many of.
template <class Call>
Call in_one_layout(Call call) {
  if (call.c == 1) {
    call.channels_last = false;
  } else if (call.h == 1 && call.w == 1) {
    call.channels_last = true;
  }
  return call;
}

// Whether the numbers for each channel can be read by 16 bytes where a picture's channels can.
template <class Call>
bool channels_at_16(const Call& call) {
  return !call.channels_last || (at_16(call.centre) && at_16(call.scale) && at_16(call.shift));
}

inline unsigned blocks_or_none(double blocks) {
  return blocks < 2147483648.0 ? static_cast<unsigned>(blocks) : 0;
}

__device__ __forceinline__ float multiply_add(float a, float b, float c) {
  return fmaf(a, b, c);
}
__device__ __forceinline__ double multiply_add(double a, double b, double c) {
  return fma(a, b, c);
}

// Sums and maps: `many` numbers from place `at` on, or `otherwise`.
template <int many, class S>
__device__ __forceinline__ void load_wide(S (&to)[many], const void* from, int64_t at, S otherwise) {
  if (from == nullptr) {
#pragma unroll
    for (int i = 0; i < many; ++i) to[i] = otherwise;
  } else if constexpr (many == 1) {
    to[0] = static_cast<const S*>(from)[at];
  } else {
    load_run(to, static_cast<const S*>(from) + at);
  }
}

template <class S>
struct alignas(16) Affine {
  S centre, scale, shift;

  __device__ __forceinline__ S offset(S x) const { return x - centre; }
  __device__ __forceinline__ S y(S x) const { return multiply_add(scale, x - centre, shift); }
};

// Of `many` channels from `plane` on, among all pictures' channels; To has at least what Affine has.
template <int many, class To, class Call>
__device__ __forceinline__ void load_affine(To (&to)[many], const Call& call, int64_t plane) {
  decltype(to[0].scale) centre[many], scale[many], shift[many];
  using S = std::remove_reference_t<decltype(scale[0])>;
  load_wide(centre, call.centre, plane, S(0));
  load_wide(scale, call.scale, plane, S(1));
  load_wide(shift, call.shift, plane, S(0));
#pragma unroll
  for (int i = 0; i < many; ++i) to[i].centre = centre[i], to[i].scale = scale[i], to[i].shift = shift[i];
}

// What turns grad and y of a pixel into dy.
template <class S>
struct alignas(16) PixelGradient {
  S gate, added, maximum, most;

  __device__ __forceinline__ S operator()(S grad, S y) const {
    const S sum = multiply_add(grad, gate, added);
    return y == maximum ? sum + most : sum;
  }
};

template <class S>
__device__ __forceinline__ PixelGradient<S> no_gate() {
  return {S(1), S(0), S(0), S(0)};
}

template <class S>
__device__ __forceinline__ PixelGradient<S> pixel_gradient(const AffineBackward& call, int64_t n, int64_t pixel) {
  if (call.gate == nullptr) return no_gate<S>();
  const int64_t area = call.h * call.w, one = n * area + pixel, two = one + n * area;
  const S* const grad_pooled = static_cast<const S*>(call.grad_pooled) + two;
  return {static_cast<const S*>(call.gate)[one], grad_pooled[0] / static_cast<S>(call.c),
          static_cast<const S*>(call.pooled)[two + area], grad_pooled[area] * static_cast<const S*>(call.share)[one]};
}

}  // namespace lightsr::norm
