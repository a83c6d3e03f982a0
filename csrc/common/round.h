// Whole numbers rounded up, and cache lines.
#pragma once

#include <cstdint>

namespace lightsr {

// Numbers of a type in a cache line.
template <class T>
constexpr int64_t per_line = 64 / sizeof(T);

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

inline int64_t round_up(int64_t count, int64_t to) {
  return ceil_div(count, to) * to;
}

// To an odd multiple. Rows that lie an odd number of cache lines, or of vectors, apart do not meet in a cache.
inline int64_t round_up_odd(int64_t count, int64_t of) {
  return (round_up(count, of) / of | 1) * of;
}

}  // namespace lightsr
