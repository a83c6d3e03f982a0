// attention_maps backward on the CPU, for every type.
#include "cpu_backward.h"

namespace lightsr {

void attention_maps_backward_cpu(const AttentionMapsBackward& back) {
  switch (back.call.type) {
    case Type::float32:
      return attention::MapsBackward<float>(back).run();
    case Type::float64:
      return attention::MapsBackward<double>(back).run();
    case Type::float16:
      return attention::MapsBackward<Float16>(back).run();
    case Type::bfloat16:
      return attention::MapsBackward<BFloat16>(back).run();
  }
}

}  // namespace lightsr
