// Copies from global to shared memory that run beside the thread (cp.async). The bytes are there, for the thread that
// asked, after copy_wait; for the rest of the block after a barrier behind that. Both addresses are multiples of the
// size; where `real` is false nothing is read, and zeros are written.
#pragma once

#include "device.cuh"

#ifdef LIGHTSR_ON_CPU
#include "copy_async_on_cpu.h"
#else

namespace lightsr {

__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool real = true) {
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
      "l"(global), "r"(real ? 16 : 0)
      : "memory");
}

__device__ __forceinline__ void copy_async_8(void* shared, const void* global, bool real = true) {
  asm volatile(
      "cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
      "l"(global), "r"(real ? 8 : 0)
      : "memory");
}

__device__ __forceinline__ void copy_async_4(void* shared, const void* global, bool real = true) {
  asm volatile(
      "cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
      "l"(global), "r"(real ? 4 : 0)
      : "memory");
}

// Closes the group of the copies asked for since the last one.
__device__ __forceinline__ void copy_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most `groups` of this thread's closed groups are still under way, the newest ones.
template <int groups>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

}  // namespace lightsr

#endif
