// csrc/common/launch.cuh on a CPU: the blocks one after another, in an order that the seed decides.
#pragma once

#include "device_on_cpu.h"

namespace lightsr {
namespace on_cpu {

void run_grid(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, void (*thread)(const void*),
              const void* arguments);

}  // namespace on_cpu

template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, void*,
           const Arguments&... arguments) {
  auto call = [kernel, &arguments...] { kernel(arguments...); };
  using Call = decltype(call);
  on_cpu::run_grid(
      reinterpret_cast<const void*>(kernel), grid, block, shared_bytes,
      [](const void* each) { (*static_cast<const Call*>(each))(); }, &call);
  return 0;
}

inline int multiprocessors() {
  return 132;
}

}  // namespace lightsr
