// Kernels that are wrong in one way each, and one of each kind that is right: what the harness itself is tried on.
#include "../../csrc/common/copy_async.cuh"
#include "../../csrc/common/divisor.cuh"
#include "../../csrc/common/launch.cuh"
#include "../../csrc/common/tensor_cores.cuh"
#include "calls.h"

namespace lightsr {
namespace {

// Every thread writes a number and reads its neighbour's.
__global__ void neighbours(const float* x, float* out, bool barrier) {
  auto* numbers = shared_memory<float>();
  numbers[threadIdx.x] = x[threadIdx.x];
  if (barrier) sync_threads();
  out[threadIdx.x] = numbers[(threadIdx.x + 1) % blockDim.x];
}

__global__ void shared_overrun(float* out, int at) {
  auto* numbers = shared_memory<float>();
  numbers[threadIdx.x] = 1.0f;
  sync_threads();
  if (threadIdx.x == 0) numbers[at] = 2.0f;
  sync_threads();
  out[threadIdx.x] = numbers[threadIdx.x];
}

__global__ void global_overrun(float* out, int at) {
  out[at] = 1.0f;
}

__global__ void unwritten_shared(float* out) {
  out[threadIdx.x] = shared_memory<float>()[threadIdx.x];
}

// Lanes from `lanes` on stay away.
__global__ void lone_shuffle(const float* x, float* out, int lanes) {
  float value = x[threadIdx.x];
  if (static_cast<int>(threadIdx.x) < lanes) value += shuffle_xor(value, 1);
  out[threadIdx.x] = value;
}

__global__ void lone_barrier(float* out, int threads) {
  if (static_cast<int>(threadIdx.x) < threads) sync_threads();
  out[threadIdx.x] = 1.0f;
}

__global__ void load_rows(const uint16_t* x, uint32_t* out, int shift) {
  auto* numbers = shared_memory<uint16_t>();
  for (int i = static_cast<int>(threadIdx.x); i < 32 * 8; i += 32) numbers[i] = x[i];
  sync_threads();
  uint32_t straight[4], turned[4];
  load_matrix_x4(straight, numbers + 8 * threadIdx.x + shift);
  load_matrix_x4_trans(turned, numbers + 8 * threadIdx.x + shift);
  for (int i = 0; i < 4; ++i) out[8 * threadIdx.x + i] = straight[i];
  for (int i = 0; i < 4; ++i) out[8 * threadIdx.x + 4 + i] = turned[i];
}

// out[16 x 8] = a[16 x depth] b[depth x 8], by the fragments of the PTX manual.
template <class T, int depth>
__global__ void multiply(const T* a, const T* b, float* out) {
  const int group = static_cast<int>(threadIdx.x) / 4, pair = static_cast<int>(threadIdx.x) % 4 * 2;
  const auto two = [](T low, T high) { return static_cast<uint32_t>(high.bits) << 16 | low.bits; };
  const auto left = [&](int row, int k) { return two(a[row * depth + k], a[row * depth + k + 1]); };
  const auto right = [&](int k) { return two(b[k * 8 + group], b[(k + 1) * 8 + group]); };
  float d[4] = {};
  if constexpr (depth == 16) {
    const uint32_t rows[4] = {left(group, pair), left(group + 8, pair), left(group, pair + 8),
                              left(group + 8, pair + 8)};
    const uint32_t columns[2] = {right(pair), right(pair + 8)};
    mma_m16n8k16<T>(d, rows, columns);
  } else {
    const uint32_t rows[2] = {left(group, pair), left(group + 8, pair)};
    mma_m16n8k8<T>(d, rows, right(pair));
  }
  for (int i = 0; i < 4; ++i) out[(group + i / 2 * 8) * 8 + pair + i % 2] = d[i];
}

// Copies through shared memory; `groups` of the two may still be under way when the numbers are read.
template <int groups>
__global__ void copy_through(const float* x, float* out, int shift) {
  auto* numbers = shared_memory<float>();
  const unsigned first = 4 * threadIdx.x, second = first + 128;
  copy_async_16(numbers + first + shift, x + first);
  copy_commit();
  copy_async_16(numbers + second + shift, x + second, threadIdx.x != 0);
  copy_commit();
  copy_wait<groups>();
  sync_threads();
  for (unsigned i = 0; i < 256; i += 32) out[i + threadIdx.x] = numbers[i + threadIdx.x];
  copy_wait<0>();
}

template <class T>
__global__ void convert(const float* x, T* narrow, float* wide, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    narrow[i] = from_sum<T>(x[i]);
    wide[i] = to_sum(narrow[i]);
  }
}

using on_cpu::Call;
using on_cpu::Entry;

const float* floats(Call& call) {
  return static_cast<const float*>(call.tensor());
}
float* result(Call& call) {
  return static_cast<float*>(call.tensor());
}

Entry entry_neighbours{"neighbours", [](Call& call) {
                         const bool barrier = call.integer() != 0;
                         const float* x = floats(call);
                         return LIGHTSR_LAUNCH(neighbours, 1, 64, 256, nullptr, x, result(call), barrier);
                       }};
Entry entry_shared{"shared_overrun", [](Call& call) {
                     const int at = static_cast<int>(call.integer());
                     return LIGHTSR_LAUNCH(shared_overrun, 1, 32, 128, nullptr, result(call), at);
                   }};
Entry entry_global{"global_overrun", [](Call& call) {
                     const int at = static_cast<int>(call.integer());
                     return LIGHTSR_LAUNCH(global_overrun, 1, 1, 0, nullptr, result(call), at);
                   }};
Entry entry_unwritten{"unwritten_shared",
                      [](Call& call) { return LIGHTSR_LAUNCH(unwritten_shared, 1, 32, 128, nullptr, result(call)); }};
Entry entry_shuffle{"lone_shuffle", [](Call& call) {
                      const int lanes = static_cast<int>(call.integer());
                      const float* x = floats(call);
                      return LIGHTSR_LAUNCH(lone_shuffle, 1, 32, 0, nullptr, x, result(call), lanes);
                    }};
Entry entry_barrier{"lone_barrier", [](Call& call) {
                      const int lanes = static_cast<int>(call.integer());
                      return LIGHTSR_LAUNCH(lone_barrier, 1, 64, 0, nullptr, result(call), lanes);
                    }};
Entry entry_rows{"load_rows", [](Call& call) {
                   const int shift = static_cast<int>(call.integer());
                   auto* x = static_cast<const uint16_t*>(call.tensor());
                   auto* out = static_cast<uint32_t*>(call.tensor());
                   return LIGHTSR_LAUNCH(load_rows, 1, 32, 1024, nullptr, x, out, shift);
                 }};

template <class T>
int multiply_by_depth(Call& call) {
  const bool deep = call.integer() == 16;
  auto* a = static_cast<const T*>(call.tensor());
  auto* b = static_cast<const T*>(call.tensor());
  if (deep) return LIGHTSR_LAUNCH((multiply<T, 16>), 1, 32, 0, nullptr, a, b, result(call));
  return LIGHTSR_LAUNCH((multiply<T, 8>), 1, 32, 0, nullptr, a, b, result(call));
}
Entry entry_multiply_half{"multiply_float16", multiply_by_depth<Half>};
Entry entry_multiply_bfloat16{"multiply_bfloat16", multiply_by_depth<BFloat16>};

Entry entry_copy{"copy_through", [](Call& call) {
                   const bool wait = call.integer() != 0;
                   const int shift = static_cast<int>(call.integer());
                   const float* x = floats(call);
                   if (wait) return LIGHTSR_LAUNCH(copy_through<0>, 1, 32, 1040, nullptr, x, result(call), shift);
                   return LIGHTSR_LAUNCH(copy_through<1>, 1, 32, 1040, nullptr, x, result(call), shift);
                 }};

template <class T>
int convert_all(Call& call) {
  const int count = static_cast<int>(call.integer());
  const float* x = floats(call);
  T* narrow = static_cast<T*>(call.tensor());
  return LIGHTSR_LAUNCH(convert<T>, 1, 64, 0, nullptr, x, narrow, result(call), count);
}
Entry entry_convert_half{"convert_float16", convert_all<Half>};
Entry entry_convert_bfloat16{"convert_bfloat16", convert_all<BFloat16>};

Entry entry_divide{"divide", [](Call& call) {
                     const int64_t n = call.integer();
                     const Divisor by(call.integer());
                     auto* out = static_cast<int64_t*>(call.tensor());
                     out[0] = by.split(n, out[1]);
                     if ((n | by.by()) >> 31 != 0) return 0;
                     int rest;
                     const int quotient = by.split(static_cast<int>(n), rest);
                     return quotient == out[0] && rest == out[1] ? 0 : 1;
                   }};

}  // namespace
}  // namespace lightsr
