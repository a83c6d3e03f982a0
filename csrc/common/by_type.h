// CPU code for the type of a call's numbers.
#pragma once

#include <type_traits>

#include "simd.h"
#include "types.h"

namespace lightsr {

// What numbers of a type are computed in.
template <class S>
using Wide = std::conditional_t<std::is_same_v<S, double>, double, float>;

// Calls run<S>() for the type that a call has its numbers in.
template <class Run>
void by_type(Type type, const Run& run) {
  switch (type) {
    case Type::float32:
      return run.template operator()<float>();
    case Type::float64:
      return run.template operator()<double>();
    case Type::float16:
      return run.template operator()<Float16>();
    case Type::bfloat16:
      return run.template operator()<BFloat16>();
  }
}

}  // namespace lightsr
