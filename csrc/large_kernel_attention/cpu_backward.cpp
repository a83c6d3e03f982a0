// The 1x1 convolutions and the gate of large_kernel_attention backward on the CPU, for every type.
#include "cpu_backward.h"
#include "../common/by_type.h"

namespace lightsr {

void large_kernel_attention_mix_backward_cpu(const LargeKernelAttentionMixBackward& call) {
  by_type(call.type, [&]<class T>() { attention::MixBackward<T>(call).run(); });
}

}  // namespace lightsr
