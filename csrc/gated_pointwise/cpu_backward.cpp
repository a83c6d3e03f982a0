// The gradients of gated_pointwise on the CPU.
//
// Bound of a pixel at C = 52, E = 156, P = 16: 98 thousand multiply-adds, 27 of them those of the forward again, so
// that nothing of E channels is kept.
#include "../common/by_type.h"
#include "cpu_coarse_backward.h"
#include "cpu_inner.h"
#include "cpu_outer.h"

namespace lightsr {

void gated_pointwise_inner_cpu(const GatedPointwiseInner& pass) {
  by_type(pass.call.type, [&]<class T>() { gated::Inner<T>(pass).run(); });
}

void gated_pointwise_coarse_gradients_cpu(const GatedPointwiseCoarseGradients& pass) {
  by_type(pass.call.type, [&]<class T>() { gated::CoarseGradients<T>(pass).run(); });
}

void gated_pointwise_outer_cpu(const GatedPointwiseOuter& pass) {
  by_type(pass.call.type, [&]<class T>() { gated::Outer<T>(pass).run(); });
}

}  // namespace lightsr
