// csrc/common/copy_async.cuh on a CPU: the bytes arrive when the thread waits for them, no sooner, and until then the
// place they go to holds NaN.
#pragma once

#include "device_on_cpu.h"

namespace lightsr {
namespace on_cpu {

void copy_begin(void* shared, const void* global, int bytes, bool real);
void copy_close_group();
void copy_finish(int groups);

}  // namespace on_cpu

inline void copy_async_16(void* shared, const void* global, bool real = true) {
  on_cpu::copy_begin(shared, global, 16, real);
}
inline void copy_async_8(void* shared, const void* global, bool real = true) {
  on_cpu::copy_begin(shared, global, 8, real);
}
inline void copy_async_4(void* shared, const void* global, bool real = true) {
  on_cpu::copy_begin(shared, global, 4, real);
}
inline void copy_commit() {
  on_cpu::copy_close_group();
}

template <int groups>
void copy_wait() {
  on_cpu::copy_finish(groups);
}

}  // namespace lightsr
