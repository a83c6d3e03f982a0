// The vectors of simd.h as 64-bit ARM has them.
#pragma once

#include <arm_neon.h>

namespace lightsr::level {

constexpr const char* name = "NEON";
constexpr int bytes = 16;
constexpr bool pairs = false;
constexpr int registers = 32;
using F = float32x4_t;
using D = float64x2_t;

inline void keep(F& v) {
  asm("" : "+w"(v));
}
inline void keep(D& v) {
  asm("" : "+w"(v));
}
inline F fma(F a, F b, F c) {
  return vfmaq_f32(c, a, b);
}
inline D fma(D a, D b, D c) {
  return vfmaq_f64(c, a, b);
}
template <class V>
inline V min(V a, V b) {
  return a < b ? a : b;
}
template <class V>
inline V max(V a, V b) {
  return a > b ? a : b;
}
inline F sqrt(F a) {
  return vsqrtq_f32(a);
}
inline D sqrt(D a) {
  return vsqrtq_f64(a);
}
inline void add_product(F& sum, F a, F b) {
  sum = fma(a, b, sum);
}
inline void add_product(D& sum, D a, D b) {
  sum = fma(a, b, sum);
}

template <class V, class S>
inline V part(const S* from, int count) {
  V v{};
  std::memcpy(&v, from, sizeof(S) * count);
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

inline F from_float16(uint16x4_t bits) {
  return vcvt_f32_f16(vreinterpret_f16_u16(bits));
}
inline F from_bfloat16(uint16x4_t bits) {
  return vreinterpretq_f32_u32(vshll_n_u16(bits, 16));
}
inline uint16x4_t to_float16(F v) {
  return vreinterpret_u16_f16(vcvt_f16_f32(v));
}
inline uint16x4_t to_bfloat16(F v) {
  uint32x4_t bits = vreinterpretq_u32_f32(v);
  uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  return vshrn_n_u32(vbslq_u32(vceqq_f32(v, v), rounded, quiet), 16);
}

inline F widen(const Float16* from, int count = 4) {
  return from_float16(part<uint16x4_t>(from, count));
}
inline F widen(const BFloat16* from, int count = 4) {
  return from_bfloat16(part<uint16x4_t>(from, count));
}
inline void narrow(Float16* to, F v, int count = 4) {
  uint16x4_t bits = to_float16(v);
  std::memcpy(to, &bits, 2 * count);
}
inline void narrow(BFloat16* to, F v, int count = 4) {
  uint16x4_t bits = to_bfloat16(v);
  std::memcpy(to, &bits, 2 * count);
}

// All stores go through the caches.
constexpr bool streams = false;
template <class S, class V>
void stream(S*, V) {}
inline void settle() {}

}  // namespace lightsr::level
