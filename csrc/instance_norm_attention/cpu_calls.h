// Several passes in one call, for the CPU, where what one pass has read is still in a cache for the next.
#pragma once

#include "arguments.h"

namespace lightsr {

// affine.pooled and its centre, scale and shift are made here, and whatever of these four is null is made and
// forgotten.
struct AttentionForward {
  Moments moments;  // read where there are factors
  bool has_factors;
  Factors factors;
  GatedAffine affine;
  void* pooled;  // wide [N, 2, H, W] or null
};

void attention_forward_cpu(const AttentionForward&);

// Backward of a norm alone: `affine` with sums and grad_x, and neither gate nor residual.
struct NormBackward {
  AffineBackward affine;
  const double *mean, *variance;  // [N, C]
  double eps;
};

void norm_backward_cpu(const NormBackward&);

}  // namespace lightsr
