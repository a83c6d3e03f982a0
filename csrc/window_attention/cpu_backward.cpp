// window_attention backward on the CPU, for every type.
#include "cpu_backward.h"
#include "../common/by_type.h"

namespace lightsr {

void window_attention_backward_cpu(const WindowAttentionBackward& back) {
  by_type(back.call.type, [&]<class T>() { attention::Backward<T>(back).run(); });
}

}  // namespace lightsr
