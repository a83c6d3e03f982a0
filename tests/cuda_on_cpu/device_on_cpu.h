// csrc/common/device.cuh on a CPU: CUDA's words as plain C++, every call that lets other threads run handed to
// fibres.cpp.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned columns = 1, unsigned rows = 1, unsigned layers = 1) : x(columns), y(rows), z(layers) {}
};

// Of the thread that runs now.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace lightsr {
namespace on_cpu {

// What a warp does together once its 32 lanes have come: `run` gets what each lane brought, in the order of the lanes.
using Collective = void (*)(void* const* lanes);

bool block_barrier(const char* name, bool value);
void warp_barrier(const char* name, Collective run, void* mine);
[[noreturn]] void fail(const char* form, ...) __attribute__((format(printf, 1, 2)));

unsigned char* shared_start();
size_t shared_size();
// Fails unless the bytes lie in the block's shared memory, at a multiple of `alignment`.
void check_shared(const char* name, const void* at, size_t bytes, size_t alignment);

template <class T>
struct Exchange {
  T value;
  int from;
};

template <class T>
T exchange(const char* name, T value, int from) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  Exchange<T> mine{value, from};
  warp_barrier(
      name,
      [](void* const* lanes) {
        T values[32];
        for (int lane = 0; lane < 32; ++lane) values[lane] = static_cast<Exchange<T>*>(lanes[lane])->value;
        for (int lane = 0; lane < 32; ++lane) {
          auto* each = static_cast<Exchange<T>*>(lanes[lane]);
          each->value = values[each->from];
        }
      },
      &mine);
  return mine.value;
}

int lane();

}  // namespace on_cpu

inline void sync_threads() {
  on_cpu::block_barrier("sync_threads", false);
}
inline bool sync_threads_or(bool value) {
  return on_cpu::block_barrier("sync_threads_or", value);
}
inline void sync_warp() {
  on_cpu::warp_barrier("sync_warp", nullptr, nullptr);
}

template <class T>
T shuffle(T value, int lane) {
  return on_cpu::exchange("shuffle", value, lane & 31);
}

template <class T>
T shuffle_xor(T value, int mask) {
  return on_cpu::exchange("shuffle_xor", value, (on_cpu::lane() ^ mask) & 31);
}

// A lane whose partner lies outside the warp keeps its own value, as on the device.
template <class T>
T shuffle_down(T value, int distance) {
  const int from = on_cpu::lane() + distance;
  return on_cpu::exchange("shuffle_down", value, from < 32 ? from : on_cpu::lane());
}

template <class T>
T shuffle_up(T value, int distance) {
  const int from = on_cpu::lane() - distance;
  return on_cpu::exchange("shuffle_up", value, from >= 0 ? from : on_cpu::lane());
}

template <class T>
T* shared_memory() {
  return reinterpret_cast<T*>(on_cpu::shared_start());
}

}  // namespace lightsr
