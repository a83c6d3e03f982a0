// The gradients of gated_pointwise on the CPU.
//
// Bound of a pixel at C = 52, E = 156, P = 16: 98 thousand multiply-adds, 27 of them those of the forward again, so
// that nothing of E channels is kept.
#include "cpu_coarse_backward.h"
#include "cpu_inner.h"
#include "cpu_outer.h"
#include "cpu_types.h"

namespace lightsr {

void gated_pointwise_inner_cpu(const GatedPointwiseInner& pass) {
  gated::for_type(pass.call, [&](auto number) { gated::Inner<decltype(number)>(pass).run(); });
}

void gated_pointwise_coarse_gradients_cpu(const GatedPointwiseCoarseGradients& pass) {
  gated::for_type(pass.call, [&](auto number) { gated::CoarseGradients<decltype(number)>(pass).run(); });
}

void gated_pointwise_outer_cpu(const GatedPointwiseOuter& pass) {
  gated::for_type(pass.call, [&](auto number) { gated::Outer<decltype(number)>(pass).run(); });
}

}  // namespace lightsr
