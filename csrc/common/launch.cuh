// The one way a kernel is started: LIGHTSR_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...) gives 0 or
// the number of a cudaError_t. A kernel with template arguments stands in brackets of its own: (kernel<float, 7>).
#pragma once

#include "device.cuh"

#ifdef LIGHTSR_ON_CPU
#include "launch_on_cpu.h"
#else

#include <cuda_runtime_api.h>

namespace lightsr {

// More than 48 KB of shared memory has to be asked for; sm_80 has 163 KB for a block, sm_90 227 KB.
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, void* stream,
           const Arguments&... arguments) {
  if (shared_bytes > 48 * 1024) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  }
  // clang-format off
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(arguments...);
  // clang-format on
  return static_cast<int>(cudaGetLastError());
}

// Of the current device.
inline int multiprocessors() {
  int device = 0, count = 1;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

}  // namespace lightsr

#endif

#define LIGHTSR_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::lightsr::launch(kernel, grid, block, shared_bytes, stream, __VA_ARGS__)
