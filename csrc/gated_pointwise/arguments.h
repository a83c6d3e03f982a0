// The three passes of gated_pointwise, for the CPU and for CUDA: plain pointers and sizes.
//
// With n = norm_weight (x - mean) / sqrt(variance + eps) + norm_bias over the channels of each pixel:
//
//   entry   entered = entry_weight n + entry_bias
//   coarse  coarse = conv3x3(max7x7(conv3x3(entered, stride 2), stride 3)) with their biases
//   exit    m   = coarse, enlarged, + skip_weight entered + skip_bias
//           s   = relu6(weight_a n + bias_a) (weight_b n + bias_b)
//                 + (weight_c n + bias_c) sigmoid(exit_weight m + exit_bias)
//           out = out_weight s + out_bias
//
// Nothing non-linear stands between weight_c and the gate's entry, so entry_weight is the product of the two and the
// first pass needs nothing of E channels. What lies between the passes is small: P channels, on a coarse grid.
#pragma once

#include "../common/types.h"

namespace lightsr {

struct GatedPointwise {
  Type type;           // of every tensor
  bool channels_last;  // the layout of x, entered and out: dense [N, H, W, C], else dense [N, C, H, W]
  int64_t n, c, h, w;  // none of them 0
  int64_t expanded;    // E
  int64_t gate;        // P
  double eps;
  const void* x;
  const void *norm_weight, *norm_bias;  // [C]
};

struct GatedPointwiseEntry {
  GatedPointwise call;
  const void *weight, *bias;  // [P, C] and [P]
  void* entered;              // [N, P, H, W]
};

struct GatedPointwiseCoarse {
  GatedPointwise call;  // x and the norm are not read
  const void* entered;
  const void *stride_weight, *stride_bias;  // [P, P, 3, 3] and [P]
  const void *pool_weight, *pool_bias;      // likewise
  void* coarse;                             // float64 for float64, else float32: [N, coarse_h, coarse_w, P]
};

struct GatedPointwiseExit {
  GatedPointwise call;
  const void* entered;  // [N, P, H, W]
  int64_t coarse_h, coarse_w;
  const void* coarse;                   // as above; enlarged bilinearly, corners not aligned
  const void *weight_a, *bias_a;        // [E, C] and [E]
  const void *weight_b, *bias_b;        // likewise
  const void *weight_c, *bias_c;        // likewise
  const void *skip_weight, *skip_bias;  // [P, P] and [P]
  const void *exit_weight, *exit_bias;  // [E, P] and [E]
  const void *out_weight, *out_bias;    // [C, E] and [C]
  void* out;
};

// cpu.cpp
void gated_pointwise_entry_cpu(const GatedPointwiseEntry&);
void gated_pointwise_coarse_cpu(const GatedPointwiseCoarse&);
void gated_pointwise_exit_cpu(const GatedPointwiseExit&);

}  // namespace lightsr
