// gated_feed_forward backward on the CPU, for every type.
#include "cpu_backward.h"

namespace lightsr {

void gated_feed_forward_backward_cpu(const GatedFeedForwardBackward& back) {
  switch (back.call.type) {
    case Type::float32:
      return feed_forward::Backward<float>(back).run();
    case Type::float64:
      return feed_forward::Backward<double>(back).run();
    case Type::float16:
      return feed_forward::Backward<Float16>(back).run();
    case Type::bfloat16:
      return feed_forward::Backward<BFloat16>(back).run();
  }
}

}  // namespace lightsr
