// instance_norm_attention and its relatives on the CPU, backward.
//
// The floor is what has to be moved: grad and x are read for the gradient of the gate, then for the sums over planes,
// then for the gradient of x, which is written. Of planes or pictures that fit a cache the last two readings are one
// (cpu_backward_all.h).
#include "cpu_backward_all.h"

namespace lightsr {

namespace passes = instance_norm_attention;

void gate_gradient_cpu(const AffineBackward& call) {
  passes::run_as<passes::GateGradientPass>(call);
}

void affine_sums_cpu(const AffineBackward& call) {
  passes::run_as<passes::AffineSumsPass>(passes::apart(call));
}

void affine_gradient_cpu(const AffineBackward& call) {
  passes::run_as<passes::AffineGradientPass>(passes::apart(call));
}

void attention_backward_cpu(const AttentionBackward& call) {
  passes::run_as<passes::WholeBackwardPass>(call, call.affine);
}

}  // namespace lightsr
