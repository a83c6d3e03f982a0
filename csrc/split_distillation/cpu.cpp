// split_distillation on the CPU, for every type.
//
// Bound: the bytes of x, residual and results; split D (+ D D) multiply-adds a pixel beside them, three times as many
// (four with sums over pixels) on the way back.
#include "cpu_backward.h"
#include "cpu_forward.h"

namespace lightsr {

void split_distillation_forward_cpu(const SplitDistillation& call) {
  switch (call.type) {
    case Type::float32:
      return distillation::Forward<float>(call).run();
    case Type::float64:
      return distillation::Forward<double>(call).run();
    case Type::float16:
      return distillation::Forward<Float16>(call).run();
    case Type::bfloat16:
      return distillation::Forward<BFloat16>(call).run();
  }
}

void split_distillation_backward_cpu(const SplitDistillationBackward& back) {
  switch (back.call.type) {
    case Type::float32:
      return distillation::Backward<float>(back).run();
    case Type::float64:
      return distillation::Backward<double>(back).run();
    case Type::float16:
      return distillation::Backward<Float16>(back).run();
    case Type::bfloat16:
      return distillation::Backward<BFloat16>(back).run();
  }
}

}  // namespace lightsr
