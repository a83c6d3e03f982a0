// csrc/common/numbers.cuh on a CPU, by bits.
#pragma once

#include <cstring>

namespace lightsr {
namespace on_cpu {

inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

}  // namespace on_cpu

inline float to_sum(BFloat16 x) {
  return on_cpu::float_of(static_cast<uint32_t>(x.bits) << 16);
}

inline float to_sum(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return on_cpu::float_of(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  if (magnitude >= 0x400u) return on_cpu::float_of(sign | ((magnitude << 13) + (112u << 23)));
  const float small = static_cast<float>(magnitude) * 0x1p-24f;
  return sign ? -small : small;
}

inline void round_to(float wide, BFloat16& x) {
  const uint32_t bits = on_cpu::bits_of(wide);
  if (wide != wide) {
    x.bits = 0x7fff;
  } else {
    x.bits = static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
}

inline void round_to(float wide, Half& x) {
  const uint32_t bits = on_cpu::bits_of(wide);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t rounded;
  if (magnitude > 0x7f800000u) {
    rounded = 0x7fff;
  } else if (magnitude >= 0x477ff000u) {  // 65520 and more
    rounded = 0x7c00;
  } else if (magnitude >= 0x38800000u) {
    rounded = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  } else {
    // Below the smallest normal number the steps are 2^-24: float32's own rounding to nearest even does it.
    rounded = on_cpu::bits_of(on_cpu::float_of(magnitude) + 0.5f) - on_cpu::bits_of(0.5f);
  }
  x.bits = static_cast<uint16_t>(sign | rounded);
}

inline float maximum(float a, float b) {
  return b > a || b != b ? b : a;
}

template <class T>
uint32_t pack(float first, float second) {
  T low, high;
  round_to(first, low);
  round_to(second, high);
  return static_cast<uint32_t>(high.bits) << 16 | low.bits;
}

}  // namespace lightsr
