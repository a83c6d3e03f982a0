// float16 and bfloat16 as bits, and their way to float32 and back (to nearest, ties to even), in a few instructions
// and without the toolkit's headers, which take longer to compile than the kernels.
#pragma once

#include "device.cuh"
#include "types.h"

namespace lightsr {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

// What sums of T are made in.
template <class T>
struct SumOf {
  using type = float;
};
template <>
struct SumOf<double> {
  using type = double;
};
template <class T>
using Sum = typename SumOf<T>::type;

// What run<T>() gives for the type that a call has its numbers in; on the host.
template <class Run>
auto by_type(Type type, const Run& run) {
  switch (type) {
    case Type::float64:
      return run.template operator()<double>();
    case Type::float16:
      return run.template operator()<Half>();
    case Type::bfloat16:
      return run.template operator()<BFloat16>();
    default:
      return run.template operator()<float>();
  }
}

}  // namespace lightsr

#ifdef LIGHTSR_ON_CPU
#include "numbers_on_cpu.h"
#else

namespace lightsr {

__device__ __forceinline__ float to_sum(Half x) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
}

__device__ __forceinline__ float to_sum(BFloat16 x) {
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}

__device__ __forceinline__ void round_to(float wide, Half& x) {
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(x.bits) : "f"(wide));
}

__device__ __forceinline__ void round_to(float wide, BFloat16& x) {
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(x.bits) : "f"(wide));
}

// The larger one, NaN where one is NaN.
__device__ __forceinline__ float maximum(float a, float b) {
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
  return larger;
}

// Two numbers in the 32 bits that tensor cores take, the first in the low half.
template <class T>
__device__ __forceinline__ uint32_t pack(float first, float second);

template <>
__device__ __forceinline__ uint32_t pack<Half>(float first, float second) {
  uint32_t both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  return both;
}

template <>
__device__ __forceinline__ uint32_t pack<BFloat16>(float first, float second) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  return both;
}

}  // namespace lightsr

#endif

namespace lightsr {

__device__ __forceinline__ float to_sum(float x) {
  return x;
}
__device__ __forceinline__ double to_sum(double x) {
  return x;
}
__device__ __forceinline__ void round_to(float wide, float& x) {
  x = wide;
}
__device__ __forceinline__ void round_to(double wide, double& x) {
  x = wide;
}

__device__ __forceinline__ double maximum(double a, double b) {
  return b > a || b != b ? b : a;
}

template <class T>
__device__ __forceinline__ T from_sum(Sum<T> wide) {
  T x;
  round_to(wide, x);
  return x;
}

}  // namespace lightsr
