// Results that are written past the caches.
//
// A store to a line that is in no cache first reads it from memory, and later pushes another one out. A result of which
// little would still be in the cache when it is read next is better written past it: the line is not read, and what the
// next call needs stays. Copying 14 MB on a machine with 32 MB of cache takes 1.4 times as long through the caches, 28
// MB 1.6 times; 4 MB that are read again at once are faster through them.
#pragma once

#include <cstdio>

#include "simd.h"

namespace lightsr {

// Of the third-level cache that a core has, in bytes, where Linux tells; else what many have.
inline int64_t cache_bytes() {
  static const int64_t found = [] {
    long long kilobytes = 0;
    if (std::FILE* file = std::fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r")) {
      if (std::fscanf(file, "%lldK", &kilobytes) != 1) kilobytes = 0;
      std::fclose(file);
    }
    return int64_t(kilobytes > 0 ? kilobytes : 32768) * 1024;
  }();
  return found;
}

// Whether a result of so many numbers of type T goes past the caches, where its rows lie `step` numbers apart. In rows
// that do not begin with a line, most vectors would be stored as ever, and their lines should have been asked for. A
// gradient does when half as large: a training step goes through more before it reads that, and so instance_norm's in
// 16 bits takes 0.8 of the time.
template <class T>
bool past_cache(int64_t numbers, int64_t step, [[maybe_unused]] bool gradient = false) {
#ifdef LIGHTSR_PAST_CACHE
  return level::streams;  // all there are, for tests
#else
  constexpr int64_t each = sizeof(T), line = 64;
  return level::streams && numbers * each >= cache_bytes() / (gradient ? 8 : 4) && step * each % line == 0;
#endif
}

// Stores a vector, or its first `part` numbers, of a result of which `past` says whether it goes past the caches. What
// calls this runs in run_tasks (parallel.h), or ends with level::settle(): before that, other threads may not see it.
template <class E, class S>
inline void put(Vec<E> value, S* to, bool past) {
  past ? value.stream(to) : value.store(to);
}
template <class E, class S>
inline void put(Vec<E> value, S* to, bool, int part) {
  value.store(to, part);
}

}  // namespace lightsr
