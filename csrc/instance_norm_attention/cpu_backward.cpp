// instance_norm_attention and its relatives on the CPU, backward.
//
// The floor is what has to be moved: grad and x are read for the gradient of the gate, then for the sums over planes,
// then for the gradient of x, which is written; for a norm alone they are read once (cpu_norm_backward.h).
#include "cpu_norm_backward.h"

namespace lightsr {

namespace passes = instance_norm_attention;

// Without a gate planes know nothing of each other: each as a picture of one channel, whose pixels lie in one run.
static AffineBackward apart(AffineBackward call) {
  if (!call.gate && !call.channels_last) {
    call.n *= call.c;
    call.c = 1;
  }
  return call;
}

void gate_gradient_cpu(const AffineBackward& call) {
  passes::run_as<passes::GateGradientPass>(call);
}

void affine_sums_cpu(const AffineBackward& call) {
  passes::run_as<passes::AffineSumsPass>(apart(call));
}

void affine_gradient_cpu(const AffineBackward& call) {
  passes::run_as<passes::AffineGradientPass>(apart(call));
}

void norm_backward_cpu(const NormBackward& call) {
  const NormBackward planes{apart(call.affine), call.mean, call.variance, call.eps};
  passes::run_as<passes::NormBackwardPass>(planes, planes.affine);
}

}  // namespace lightsr
