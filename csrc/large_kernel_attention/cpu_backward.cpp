// The 1x1 convolutions and the gate of large_kernel_attention backward on the CPU, for every type.
#include "cpu_backward.h"

namespace lightsr {

void large_kernel_attention_mix_backward_cpu(const LargeKernelAttentionMixBackward& call) {
  switch (call.type) {
    case Type::float32:
      return attention::MixBackward<float>(call).run();
    case Type::float64:
      return attention::MixBackward<double>(call).run();
    case Type::float16:
      return attention::MixBackward<Float16>(call).run();
    case Type::bfloat16:
      return attention::MixBackward<BFloat16>(call).run();
  }
}

}  // namespace lightsr
