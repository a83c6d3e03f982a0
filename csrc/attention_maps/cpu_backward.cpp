// attention_maps backward on the CPU, for every type.
#include "cpu_backward.h"
#include "../common/by_type.h"

namespace lightsr {

void attention_maps_backward_cpu(const AttentionMapsBackward& back) {
  by_type(back.call.type, [&]<class T>() { attention::MapsBackward<T>(back).run(); });
}

}  // namespace lightsr
