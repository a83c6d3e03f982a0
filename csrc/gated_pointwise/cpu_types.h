// A pass for the type of its call.
#pragma once

#include "../common/simd.h"
#include "arguments.h"

namespace lightsr::gated {

// Runs run(type), with a number of the type of the call's tensors.
template <class Run>
void for_type(const GatedPointwise& call, const Run& run) {
  switch (call.type) {
    case Type::float32:
      return run(float{});
    case Type::float64:
      return run(double{});
    case Type::float16:
      return run(Float16{});
    case Type::bfloat16:
      return run(BFloat16{});
  }
}

}  // namespace lightsr::gated
