// window_attention backward on the CPU, for every type.
#include "cpu_backward.h"

namespace lightsr {

void window_attention_backward_cpu(const WindowAttentionBackward& back) {
  switch (back.call.type) {
    case Type::float32:
      return attention::Backward<float>(back).run();
    case Type::float64:
      return attention::Backward<double>(back).run();
    case Type::float16:
      return attention::Backward<Float16>(back).run();
    case Type::bfloat16:
      return attention::Backward<BFloat16>(back).run();
  }
}

}  // namespace lightsr
