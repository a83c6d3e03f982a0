// One vector of floats or doubles, as wide as the machine built for allows: AVX-512, AVX2 with FMA and F16C, NEON, or
// 16-byte vectors that any GCC or Clang lowers to what it has. Memory may lie at any address; 16-bit types are widened
// as they are loaded and rounded to nearest even as they are stored (a NaN stays one).
//
//   Vec<float> v = Vec<float>::load(p);         // p: float, Float16 or BFloat16
//   Vec<float> v = Vec<float>::load(p, count);  // the first count lanes, 0 <= count <= size; the others are 0, unread
//
// Then v.store(p), v.store(p, count), v.stream(p); Vec<float>::fill(2); + - * /; fma(a, b, c), which is a b + c; min,
// max, sqrt and select; sum is in shuffle.h.
#pragma once

#include <cstdint>
#include <cstring>

namespace lightsr {

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

}  // namespace lightsr

// Each of these defines, in namespace lightsr::level: name, bytes and registers (how many there are), and on vectors F
// of floats and D of doubles: fma, min, max, sqrt, load_part, store_part, widen and narrow; `pairs`, whether it has
// vectors of Pair; `streams`, whether it has stores past the caches, with stream and settle.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "simd_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "simd_avx2.h"
#elif defined(__aarch64__) && defined(__ARM_NEON)
#include "simd_neon.h"
#else
#include "simd_portable.h"
#endif

namespace lightsr {

template <class T>
struct IntegerAs;
template <>
struct IntegerAs<float> {
  using type = int32_t;
};
template <>
struct IntegerAs<double> {
  using type = int64_t;
};

template <class T>  // float or double
struct Vec {
  static constexpr int size = level::bytes / sizeof(T);
  typedef T Raw __attribute__((vector_size(level::bytes)));
  typedef typename IntegerAs<T>::type Bits __attribute__((vector_size(level::bytes)));  // comparisons give these
  Raw v;

  // Holds the value in a register: compilers like to load it again for each use, which costs more than it saves.
  Vec kept() const {
    Raw same = v;
    level::keep(same);
    return {same};
  }

  static Vec fill(T value) { return {value - Raw{}}; }
  static Vec load(const T* from) {
    Vec to;
    std::memcpy(&to.v, from, sizeof to.v);
    return to;
  }
  static Vec load(const T* from, int count) { return {level::load_part(from, count)}; }
  template <class S>
  static Vec load(const S* from) {
    return {level::widen(from)};
  }
  template <class S>
  static Vec load(const S* from, int count) {
    return {level::widen(from, count)};
  }

  void store(T* to) const { std::memcpy(to, &v, sizeof v); }
  void store(T* to, int count) const { level::store_part(to, v, count); }
  template <class S>
  void store(S* to) const {
    level::narrow(to, v);
  }
  template <class S>
  void store(S* to, int count) const {
    level::narrow(to, v, count);
  }

  // To memory past the caches, where the machine can and `to` is a multiple of the bytes stored; cache.h says when.
  template <class S>
  void stream(S* to) const {
    if (level::streams && reinterpret_cast<uintptr_t>(to) % (size * sizeof(S)) == 0)
      level::stream(to, v);
    else
      store(to);
  }

  friend Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
  friend Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
  friend Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
  friend Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
  friend Vec operator-(Vec a) { return {-a.v}; }
  friend Bits operator<(Vec a, Vec b) { return a.v < b.v; }
  friend Bits operator>(Vec a, Vec b) { return a.v > b.v; }
};

template <class T>
inline Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return {level::fma(a.v, b.v, c.v)};
}

// sum += a b, in the register that sum is in: over a long unrolled loop compilers lose track of which those are.
template <class T>
inline void add_product(Vec<T>& sum, Vec<T> a, Vec<T> b) {
  level::add_product(sum.v, a.v, b.v);
}

// Two neighbouring factors in bfloat16. Products with another pair are summed in float32, both at once, where the
// machine can do that (level::pairs).
struct Pair {
  BFloat16 first, second;
};

// What products of these numbers are summed in.
template <class E>
struct SumsOf {
  using type = E;
};
template <>
struct SumsOf<Pair> {
  using type = float;
};
template <class E>
using Sum = typename SumsOf<E>::type;

#ifdef __AVX512BF16__
template <>
struct Vec<Pair> {
  static constexpr int size = level::bytes / sizeof(Pair);
  level::P v;

  static Vec load(const Pair* from) {
    Vec to;
    std::memcpy(&to.v, from, sizeof to.v);
    return to;
  }
  static Vec fill(Pair value) {
    int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return {_mm512_set1_epi32(bits)};
  }
  Vec kept() const {
    level::P same = v;
    level::keep(same);
    return {same};
  }
};

inline void add_product(Vec<float>& sum, Vec<Pair> a, Vec<Pair> b) {
  level::add_product(sum.v, a.v, b.v);
}
#endif

// a where the condition holds, b elsewhere.
template <class T>
inline Vec<T> select(typename Vec<T>::Bits condition, Vec<T> a, Vec<T> b) {
  return {condition ? a.v : b.v};
}

// Of a and b the smaller or larger; b where either is NaN.
template <class T>
inline Vec<T> min(Vec<T> a, Vec<T> b) {
  return {level::min(a.v, b.v)};
}
template <class T>
inline Vec<T> max(Vec<T> a, Vec<T> b) {
  return {level::max(a.v, b.v)};
}
template <class T>
inline Vec<T> sqrt(Vec<T> a) {
  return {level::sqrt(a.v)};
}

}  // namespace lightsr
