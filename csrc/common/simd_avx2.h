// The vectors of simd.h as AVX2, FMA and F16C have them.
#pragma once

#include <immintrin.h>

namespace lightsr::level {

constexpr const char* name = "AVX2";
constexpr int bytes = 32;
constexpr bool pairs = false;
constexpr int registers = 16;
using F = __m256;
using D = __m256d;

inline void keep(F& v) {
  asm("" : "+x"(v));
}
inline void keep(D& v) {
  asm("" : "+x"(v));
}
inline void add_product(F& sum, F a, F b) {
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
}
inline void add_product(D& sum, D a, D b) {
  asm("vfmadd231pd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
}
inline F fma(F a, F b, F c) {
  return _mm256_fmadd_ps(a, b, c);
}
inline D fma(D a, D b, D c) {
  return _mm256_fmadd_pd(a, b, c);
}
inline F min(F a, F b) {
  return _mm256_min_ps(a, b);
}
inline D min(D a, D b) {
  return _mm256_min_pd(a, b);
}
inline F max(F a, F b) {
  return _mm256_max_ps(a, b);
}
inline D max(D a, D b) {
  return _mm256_max_pd(a, b);
}
inline F sqrt(F a) {
  return _mm256_sqrt_ps(a);
}
inline D sqrt(D a) {
  return _mm256_sqrt_pd(a);
}

// All ones in the first count lanes.
inline __m256i lanes8(int count) {
  static constexpr int ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(ones + 8 - count));
}
inline __m256i lanes4(int count) {
  return _mm256_cvtepi32_epi64(_mm256_castsi256_si128(lanes8(count)));
}

inline F load_part(const float* from, int count) {
  return _mm256_maskload_ps(from, lanes8(count));
}
inline D load_part(const double* from, int count) {
  return _mm256_maskload_pd(from, lanes4(count));
}
inline void store_part(float* to, F v, int count) {
  _mm256_maskstore_ps(to, lanes8(count), v);
}
inline void store_part(double* to, D v, int count) {
  _mm256_maskstore_pd(to, lanes4(count), v);
}

inline __m128i load16(const void* from) {
  return _mm_loadu_si128(static_cast<const __m128i*>(from));
}
inline __m128i load16(const void* from, int count) {
  __m128i bits = _mm_setzero_si128();
  std::memcpy(&bits, from, 2 * count);
  return bits;
}

inline F from_float16(__m128i bits) {
  return _mm256_cvtph_ps(bits);
}
inline F from_bfloat16(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline __m128i to_float16(F v) {
  return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
}
inline __m128i to_bfloat16(F v) {
  __m256i bits = _mm256_castps_si256(v);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  __m256i unordered = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  __m256i kept = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, unordered), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(kept), _mm256_extracti128_si256(kept, 1));
}

inline F widen(const Float16* from) {
  return from_float16(load16(from));
}
inline F widen(const Float16* from, int count) {
  return from_float16(load16(from, count));
}
inline F widen(const BFloat16* from) {
  return from_bfloat16(load16(from));
}
inline F widen(const BFloat16* from, int count) {
  return from_bfloat16(load16(from, count));
}

inline void store16(void* to, __m128i bits) {
  _mm_storeu_si128(static_cast<__m128i*>(to), bits);
}
inline void narrow(Float16* to, F v) {
  store16(to, to_float16(v));
}
inline void narrow(BFloat16* to, F v) {
  store16(to, to_bfloat16(v));
}
inline void narrow(Float16* to, F v, int count) {
  __m128i bits = to_float16(v);
  std::memcpy(to, &bits, 2 * count);
}
inline void narrow(BFloat16* to, F v, int count) {
  __m128i bits = to_bfloat16(v);
  std::memcpy(to, &bits, 2 * count);
}

// Stores that leave nothing in the caches; `to` is a multiple of the bytes stored.
constexpr bool streams = true;
inline void stream(float* to, F v) {
  _mm256_stream_ps(to, v);
}
inline void stream(double* to, D v) {
  _mm256_stream_pd(to, v);
}
inline void stream(Float16* to, F v) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), to_float16(v));
}
inline void stream(BFloat16* to, F v) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), to_bfloat16(v));
}
// Other threads see them once this is done.
inline void settle() {
  _mm_sfence();
}

}  // namespace lightsr::level
