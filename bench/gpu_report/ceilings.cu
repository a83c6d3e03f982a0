// What the chip can do at most, without memory: multiply-adds in registers, and mma.sync on matrices in registers.
// Each function takes a few milliseconds and returns operations a second by events, or a negative CUDA error.
#include <cuda_runtime.h>

#include <cstdint>

namespace {

constexpr int chains = 8;  // independent ones, more than latency asks for with this many warps

__global__ void __launch_bounds__(256) multiply_adds(float* out, int steps) {
  float sums[chains];
  for (int i = 0; i < chains; ++i) sums[i] = threadIdx.x + i;
  const float factor = 0.999f + 1e-9f * threadIdx.x;
  for (int step = 0; step < steps; ++step) {
#pragma unroll
    for (int i = 0; i < chains; ++i) sums[i] = fmaf(sums[i], factor, 1e-3f);
  }
  float sum = 0;
  for (int i = 0; i < chains; ++i) sum += sums[i];
  if (sum == 12345.0f) *out = sum;  // never, and the compiler cannot know
}

__global__ void __launch_bounds__(256) matrix_products(float* out, int steps) {
  float sums[chains][4] = {};
  const uint32_t a[4] = {0x3c003c00u + threadIdx.x, 0x3c013c00u, 0x3c003c02u, 0x3c003c00u}, b[2] = {0x3c003c00u, a[0]};
  for (int step = 0; step < steps; ++step) {
#pragma unroll
    for (int i = 0; i < chains; ++i) {
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
          "{%0, %1, %2, %3};"
          : "+f"(sums[i][0]), "+f"(sums[i][1]), "+f"(sums[i][2]), "+f"(sums[i][3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
  }
  float sum = 0;
  for (int i = 0; i < chains; ++i) sum += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
  if (sum == 12345.0f) *out = sum;
}

template <class Kernel>
double rate(Kernel kernel, int steps, double operations_of_a_warp) {
  int device = 0, processors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  float* out = nullptr;
  cudaMalloc(&out, sizeof(float));
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  const int blocks = processors * 8, warps = blocks * 8;
  kernel<<<blocks, 256>>>(out, steps);
  cudaEventRecord(begin);
  kernel<<<blocks, 256>>>(out, steps);
  cudaEventRecord(end);
  const cudaError_t error = cudaEventSynchronize(end);
  float milliseconds = 0;
  cudaEventElapsedTime(&milliseconds, begin, end);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaFree(out);
  const cudaError_t last = error != cudaSuccess ? error : cudaGetLastError();
  return last != cudaSuccess ? -double(last) : operations_of_a_warp * warps * steps / (milliseconds / 1e3);
}

}  // namespace

extern "C" double ffma_rate() {
  return rate(multiply_adds, 20000, 2.0 * 32 * chains);
}
extern "C" double mma_sync_rate() {
  return rate(matrix_products, 10000, 2.0 * 16 * 8 * 16 * chains);
}
