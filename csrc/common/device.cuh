// Words of device code: threads, barriers, shuffles, shared memory, vectors. Kernels name PTX and warp intrinsics only
// through the wrappers of this folder, so that the same files also run on a CPU, under the fibres of
// tests/cuda_on_cpu, which define LIGHTSR_ON_CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef LIGHTSR_ON_CPU
#include "device_on_cpu.h"
#else

namespace lightsr {

// Every thread of the block comes to the same barrier.
__device__ __forceinline__ void sync_threads() {
  __syncthreads();
}

// As sync_threads, and tells each thread whether any of them brought true.
__device__ __forceinline__ bool sync_threads_or(bool value) {
  return __syncthreads_or(value);
}

// Every one of the 32 lanes of a warp comes to the same call; so for the shuffles.
__device__ __forceinline__ void sync_warp() {
  __syncwarp();
}

template <class T>
__device__ __forceinline__ T shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}

template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

template <class T>
__device__ __forceinline__ T shuffle_down(T value, int distance) {
  return __shfl_down_sync(0xffffffffu, value, distance);
}

template <class T>
__device__ __forceinline__ T shuffle_up(T value, int distance) {
  return __shfl_up_sync(0xffffffffu, value, distance);
}

// The block's dynamic shared memory, aligned to 128 bytes: as many bytes as the launch asked for.
template <class T>
__device__ __forceinline__ T* shared_memory() {
  extern __shared__ __align__(128) unsigned char lightsr_shared_memory[];
  return reinterpret_cast<T*>(lightsr_shared_memory);
}

}  // namespace lightsr

#endif

namespace lightsr {

constexpr int warp_size = 32;

// N numbers that move as one: a load or a store of sizeof(T) * N bytes, at most 16.
template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  T at[N];
  __host__ __device__ T& operator[](int i) { return at[i]; }
  __host__ __device__ const T& operator[](int i) const { return at[i]; }
};

template <int N, class T>
__device__ __forceinline__ Vector<T, N> load_vector(const T* from) {
  return *reinterpret_cast<const Vector<T, N>*>(from);
}

template <int N, class T>
__device__ __forceinline__ void store_vector(T* to, const Vector<T, N>& value) {
  *reinterpret_cast<Vector<T, N>*>(to) = value;
}

// As many numbers as the array has, by 16 bytes, from and to an address that is a multiple of 16.
template <int many, class T>
__device__ __forceinline__ void load_run(T (&to)[many], const T* from) {
  constexpr int by = 16 / sizeof(T);
  static_assert(many % by == 0);
#pragma unroll
  for (int i = 0; i < many; i += by) {
    const Vector<T, by> some = load_vector<by>(from + i);
#pragma unroll
    for (int j = 0; j < by; ++j) to[i + j] = some[j];
  }
}

template <int many, class T>
__device__ __forceinline__ void store_run(T* to, const T (&from)[many]) {
  constexpr int by = 16 / sizeof(T);
  static_assert(many % by == 0);
#pragma unroll
  for (int i = 0; i < many; i += by) {
    Vector<T, by> some;
#pragma unroll
    for (int j = 0; j < by; ++j) some[j] = from[i + j];
    store_vector(to + i, some);
  }
}

template <class T>
__host__ __device__ constexpr T smaller(T a, T b) {
  return b < a ? b : a;
}

template <class T>
__host__ __device__ constexpr T larger(T a, T b) {
  return a < b ? b : a;
}

// a / b upwards, and a upwards to a multiple of b; neither number negative.
template <class T>
__host__ __device__ constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

template <class T>
__host__ __device__ constexpr T round_up(T a, T b) {
  return ceil_div(a, b) * b;
}

}  // namespace lightsr
