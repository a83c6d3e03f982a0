// Words every op's native code shares. Nothing of torch, nothing of CUDA.
#pragma once

#include <cstdint>

namespace lightsr {

enum class Type : int { float32, float64, float16, bfloat16 };

// In the order of ACTIVATIONS in lightsr_kernels/functional.py.
enum class Activation : int { none, relu, leaky_relu, gelu, silu, sigmoid };

}  // namespace lightsr
