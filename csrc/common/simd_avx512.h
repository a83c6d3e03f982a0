// The vectors of simd.h as AVX-512 has them.
#pragma once

#include <immintrin.h>

#define LIGHTSR_AVX512

namespace lightsr::level {

constexpr const char* name = "AVX-512";
constexpr int bytes = 64;
constexpr int registers = 32;
using F = __m512;
using D = __m512d;

inline void keep(F& v) {
  asm("" : "+v"(v));
}
inline void keep(D& v) {
  asm("" : "+v"(v));
}
inline void add_product(F& sum, F a, F b) {
  asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
}
inline void add_product(D& sum, D a, D b) {
  asm("vfmadd231pd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
}
inline F fma(F a, F b, F c) {
  return _mm512_fmadd_ps(a, b, c);
}
inline D fma(D a, D b, D c) {
  return _mm512_fmadd_pd(a, b, c);
}
inline F min(F a, F b) {
  return _mm512_min_ps(a, b);
}
inline D min(D a, D b) {
  return _mm512_min_pd(a, b);
}
inline F max(F a, F b) {
  return _mm512_max_ps(a, b);
}
inline D max(D a, D b) {
  return _mm512_max_pd(a, b);
}
inline F sqrt(F a) {
  return _mm512_sqrt_ps(a);
}
inline D sqrt(D a) {
  return _mm512_sqrt_pd(a);
}

inline __mmask16 lanes16(int count) {
  return __mmask16((1u << count) - 1);
}
inline __mmask8 lanes8(int count) {
  return __mmask8((1u << count) - 1);
}

inline F load_part(const float* from, int count) {
  return _mm512_maskz_loadu_ps(lanes16(count), from);
}
inline D load_part(const double* from, int count) {
  return _mm512_maskz_loadu_pd(lanes8(count), from);
}
inline void store_part(float* to, F v, int count) {
  _mm512_mask_storeu_ps(to, lanes16(count), v);
}
inline void store_part(double* to, D v, int count) {
  _mm512_mask_storeu_pd(to, lanes8(count), v);
}

inline __m256i load16(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
inline __m256i load16(const void* from, int count) {
  return _mm256_maskz_loadu_epi16(lanes16(count), from);
}

inline F from_float16(__m256i bits) {
  return _mm512_cvtph_ps(bits);
}
inline F from_bfloat16(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline __m256i to_float16(F v) {
  return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#ifdef __AVX512BF16__
inline __m256i to_bfloat16(F v) {  // what is below 2^-126 becomes 0
  return (__m256i)_mm512_cvtneps_pbh(v);
}
#else
inline __m256i to_bfloat16(F v) {
  __m512i bits = _mm512_castps_si512(v);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  __m512i kept = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), quiet);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
}
#endif

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

inline void store16(void* to, __m256i bits) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), bits);
}
inline void narrow(Float16* to, F v) {
  store16(to, to_float16(v));
}
inline void narrow(BFloat16* to, F v) {
  store16(to, to_bfloat16(v));
}
inline void narrow(Float16* to, F v, int count) {
  _mm256_mask_storeu_epi16(to, lanes16(count), to_float16(v));
}
inline void narrow(BFloat16* to, F v, int count) {
  _mm256_mask_storeu_epi16(to, lanes16(count), to_bfloat16(v));
}

// Stores that leave nothing in the caches; `to` is a multiple of the bytes stored.
constexpr bool streams = true;
inline void stream(float* to, F v) {
  _mm512_stream_ps(to, v);
}
inline void stream(double* to, D v) {
  _mm512_stream_pd(to, v);
}
inline void stream(Float16* to, F v) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), to_float16(v));
}
inline void stream(BFloat16* to, F v) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), to_bfloat16(v));
}
// Other threads see them once this is done.
inline void settle() {
  _mm_sfence();
}

// Pairs of bfloat16, one pair a lane, and sums of both products in float32.
#ifdef __AVX512BF16__
constexpr bool pairs = true;
using P = __m512i;

inline void keep(P& v) {
  asm("" : "+v"(v));
}
inline void add_product(F& sum, P a, P b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
}
inline P pair(__m256i first, __m256i second) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}
// Of the 16 numbers from place `at` on those that a row of `width` has; 0 for the others, which are not read.
inline __m256i window(const BFloat16* row, int64_t at, int64_t width) {
  if (at >= 0 && at + 16 <= width) return load16(row + at);
  if (at <= -16 || at >= width) return _mm256_setzero_si256();
  int skip = at < 0 ? int(-at) : 0, end = width - at < 16 ? int(width - at) : 16;
  return _mm256_maskz_loadu_epi16(__mmask16(lanes16(end) & ~lanes16(skip)), row + at);
}
#else
constexpr bool pairs = false;
#endif

}  // namespace lightsr::level
