// One call of the kernel for the gradients of dense_conv's filters and bias: plain pointers and sizes.
#pragma once

#include "../common/types.h"

namespace lightsr {

// grad_weight[o, i, a, b] = sum over n, y, x of grad[n, o, y, x] * x[n, i, y + a - kh/2, x + b - kw/2], x being 0
// outside; grad_bias[o] = sum of grad[:, o]. Sums in float32 (float64 for float64), long ones in float64, in an order
// that depends on nothing but the sizes.
struct DenseConvWeight {
  Type type;                   // of every tensor
  bool channels_last;          // of x and grad alike: dense [N, H, W, C], else dense [N, C, H, W]
  int64_t n, ins, outs, h, w;  // none of them 0
  int kh, kw;                  // odd, 1 to 7
  const void* x;               // [N, ins, H, W]
  const void* grad;            // [N, outs, H, W]
  void* grad_weight;           // [outs, ins, KH, KW]
  void* grad_bias;             // [outs] or null
};

// cpu_weight.cpp
void dense_conv_backward_weight_cpu(const DenseConvWeight&);

}  // namespace lightsr
