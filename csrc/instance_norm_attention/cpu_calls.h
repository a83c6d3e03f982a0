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

// Backward where planes have factors: affine_sums, what follows from them for planes, affine_gradient. Centre, scale,
// shift, constant, slope and sums of `affine` are made here; its grad_x may be null.
struct AttentionBackward {
  AffineBackward affine;
  Factors factors;
  // Of the parameters that `factors` has, in its type; null where nobody wants them.
  void *grad_norm_weight, *grad_norm_bias;  // [C]
  void *grad_down_weight, *grad_down_bias;  // [hidden, C], [hidden]
  void *grad_up_weight, *grad_up_bias;      // [C, hidden], [C]
};

void attention_backward_cpu(const AttentionBackward&);

}  // namespace lightsr
