// distillation_fusion on the CPU, for every type.
//
// Bound: in times out_channels multiply-adds a pixel, twice as many on the way back (of pairs in bfloat16, half of them
// where the machine has such); for few channels the bytes of parts, residual and result.
#include "../common/by_type.h"
#include "cpu_backward.h"
#include "cpu_forward.h"

namespace lightsr {

void distillation_fusion_forward_cpu(const DistillationFusion& call) {
  by_type(call.type, [&]<class T>() { fusion::Forward<T>(call).run(); });
}

void distillation_fusion_backward_cpu(const DistillationFusionBackward& back) {
  by_type(back.call.type, [&]<class T>() { fusion::Backward<T>(back).run(); });
}

}  // namespace lightsr
