// split_distillation on the CPU, for every type.
//
// Bound: the bytes of x, residual and results; split D (+ D D) multiply-adds a pixel beside them, three times as many
// (four with sums over pixels) on the way back.
#include "../common/by_type.h"
#include "cpu_backward.h"
#include "cpu_forward.h"

namespace lightsr {

void split_distillation_forward_cpu(const SplitDistillation& call) {
  by_type(call.type, [&]<class T>() { distillation::Forward<T>(call).run(); });
}

void split_distillation_backward_cpu(const SplitDistillationBackward& back) {
  by_type(back.call.type, [&]<class T>() { distillation::Backward<T>(back).run(); });
}

}  // namespace lightsr
