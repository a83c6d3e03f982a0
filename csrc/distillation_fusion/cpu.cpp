// distillation_fusion on the CPU, for every type.
//
// Bound: in times out_channels multiply-adds a pixel, twice as many on the way back (of pairs in bfloat16, half of them
// where the machine has such); for few channels the bytes of parts, residual and result.
#include "cpu_backward.h"
#include "cpu_forward.h"

namespace lightsr {

void distillation_fusion_forward_cpu(const DistillationFusion& call) {
  switch (call.type) {
    case Type::float32:
      return fusion::Forward<float>(call).run();
    case Type::float64:
      return fusion::Forward<double>(call).run();
    case Type::float16:
      return fusion::Forward<Float16>(call).run();
    case Type::bfloat16:
      return fusion::Forward<BFloat16>(call).run();
  }
}

void distillation_fusion_backward_cpu(const DistillationFusionBackward& back) {
  switch (back.call.type) {
    case Type::float32:
      return fusion::Backward<float>(back).run();
    case Type::float64:
      return fusion::Backward<double>(back).run();
    case Type::float16:
      return fusion::Backward<Float16>(back).run();
    case Type::bfloat16:
      return fusion::Backward<BFloat16>(back).run();
  }
}

}  // namespace lightsr
