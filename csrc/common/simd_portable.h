// The vectors of simd.h for any machine that GCC or Clang know: they lower the arithmetic, the conversions are scalar.
#pragma once

#include <cmath>

namespace lightsr::level {

constexpr const char* name = "portable";
constexpr int bytes = 16;
constexpr bool pairs = false;
constexpr int registers = 16;
typedef float F __attribute__((vector_size(16)));
typedef double D __attribute__((vector_size(16)));

inline void keep(F&) {}
inline void keep(D&) {}
inline F fma(F a, F b, F c) {
  return a * b + c;
}
inline D fma(D a, D b, D c) {
  return a * b + c;
}
template <class V>
inline V min(V a, V b) {
  return a < b ? a : b;
}
template <class V>
inline V max(V a, V b) {
  return a > b ? a : b;
}
template <class V>
inline V sqrt(V a) {
  for (unsigned i = 0; i < sizeof a / sizeof a[0]; ++i) a[i] = std::sqrt(a[i]);
  return a;
}
inline void add_product(F& sum, F a, F b) {
  sum = fma(a, b, sum);
}
inline void add_product(D& sum, D a, D b) {
  sum = fma(a, b, sum);
}

template <class V, class T>
inline V part(const T* from, int count) {
  V v{};
  std::memcpy(&v, from, sizeof(T) * count);
  return v;
}
inline F load_part(const float* from, int count) {
  return part<F>(from, count);
}
inline D load_part(const double* from, int count) {
  return part<D>(from, count);
}
inline void store_part(float* to, F v, int count) {
  std::memcpy(to, &v, 4 * count);
}
inline void store_part(double* to, D v, int count) {
  std::memcpy(to, &v, 8 * count);
}

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

// The 15 bits of a float16 without its sign, put where a float32 has its exponent's end, are the number times 2^-112.
inline float wide(Float16 half) {
  uint32_t sign = uint32_t(half.bits & 0x8000) << 16, rest = uint32_t(half.bits & 0x7fff) << 13;
  if (rest >= 0x7c00u << 13) return float_of(sign | rest | 0x7f800000);  // infinity and NaN
  return float_of(sign | bits_of(float_of(rest) * 0x1p112f));
}
inline float wide(BFloat16 half) {
  return float_of(uint32_t(half.bits) << 16);
}

// Dropping the last bits of a number, rounding to nearest even: what the carry changes is the exponent, as it should.
inline uint32_t without_last(uint32_t bits, int count) {
  return (bits + (1u << (count - 1)) - 1 + (bits >> count & 1)) >> count;
}
inline void rounded(Float16* to, float value) {
  uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) {
    rest = 0x7e00;
  } else if (rest >= 0x477ff000) {  // 65520 and more
    rest = 0x7c00;
  } else if (rest < 0x38800000) {  // less than 2^-14: the sum's last bit counts as 2^-24, and adding rounds
    rest = bits_of(float_of(rest) + 0.5f) - bits_of(0.5f);
  } else {
    rest = without_last(rest - (112u << 23), 13);
  }
  to->bits = uint16_t(sign | rest);
}
inline void rounded(BFloat16* to, float value) {
  uint32_t bits = bits_of(value);
  to->bits = uint16_t(value != value ? (bits | 0x400000) >> 16 : without_last(bits, 16));
}

template <class S>
inline F widen(const S* from, int count = 4) {
  F v{};
  for (int i = 0; i < count; ++i) v[i] = wide(from[i]);
  return v;
}
template <class S>
inline void narrow(S* to, F v, int count = 4) {
  for (int i = 0; i < count; ++i) rounded(to + i, v[i]);
}

// All stores go through the caches.
constexpr bool streams = false;
template <class S, class V>
void stream(S*, V) {}
inline void settle() {}

}  // namespace lightsr::level
