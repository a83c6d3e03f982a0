// One call of the gated_feed_forward kernels: plain pointers and sizes.
#pragma once

#include "../common/types.h"

namespace lightsr {

// With n the layer norm over the channels of each pixel, 0 outside the picture:
//   a, b = depthwise 3x3 of in_weight n, each of `hidden` channels
//   out  = x + out_weight (gelu(a) b)
struct GatedFeedForward {
  Type type;           // of every tensor
  bool channels_last;  // the layout of x and out
  int64_t n, c, h, w;  // none of them 0
  int64_t hidden;      // M, at least 1
  double eps;
  const void* x;
  const void *norm_weight, *norm_bias;  // [c]
  const void* in_weight;                // [2 hidden, c]
  const void* depthwise_weight;         // [2 hidden, 3, 3]
  const void* out_weight;               // [c, hidden]
  void* out;
};

// What lies between the steps is computed again. Gradients of parameters are sums over all pixels, in a fixed order.
struct GatedFeedForwardBackward {
  GatedFeedForward call;        // without its result; n may be 0
  const void* grad;             // of the result, in the layout of x
  void* grad_x;                 // in the layout of x, or null: not wanted; so for all that follow
  void* grad_norm_weight;       // [c]
  void* grad_norm_bias;         // [c]
  void* grad_in_weight;         // [2 hidden, c]
  void* grad_depthwise_weight;  // [2 hidden, 3, 3]
  void* grad_out_weight;        // [c, hidden]
};

// cpu.cpp
void gated_feed_forward_cpu(const GatedFeedForward&);

// cpu_backward.cpp
void gated_feed_forward_backward_cpu(const GatedFeedForwardBackward&);

}  // namespace lightsr
