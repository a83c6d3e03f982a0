// gated_feed_forward backward on the CPU, for every type.
#include "cpu_backward.h"
#include "../common/by_type.h"

namespace lightsr {

void gated_feed_forward_backward_cpu(const GatedFeedForwardBackward& back) {
  by_type(back.call.type, [&]<class T>() { feed_forward::Backward<T>(back).run(); });
}

}  // namespace lightsr
